//! A recorder whose metrics can be read back, and a log subscriber, for binaries that bring none of their own.
//!
//! Memory is bounded: histograms have fixed buckets (two significant digits). It exports nothing by itself.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use hdrhistogram::Histogram as Buckets;
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_util::registry::{Registry, Storage};
use tracing::Level;
use tracing_subscriber::EnvFilter;

use crate::error::{Context, Error, Result};

/// Histograms count in millionths, so that seconds are kept to the microsecond.
const SCALE: f64 = 1e6;
/// The largest value that a histogram tells apart, in millionths: eleven days, for seconds.
const LARGEST: u64 = 1_000_000_000_000;

/// The recorder of this process, to be read back.
#[derive(Clone)]
pub struct Telemetry(Arc<Registry<Key, Cells>>);

/// Installs a log subscriber that writes to standard error, by `RUST_LOG` (default `info`), and a metrics recorder.
/// Call it before starting a pipeline or worker.
///
/// # Errors
/// If a subscriber or recorder is installed already.
pub fn init() -> Result<Telemetry> {
    init_at(Level::INFO)
}

/// [`init`] with another level of logs where `RUST_LOG` does not say.
///
/// # Errors
/// If a subscriber or recorder is installed already.
pub fn init_at(level: Level) -> Result<Telemetry> {
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // A filter by the environment is asked about every span; a fixed level costs nothing.
    let installed = match EnvFilter::try_from_default_env() {
        Ok(filter) => log.with_env_filter(filter).try_init(),
        Err(_) => log.with_max_level(level).try_init(),
    };
    installed.map_err(|why| Error::failed(why).context("installing the log subscriber"))?;
    let telemetry = Telemetry::new();
    metrics::set_global_recorder(telemetry.clone()).context("installing the metrics recorder")?;
    let _ = INSTALLED.set(telemetry.clone());
    Ok(telemetry)
}

/// The recorder that [`init`] has installed.
pub fn installed() -> Option<&'static Telemetry> {
    INSTALLED.get()
}

static INSTALLED: OnceLock<Telemetry> = OnceLock::new();

impl Telemetry {
    /// A recorder that is not installed: for [`metrics::with_local_recorder`], in tests.
    pub fn new() -> Self {
        Telemetry(Arc::new(Registry::new(Cells)))
    }

    /// All metrics as they stand now.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.0.visit_counters(|key, cell| {
            snapshot.counters.push((key.clone(), cell.load(Ordering::Relaxed)));
        });
        self.0.visit_gauges(|key, cell| {
            let value = f64::from_bits(cell.load(Ordering::Relaxed));
            snapshot.gauges.push((key.clone(), value));
        });
        self.0.visit_histograms(|key, cell| {
            snapshot.summaries.push((key.clone(), cell.summary()));
        });
        snapshot
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Telemetry::new()
    }
}

/// Metrics at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub(super) counters: Vec<(Key, u64)>,
    pub(super) gauges: Vec<(Key, f64)>,
    pub(super) summaries: Vec<(Key, Summary)>,
}

/// A histogram in five numbers, in the metric's own unit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// Half of them are no larger.
    pub p50: f64,
    /// 99 of 100 are no larger.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Snapshot {
    /// The sum of the counters of that name whose labels include `labels`.
    pub fn counter(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        find(&self.counters, name, labels).sum()
    }

    /// The sum of the gauges of that name whose labels include `labels`.
    pub fn gauge(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        find(&self.gauges, name, labels).sum()
    }

    /// The first histogram of that name whose labels include `labels`; all zero if there is none.
    pub fn summary(&self, name: &str, labels: &[(&str, &str)]) -> Summary {
        find(&self.summaries, name, labels).next().unwrap_or_default()
    }
}

fn find<'a, T: Copy>(cells: &'a [(Key, T)], name: &'a str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = T> + 'a {
    let fits = move |key: &Key| {
        let has = |(label, value): &(&str, &str)| key.labels().any(|its| its.key() == *label && its.value() == *value);
        key.name() == name && labels.iter().all(has)
    };
    cells.iter().filter(move |(key, _)| fits(key)).map(|(_, value)| *value)
}

/// Where the registry keeps its values.
struct Cells;

impl Storage<Key> for Cells {
    type Counter = Arc<AtomicU64>;
    type Gauge = Arc<AtomicU64>;
    type Histogram = Arc<Cell>;

    fn counter(&self, _: &Key) -> Self::Counter {
        Arc::default()
    }

    fn gauge(&self, _: &Key) -> Self::Gauge {
        Arc::default()
    }

    fn histogram(&self, _: &Key) -> Self::Histogram {
        Arc::default()
    }
}

#[derive(Default)]
struct Cell(Mutex<Option<Filled>>);

struct Filled {
    buckets: Buckets<u64>,
    sum: f64,
}

impl Cell {
    fn summary(&self) -> Summary {
        let filled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Filled { buckets, sum }) = &*filled else {
            return Summary::default();
        };
        let at = |quantile| buckets.value_at_quantile(quantile) as f64 / SCALE;
        Summary {
            count: buckets.len(),
            mean: sum / buckets.len().max(1) as f64,
            p50: at(0.5),
            p99: at(0.99),
            max: buckets.max() as f64 / SCALE,
        }
    }
}

impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        let mut filled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if filled.is_none() {
            *filled = Buckets::new_with_bounds(1, LARGEST, 2).ok().map(|buckets| Filled { buckets, sum: 0.0 });
        }
        if let Some(Filled { buckets, sum }) = &mut *filled {
            buckets.saturating_record((value * SCALE) as u64);
            *sum += value;
        }
    }
}

impl Recorder for Telemetry {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.0.get_or_create_counter(key, |cell| cell.clone().into())
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.0.get_or_create_gauge(key, |cell| cell.clone().into())
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.0.get_or_create_histogram(key, |cell| cell.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_can_be_read_back() {
        let telemetry = Telemetry::new();
        metrics::with_local_recorder(&telemetry, || {
            metrics::counter!("jobs", "stage" => "a").increment(2);
            metrics::counter!("jobs", "stage" => "b").increment(3);
            metrics::gauge!("held").increment(1.5);
            (1..=100).for_each(|n| metrics::histogram!("wait").record(f64::from(n) / 1000.0));
        });
        let snapshot = telemetry.snapshot();
        assert_eq!(snapshot.counter("jobs", &[]), 5);
        assert_eq!(snapshot.counter("jobs", &[("stage", "b")]), 3);
        assert_eq!(snapshot.gauge("held", &[]), 1.5);
        let wait = snapshot.summary("wait", &[]);
        assert_eq!(wait.count, 100);
        assert!((wait.mean - 0.0505).abs() < 1e-9);
        assert!((wait.p50 - 0.05).abs() < 0.001 && (wait.p99 - 0.099).abs() < 0.001);
        assert_eq!(snapshot.summary("none", &[]), Summary::default());
    }
}
