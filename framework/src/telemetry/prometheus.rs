//! Metrics as text for Prometheus (exposition format 0.0.4).

use std::collections::BTreeMap;
use std::fmt::Write;

use metrics::Key;

use super::recorder::{Snapshot, Summary};

/// One metric: its kind, and its lines.
type Family = (&'static str, Vec<String>);

impl Snapshot {
    /// The metrics as text for Prometheus. Counters of microseconds keep their unit; histograms become summaries.
    pub fn prometheus(&self) -> String {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let mut add = |key: &Key, kind, lines: Vec<String>| {
            families.entry(key.name().to_owned()).or_insert((kind, Vec::new())).1.extend(lines);
        };
        for (key, value) in &self.counters {
            add(key, "counter", vec![line(key, "", None, value)]);
        }
        for (key, value) in &self.gauges {
            add(key, "gauge", vec![line(key, "", None, value)]);
        }
        for (key, summary) in &self.summaries {
            let Summary { count, mean, p50, p99, .. } = *summary;
            let lines = vec![
                line(key, "", Some("0.5"), p50),
                line(key, "", Some("0.99"), p99),
                line(key, "_sum", None, mean * count as f64),
                line(key, "_count", None, count),
            ];
            add(key, "summary", lines);
        }
        let mut text = String::new();
        for (name, (kind, lines)) in families {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "# TYPE {name} {kind}");
            lines.iter().for_each(|line| text.push_str(line));
        }
        text
    }
}

fn line(key: &Key, suffix: &str, quantile: Option<&str>, value: impl std::fmt::Display) -> String {
    let escape = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
    let labels = key.labels().map(|label| (label.key(), label.value()));
    let labels = labels.chain(quantile.map(|quantile| ("quantile", quantile)));
    let labels: Vec<String> = labels.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    format!("{}{suffix}{labels} {value}\n", key.name())
}
