//! A request whose body is watched: broken off when it does not move, left alone as long as it does.
//!
//! A lane is given on as soon as the body's last byte is taken, so that the link is not idle while stores answer.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::fault;
use super::part::Pulse;
use super::wire::BUFFER;
use crate::error::{Error, Result};
use crate::flow::{Direction, Flow};
use crate::store::transfer::{Lane, MOVES_WITHIN};

/// The answer after the last byte, besides what is still on its way; more after each failure.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What may be on its way when the last byte was taken.
const ON_ITS_WAY: f64 = (BUFFER + (256 << 10)) as f64;
/// How often what is under way is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Waits for a call whose body is watched, and tells how it went.
pub(super) async fn watched<T>(
    call: impl Future<Output = Result<T>>,
    pulse: &Pulse,
    lane: Lane,
    failures: u32,
) -> Result<T> {
    let began = Instant::now();
    let answer = answered(call, pulse, lane, failures).await;
    match &answer {
        Ok(_) => Flow::of_process().moved(Direction::Upload, pulse.moved(), began.elapsed()),
        // A store that says why it did nothing has answered well.
        Err(why) if fault::said(why).is_none_or(|said| !said.is_sure()) => {
            Flow::of_process().failed(Direction::Upload);
        }
        Err(_) => {}
    }
    answer
}

/// As long as the body moves, and for a while after its last byte.
async fn answered<T>(call: impl Future<Output = Result<T>>, pulse: &Pulse, lane: Lane, failures: u32) -> Result<T> {
    let mut call = std::pin::pin!(call);
    let mut lane = Some(lane);
    let began = Instant::now();
    let mut answered_by = None;
    loop {
        tokio::select! {
            biased;
            answer = &mut call => return answer,
            () = pulse.sent(), if lane.is_some() => {
                lane = None;
                let rate = pulse.moved() as f64 / began.elapsed().as_secs_f64();
                let on_its_way = Duration::try_from_secs_f64(2.0 * ON_ITS_WAY.min(pulse.moved() as f64) / rate.max(1.0));
                let wait = ANSWER_WITHIN * 2u32.pow(failures.min(3)) + on_its_way.unwrap_or(MOVES_WITHIN);
                answered_by = Some(Instant::now() + wait);
            }
            () = sleep(LOOK) => {}
        }
        match answered_by {
            Some(by) if Instant::now() > by => {
                return Err(Error::transient("all was sent, but no answer came"));
            }
            None if pulse.is_stalled() => {
                return Err(Error::transient(format_args!("nothing moved for {MOVES_WITHIN:?}")));
            }
            _ => {}
        }
    }
}
