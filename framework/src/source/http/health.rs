//! What probes are told. Answered on the server's own thread, from what is in memory.

use axum::http::StatusCode;

use crate::source::Phase;

/// Whether the worker has started: its models are warm.
pub(super) fn startup(phase: Phase) -> Result<(), &'static str> {
    match phase {
        Phase::Starting => Err("starting: the models are not loaded yet"),
        _ => Ok(()),
    }
}

/// Whether it takes requests.
pub(super) fn ready(phase: Phase, has_room: bool) -> Result<(), &'static str> {
    startup(phase)?;
    match phase {
        Phase::Ready if has_room => Ok(()),
        Phase::Ready => Err("busy: a request would not be answered in time"),
        _ => Err("draining: the worker was told to stop"),
    }
}

/// The answer to a probe, with how many requests are inside.
pub(super) fn answer(state: Result<(), &'static str>, inside: usize) -> (StatusCode, String) {
    let (status, why) = match state {
        Ok(()) => (StatusCode::OK, "ok"),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
    };
    (status, format!("{why}; {inside} inside\n"))
}
