//! What references lead to, tried by those who want them to lead elsewhere.

use super::*;
use crate::error::Fault;
use crate::store::Memory;

#[cfg(feature = "https")]
mod answers;
mod assets;
mod folders;
mod paths;
#[cfg(feature = "https")]
mod server;
#[cfg(feature = "https")]
mod ssrf;
mod stages;

fn reference(text: impl AsRef<str>) -> Reference {
    text.as_ref().parse().unwrap()
}

/// Bytes that are at each place others than at the next.
fn noise(len: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(7);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes.into()
}

/// An error of this fault that says this, and nothing secret.
#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T>, fault: Fault, says: &str) {
    let why = result.unwrap_err();
    assert_eq!(why.fault(), fault, "{why}");
    assert!(why.to_string().contains(says), "{why}");
    assert!(!format!("{why} {why:?}").contains("hunter2"), "{why}");
}
