//! What the folder worker makes of a file: several times as large, and no two alike, so that a torn or mixed-up
//! result shows.

/// The result of a file's content.
pub fn worked(content: &[u8]) -> Vec<u8> {
    let reversed: Vec<u8> = content.iter().rev().copied().collect();
    let mut result = format!("{} bytes\n", content.len()).into_bytes();
    (0..5).for_each(|_| result.extend(&reversed));
    result
}
