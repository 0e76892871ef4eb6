//! The figures as text and as JSON.

use serde_json::json;

use super::storage::{Figures, Way};
use crate::say;

/// A table with one line a place.
pub fn text(all: &[Figures], size: u64) -> String {
    let width = all.iter().map(|figures| figures.place.len()).max().unwrap_or(0).max("bucket".len());
    let rate = |way: &Way| way.mbit_s(size).map_or("-".to_owned(), |rate| format!("{rate:.1}"));
    let mut text = format!("{} each way\n", say::bytes(size));
    text += &format!(
        "{:<width$}  {:>8}  {:>13}  {:>13}  {:>8}\n",
        "bucket", "RTT ms", "up Mbit/s", "down Mbit/s", "failures"
    );
    for figures in all {
        let Figures { place, rtt, up, down, failed } = figures;
        let rtt = rtt.map_or("-".to_owned(), |rtt| format!("{:.1}", rtt.as_secs_f64() * 1e3));
        let (up, down, failures) = (rate(up), rate(down), failed.len());
        text += &format!("{place:<width$}  {rtt:>8}  {up:>13}  {down:>13}  {failures:>8}\n");
    }
    text
}

/// The same with every single time, in seconds.
pub fn json(all: &[Figures], size: u64, time: &str) -> String {
    let way = |way: &Way| {
        let took: Vec<f64> = way.took.iter().map(|took| took.as_secs_f64()).collect();
        json!({ "mbit_s": way.mbit_s(size), "seconds": took, "failures": way.failures })
    };
    let places: Vec<_> = all
        .iter()
        .map(|Figures { place, rtt, up, down, failed }| {
            let rtt = rtt.map(|rtt| rtt.as_secs_f64() * 1e3);
            json!({ "bucket": place, "rtt_ms": rtt, "up": way(up), "down": way(down), "errors": failed })
        })
        .collect();
    format!("{:#}\n", json!({ "time": time, "bytes": size, "buckets": places }))
}
