//! Calls that take up to ten messages at once: entries of many jobs wait a few milliseconds for each other.
//!
//! Each entry hears of its own outcome. An entry that nobody waits for any more is left out, so that nothing is asked
//! for on behalf of a job that has gone on. A call that hangs holds up only those that are in it.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::fault::Refused;
use crate::error::{Error, Result};

/// Entries in one call.
pub(super) const MOST: usize = 10;
/// How long the first entry waits for others.
const LINGER: Duration = Duration::from_millis(5);
/// Entries that wait to be collected; whoever brings more waits.
const WAITING: usize = 1024;
/// Calls under way. Each ends by its deadline.
const AT_ONCE: usize = 32;

/// What became of one entry.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Done,
    Refused(Refused),
}

/// Takes entries, and ends with its last handle.
pub(super) struct Batch<E>(mpsc::Sender<Entry<E>>);

struct Entry<E> {
    what: E,
    within: Duration,
    answer: oneshot::Sender<Result<Answer>>,
}

impl<E: Send + 'static> Batch<E> {
    /// `call` is given entries and how long it may take; it answers for each of them, in order.
    pub(super) fn start<C, F>(call: C) -> Self
    where
        C: Fn(Vec<E>, Duration) -> F + Send + 'static,
        F: Future<Output = Result<Vec<Answer>>> + Send + 'static,
    {
        let (sender, entries) = mpsc::channel(WAITING);
        tokio::spawn(collect(entries, call));
        Batch(sender)
    }

    /// Adds an entry to the next call, which may take so long.
    pub(super) async fn add(&self, what: E, within: Duration) -> Result<Answer> {
        let (answer, answered) = oneshot::channel();
        let gone = || Error::transient("the calls to the queue have been cut off");
        self.0.send(Entry { what, within, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn collect<E, C, F>(mut entries: mpsc::Receiver<Entry<E>>, call: C)
where
    E: Send + 'static,
    C: Fn(Vec<E>, Duration) -> F,
    F: Future<Output = Result<Vec<Answer>>> + Send + 'static,
{
    let mut calls = JoinSet::new();
    while let Some(first) = entries.recv().await {
        let mut batch = vec![first];
        let end = Instant::now() + LINGER;
        while batch.len() < MOST {
            tokio::select! {
                biased;
                entry = entries.recv() => match entry {
                    Some(entry) => batch.push(entry),
                    None => break,
                },
                () = sleep_until(end) => break,
            }
        }
        while calls.len() >= AT_ONCE {
            calls.join_next().await;
        }
        while calls.try_join_next().is_some() {}
        batch.retain(|entry| !entry.answer.is_closed());
        let Some(within) = batch.iter().map(|entry| entry.within).min() else {
            continue;
        };
        let (what, answers): (Vec<E>, Vec<_>) = batch.into_iter().map(|entry| (entry.what, entry.answer)).unzip();
        let answered = call(what, within);
        calls.spawn(async move { tell(answers, answered.await) });
    }
    while calls.join_next().await.is_some() {}
}

/// Tells each entry what became of it. Those that have gone meanwhile do not hear it.
fn tell(waiting: Vec<oneshot::Sender<Result<Answer>>>, answered: Result<Vec<Answer>>) {
    match answered {
        Ok(answers) => {
            for (waits, answer) in waiting.into_iter().zip(answers) {
                let _ = waits.send(Ok(answer));
            }
        }
        Err(why) => {
            for waits in waiting {
                let _ = waits.send(Err(why.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    type Calls = Arc<Mutex<Vec<Vec<u32>>>>;

    /// Refuses odd numbers, hangs on 100 and fails on 200.
    fn batch() -> (Batch<u32>, Calls) {
        let calls = Calls::default();
        let noted = calls.clone();
        let batch = Batch::start(move |entries: Vec<u32>, within| {
            noted.lock().unwrap().push(entries.clone());
            async move {
                if entries.contains(&100) {
                    tokio::time::sleep(within).await;
                    return Err(Error::transient("too late"));
                }
                if entries.contains(&200) {
                    return Err(Error::transient("away"));
                }
                let odd = || Answer::Refused(Refused::new("Odd", "an odd number"));
                Ok(entries.iter().map(|n| if n % 2 == 0 { Answer::Done } else { odd() }).collect())
            }
        });
        (batch, calls)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn entries_share_calls_and_each_hears_of_its_own_outcome() {
        let (batch, calls) = batch();
        let answers = join_all((0..25).map(|n| batch.add(n, SECOND))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(matches!(answer.unwrap(), Answer::Done), n % 2 == 0, "{n}");
        }
        let sizes: Vec<usize> = calls.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [10, 10, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_entry_waits_for_a_few_milliseconds_only() {
        let (batch, calls) = batch();
        let begun = Instant::now();
        batch.add(2, SECOND).await.unwrap();
        assert!(begun.elapsed() <= 2 * LINGER, "{:?}", begun.elapsed());
        assert_eq!(*calls.lock().unwrap(), [[2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_holds_up_nobody_else_and_a_failure_is_told_to_all_in_it() {
        let (batch, _) = batch();
        let begun = Instant::now();
        let hangs = async {
            let answer = batch.add(100, SECOND).await;
            (answer, begun.elapsed())
        };
        let others = async {
            tokio::time::sleep(2 * LINGER).await;
            (batch.add(4, SECOND).await, begun.elapsed())
        };
        let ((late, after), (done, before)) = tokio::join!(hangs, others);
        assert!(late.is_err() && after >= SECOND);
        assert!(matches!(done.unwrap(), Answer::Done) && before < SECOND);
        let failed = join_all([200, 2, 3].map(|n| batch.add(n, SECOND))).await;
        assert!(failed.iter().all(|answer| answer.is_err()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_gone_is_left_out() {
        let (batch, calls) = batch();
        let mut gone = Box::pin(batch.add(2, SECOND));
        // It is on its way, and is dropped before the call is made.
        assert!((&mut gone).now_or_never().is_none());
        drop(gone);
        batch.add(4, SECOND).await.unwrap();
        assert_eq!(*calls.lock().unwrap(), [[4]]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_added_is_seen_to_after_the_last_handle_has_gone() {
        let (batch, calls) = batch();
        let added = tokio::spawn(async move { batch.add(2, SECOND).await });
        assert!(matches!(added.await.unwrap().unwrap(), Answer::Done));
        assert_eq!(*calls.lock().unwrap(), [[2]]);
    }
}
