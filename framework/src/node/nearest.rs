//! Which of several buckets this node reaches best, by measuring each.
//!
//! It owns the choice and not the measurement. What it chooses differs from node to node, so it is for what is the same in
//! all buckets, or is named by its bucket: never for the records by which workers agree who has done a job.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::timeout;
use tracing::{info, warn};

use super::{Figures, bucket};
use crate::error::{Error, Result};
use crate::store::Store;

/// What a choice is for: so many bytes each way, and an answer before each.
const TYPICAL: f64 = 10e6;
/// A bucket that takes longer to open is not near.
const OPENED_WITHIN: Duration = Duration::from_secs(30);

/// Opens all of `buckets` at once, measures one after the other, and gives the one to and from which 10 MB move soonest,
/// with its place among them and its figures. One that cannot be opened or measured is left out and named in the log.
///
/// Each node chooses for itself. So use it for inputs that every bucket has, or for results whose address goes with
/// them; the store that decides which end of a job counts has to be the same for all workers.
///
/// ```no_run
/// # #[cfg(feature = "s3")]
/// # async fn choose() -> forebay::Result<()> {
/// use forebay::{node, store::S3};
///
/// let regions = ["s3://models-eu", "s3://models-us", "s3://models-ap"];
/// let (place, weights, figures) = node::nearest(regions.map(|url| S3::at(url).open())).await?;
/// println!("weights come from {}: {figures}", regions[place]);
/// # let _ = weights;
/// # Ok(()) }
/// ```
///
/// Takes up to half a minute to open them and a minute and a half for each, on a good link a few seconds, and moves at
/// most 16 MB each way. What is measured is written below `.forebay/probe/` and deleted again, so the keys have to allow
/// that in each of the buckets.
///
/// # Errors
/// The last bucket's, if there is none that works; `Invalid` for no bucket at all.
pub async fn nearest<S: Store>(
    buckets: impl IntoIterator<Item = impl Future<Output = Result<S>>>,
) -> Result<(usize, S, Figures)> {
    let mut best: Option<(Duration, (usize, S, Figures))> = None;
    let mut last = Error::invalid("there is no bucket to choose from");
    let late = |_| Err(Error::transient(format_args!("it did not open within {OPENED_WITHIN:?}")));
    let opening = buckets.into_iter().map(|bucket| async { timeout(OPENED_WITHIN, bucket).await.unwrap_or_else(late) });
    for (place, opened) in join_all(opening).await.into_iter().enumerate() {
        let measured = match opened {
            Ok(store) => measure(&store).await.map(|(takes, figures)| (takes, (place, store, figures))),
            Err(why) => Err(why),
        };
        match measured {
            Ok(found) if best.as_ref().is_none_or(|(least, _)| found.0 < *least) => best = Some(found),
            Ok(_) => {}
            Err(why) => {
                warn!(place, %why, "a bucket is left out");
                last = why;
            }
        }
    }
    let (takes, (place, store, figures)) = best.ok_or(last)?;
    info!(place, %figures, takes_ms = takes.as_millis() as u64, "the nearest bucket");
    Ok((place, store, figures))
}

/// How long the typical transfers would take.
async fn measure(store: &dyn Store) -> Result<(Duration, Figures)> {
    match bucket::measure(store).await {
        (figures @ Figures { latency: Some(latency), upload: Some(up), download: Some(down), .. }, None) => {
            let moving = |rate: f64| Duration::try_from_secs_f64(TYPICAL * 8.0 / (rate * 1e6)).unwrap_or(Duration::MAX);
            Ok((moving(up).saturating_add(moving(down)).saturating_add(2 * latency), figures))
        }
        (_, why) => Err(why.unwrap_or_else(|| Error::transient("it was too slow to be measured"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::Link;

    fn link(latency: u64, mbit: f64) -> Link {
        Link::new().latency(Duration::from_millis(latency)).up(mbit).down(mbit)
    }

    async fn of(links: impl IntoIterator<Item = Link>) -> Result<usize> {
        let opened = links.into_iter().map(|link| async { Ok(link) });
        nearest(opened).await.map(|(place, ..)| place)
    }

    #[tokio::test(start_paused = true)]
    async fn latency_and_throughput_both_count() {
        assert_eq!(of([link(200, 50.0), link(30, 50.0), link(90, 50.0)]).await.unwrap(), 1);
        assert_eq!(
            of([link(30, 5.0), link(200, 50.0)]).await.unwrap(),
            1,
            "40 times the latency of an answer are less"
        );
        assert_eq!(of([link(30, 50.0)]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_work_is_left_out() {
        let away = link(1, 100.0).fails(Error::transient("no route to host"));
        assert_eq!(of([away.clone(), link(200, 1.0)]).await.unwrap(), 1);
        let unopened = [Err(Error::invalid("no such bucket")), Ok(link(100, 10.0))];
        let (place, ..) = nearest(unopened.map(|opened| async { opened })).await.unwrap();
        assert_eq!(place, 1);
        assert!(of([away]).await.unwrap_err().to_string().contains("no route"));
        assert!(of([]).await.is_err());
    }
}
