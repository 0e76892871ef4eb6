//! Numbers as the bytes that they are saved as: the lowest byte first, on every machine.
//!
//! Owns the two widths that saved states have. A number that is no integer is saved by its bits, so that it comes back
//! as it was. What the numbers mean is not known here.

use forebay::{Bytes, Context, Error, Result};

/// Numbers as bytes.
pub(crate) fn to_bytes(values: impl IntoIterator<Item = u64>) -> Vec<u8> {
    values.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// The other way; `name` is named by the error.
pub(crate) fn of_bytes(name: &str, bytes: &Bytes) -> Result<Vec<u64>> {
    let (words, rest) = bytes.as_chunks::<8>();
    whole(name, bytes, rest)?;
    Ok(words.iter().map(|word| u64::from_le_bytes(*word)).collect())
}

/// Values of 32 bits as bytes.
pub(crate) fn floats_to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The other way; `name` is named by the error.
pub(crate) fn floats_of_bytes(name: &str, bytes: &[u8]) -> Result<Vec<f32>> {
    let (words, rest) = bytes.as_chunks::<4>();
    whole(name, bytes, rest)?;
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

fn whole(name: &str, bytes: &[u8], rest: &[u8]) -> Result<()> {
    if rest.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("{} bytes are no whole number of values", bytes.len())))
        .with_context(|| format!("the saved part `{name}`"))
}
