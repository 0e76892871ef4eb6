//! Sizes as people write them: whole numbers with a unit, decimal or binary.

/// `300MB`, `64KiB`, `1000`.
pub fn size(text: &str) -> Result<u64, &'static str> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit: u64 = match text[digits..].trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err("want a size such as 300MB or 64MiB"),
    };
    let number: Option<u64> = text[..digits].parse().ok().and_then(|number: u64| number.checked_mul(unit));
    number.filter(|size| *size > 0).ok_or("want a size such as 300MB or 64MiB, more than nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [("300MB", 300_000_000), ("64MiB", 64 << 20), ("1000", 1000), ("2 GB", 2_000_000_000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "0", "MB", "10 bananas", "-1", "99999999999GB"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
