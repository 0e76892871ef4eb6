//! One execution for one `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07), where the caller waits for
//! the answer: what requests with a key were answered is remembered, for a while and within bounds.
//!
//! By this replica only, and not beyond its end; jobs that are [deferred](super::later) have one execution across
//! replicas. A request that was not brought to its end, or whose answer says to come again, is forgotten.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::answer::Problem;

pub(super) const HEADER: &str = "idempotency-key";
/// The longest key, in bytes.
pub(super) const LONGEST: usize = 255;
/// How long an answer is remembered, and how many, and how many bytes of them.
const REMEMBERED: Duration = Duration::from_secs(3600);
const MOST: usize = 10_000;
const MOST_BYTES: usize = 64 << 20;

/// A hash: of a caller, its key and a path; or of what was asked.
pub(super) type Hash = [u8; 32];

pub(super) fn hash<const N: usize>(parts: [&[u8]; N]) -> Hash {
    let mut hash = Sha256::new();
    for part in parts {
        // With their lengths, so that nothing can move from one to the next.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// The request's idempotency key together with its caller and path.
pub(super) fn key(headers: &HeaderMap, path: &str) -> Result<Option<Hash>, Problem> {
    let Some(key) = headers.get(HEADER) else {
        return Ok(None);
    };
    if key.is_empty() || key.len() > LONGEST {
        let detail = format!("{HEADER} should have 1 to {LONGEST} characters");
        return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
    }
    let of = |name: HeaderName| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let caller = [of(AUTHORIZATION), of(HeaderName::from_static("x-api-key"))].concat();
    Ok(Some(hash([key.as_bytes(), &caller, path.as_bytes()])))
}

/// Another request was made under the key.
pub(super) fn differs() -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, format!("another request was made with this {HEADER}"))
}

/// What was answered under keys. A mutex, because requests' tasks come and go on their own.
#[derive(Default)]
pub(super) struct Once(Mutex<State>);

#[derive(Default)]
struct State {
    known: HashMap<Hash, Known>,
    /// What was answered, oldest first.
    answered: VecDeque<(Instant, Hash)>,
    bytes: usize,
}

struct Known {
    asked: Hash,
    /// Nothing while it runs.
    answer: Option<Bytes>,
}

/// What a request with a key is.
pub(super) enum Request {
    /// The first of its key, to be run.
    First(Turn),
    /// One that was answered with this.
    Known(Bytes),
}

/// The right to run the first request of a key. Dropped without an answer, the key is forgotten.
pub(super) struct Turn {
    once: Arc<Once>,
    key: Hash,
}

impl Once {
    /// A request that asks for `asked` under `key`. A problem if one under that key runs now, or asked for something
    /// else.
    pub(super) fn begin(self: &Arc<Self>, key: Hash, asked: Hash, now: Instant) -> Result<Request, Problem> {
        let mut state = self.lock();
        state.forget_old(now);
        match state.known.get(&key) {
            Some(known) if known.asked != asked => Err(differs()),
            Some(Known { answer: Some(answer), .. }) => Ok(Request::Known(answer.clone())),
            Some(_) => {
                let detail = format!("a request with this {HEADER} is at work; ask again for its answer");
                Err(Problem::new(StatusCode::CONFLICT, detail))
            }
            None => {
                state.known.insert(key, Known { asked, answer: None });
                Ok(Request::First(Turn { once: self.clone(), key }))
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_old(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.answered.front() {
            let too_many = self.answered.len() > MOST || self.bytes > MOST_BYTES;
            if !too_many && now.saturating_duration_since(at) < REMEMBERED {
                return;
            }
            self.answered.pop_front();
            let gone = self.known.remove(&key).and_then(|known| known.answer);
            self.bytes -= gone.map_or(0, |answer| answer.len());
        }
    }
}

impl Turn {
    /// It was answered with a result, which whoever asks again will get.
    pub(super) fn answered(self, answer: Bytes, now: Instant) {
        let mut state = self.once.lock();
        if let Some(known) = state.known.get_mut(&self.key) {
            known.answer = Some(answer.clone());
            state.bytes += answer.len();
            state.answered.push_back((now, self.key));
            state.forget_old(now);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.once.lock();
        if state.known.get(&self.key).is_some_and(|known| known.answer.is_none()) {
            state.known.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(request: Result<Request, Problem>) -> Turn {
        match request {
            Ok(Request::First(turn)) => turn,
            _ => panic!("it is not the first"),
        }
    }

    #[test]
    fn the_first_runs_and_the_others_get_its_answer() {
        let (once, now) = (Arc::new(Once::default()), Instant::now());
        let turn = first(once.begin([1; 32], [7; 32], now));
        let status = |request: Result<Request, Problem>| request.err().map(|problem| problem.into_response().status());
        assert_eq!(status(once.begin([1; 32], [7; 32], now)), Some(StatusCode::CONFLICT));
        assert_eq!(status(once.begin([1; 32], [8; 32], now)), Some(StatusCode::UNPROCESSABLE_ENTITY));
        drop(first(once.begin([2; 32], [7; 32], now)));
        drop(first(once.begin([2; 32], [9; 32], now)));
        turn.answered(Bytes::from_static(b"42"), now);
        assert!(matches!(once.begin([1; 32], [7; 32], now), Ok(Request::Known(answer)) if answer == "42"));
        assert_eq!(status(once.begin([1; 32], [8; 32], now)), Some(StatusCode::UNPROCESSABLE_ENTITY));
        drop(first(once.begin([1; 32], [7; 32], now + REMEMBERED)));
    }

    #[test]
    fn what_is_hashed_cannot_move_between_the_parts() {
        assert_ne!(hash([b"ab", b"c"]), hash([b"a", b"bc"]));
    }

    #[test]
    fn no_more_is_remembered_than_the_bounds_allow() {
        let (once, now) = (Arc::new(Once::default()), Instant::now());
        let answer = Bytes::from(vec![0; MOST_BYTES / 4]);
        for n in 0..9 {
            first(once.begin([n; 32], [0; 32], now)).answered(answer.clone(), now);
            let state = once.lock();
            assert!(state.bytes <= MOST_BYTES && state.known.len() == state.answered.len());
        }
        assert_eq!(once.lock().known.len(), 4);
        assert!(matches!(once.begin([8; 32], [0; 32], now), Ok(Request::Known(_))), "the newest are kept");
    }
}
