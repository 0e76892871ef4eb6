//! The fence around user code: a panic becomes an [`Error`], and the thread lives on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::warn;

use crate::error::{Error, Result};

#[cfg(panic = "abort")]
compile_error!("forebay fences panics of user code and needs `panic = \"unwind\"`");

/// Runs `f`; a panic in it becomes a failed result. What `f` borrowed mutably must not be used after a panic, or be
/// made anew.
pub(crate) fn fence<T>(f: impl FnOnce() -> Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(Failure::Error),
        Err(payload) => Err(Failure::Panic(panicked(&*payload))),
    }
}

/// Runs what can panic only where it drops what is the user's, which is logged: nobody waits for it any more.
pub(crate) fn fence_drop(f: impl FnOnce()) {
    let dropped = || {
        f();
        Ok(())
    };
    if let Err(failure) = fence(dropped) {
        warn!(error = %failure.into_error(), "a value panicked as it was dropped");
    }
}

/// How fenced code failed.
pub(crate) enum Failure {
    Error(Error),
    Panic(Error),
}

impl Failure {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Failure::Error(error) | Failure::Panic(error) => error,
        }
    }
}

/// The error that a panic's payload tells.
pub(crate) fn panicked(payload: &(dyn Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    Error::failed(format_args!("panicked: {text}"))
}
