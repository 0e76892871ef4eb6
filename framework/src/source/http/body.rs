//! A request's body, read whole under limits of size and slowness.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::EXPECT;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::{timeout, timeout_at};

/// A body must bring this many bytes a second, counted from `SLACK` after its request.
const SLOWEST: f64 = 1024.0;
const SLACK: Duration = Duration::from_secs(10);
/// The longest pause between two pieces.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How much of a body that is not wanted is read, and for how long.
const DISCARD_BYTES: usize = 64 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_millis(500);

/// Why a body was not read.
#[derive(Debug)]
pub(super) enum Unread {
    TooLarge,
    TooSlow,
    /// It cannot be decompressed, or its framing is broken.
    Broken(String),
}

/// How long so many bytes may take to come.
pub(super) fn time_for(bytes: usize) -> Duration {
    SLACK + Duration::from_secs_f64(bytes as f64 / SLOWEST)
}

/// Reads a body of at most `limit` bytes.
pub(super) async fn read(mut body: Body, limit: usize) -> Result<Bytes, Unread> {
    let start = Instant::now();
    let mut whole = Vec::new();
    loop {
        let until = (start + time_for(whole.len())).min(Instant::now() + LONGEST_PAUSE);
        let frame = match timeout_at(until.into(), body.frame()).await {
            Err(_) => return Err(Unread::TooSlow),
            Ok(None) => return Ok(whole.into()),
            Ok(Some(Err(why))) => return Err(broken(&why)),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let length = whole.len() + piece.len();
        if length > limit {
            return Err(Unread::TooLarge);
        }
        // Most bodies come in one piece.
        if whole.is_empty() && body.is_end_stream() {
            return Ok(piece);
        }
        if length > whole.capacity() {
            // Twice as much each time, but never room for more than may come.
            let room = whole.capacity().saturating_mul(2).min(limit).max(length);
            whole.reserve_exact(room - whole.len());
        }
        whole.extend_from_slice(&piece);
    }
}

/// Reads a small body that is not wanted, so that the connection can serve the next request. A caller who waits to be
/// told before he sends it is not; the connection ends.
pub(super) async fn discard(headers: &HeaderMap, body: Body) {
    if !headers.contains_key(EXPECT) {
        let read = read(body, DISCARD_BYTES);
        // One that is larger or slower is not worth its connection.
        let _ = timeout(DISCARD_WITHIN, read).await;
    }
}

fn broken(why: &axum::Error) -> Unread {
    let mut next: Option<&dyn std::error::Error> = Some(why);
    while let Some(error) = next {
        if error.is::<http_body_util::LengthLimitError>() {
            return Unread::TooLarge;
        }
        next = error.source();
    }
    Unread::Broken(why.to_string())
}
