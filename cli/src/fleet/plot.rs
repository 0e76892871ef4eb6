//! The figures as a picture: nodes and finished jobs over time and, after a sweep, what each interval wastes. In SVG that
//! any browser shows.

use std::time::Duration;

use forebay::fleet::{Fleet, Outcome};

use super::sweep::{Swept, best};

const WIDTH: f64 = 800.0;
const PANEL: Panel = Panel { left: 70.0, right: 730.0, top: 60.0, bottom: 300.0 };
/// The second panel is so much further down.
const DOWN: f64 = 320.0;
const NODES: &str = "#3b6ea5";
const JOBS: &str = "#d9822b";

/// Where a plot is, in pixels.
#[derive(Clone, Copy)]
struct Panel {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Panel {
    /// By shares of its width and height.
    fn at(self, x: f64, y: f64) -> (f64, f64) {
        (self.left + (self.right - self.left) * x, self.bottom - (self.bottom - self.top) * y)
    }

    fn frame(self) -> String {
        let (width, height) = (self.right - self.left, self.bottom - self.top);
        let Panel { left, top, .. } = self;
        format!(
            "<rect x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\" fill=\"none\" stroke=\"#aaa\"/>\n"
        )
    }

    fn line(self, points: impl Iterator<Item = (f64, f64)>, color: &str, more: &str) -> String {
        let points: Vec<_> = points.map(|(x, y)| self.at(x, y)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"{more}/>\n",
            points.join(" ")
        )
    }
}

fn text(x: f64, y: f64, anchor: &str, color: &str, said: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{color}\">{said}</text>\n")
}

pub fn svg(title: &str, fleet: &Fleet, outcome: &Outcome, swept: &[Swept]) -> String {
    let height = if swept.is_empty() { PANEL.bottom + 50.0 } else { PANEL.bottom + DOWN + 50.0 };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"14\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"32\" font-size=\"18\">{title}</text>\n"
    );
    svg += &over_time(fleet, outcome);
    if !swept.is_empty() {
        svg += &by_interval(outcome, swept);
    }
    svg + "</svg>\n"
}

fn over_time(fleet: &Fleet, outcome: &Outcome) -> String {
    let panel = PANEL;
    let most_nodes = outcome.samples.iter().map(|sample| sample.nodes).max().unwrap_or(0).max(1);
    let most_jobs = outcome.finished.max(1);
    let x = |at: Duration| at.as_secs_f64() / fleet.time.as_secs_f64();
    let nodes = outcome.samples.iter().map(|sample| (x(sample.at), sample.nodes as f64 / most_nodes as f64));
    let jobs = outcome.samples.iter().map(|sample| (x(sample.at), sample.finished as f64 / most_jobs as f64));
    let days = fleet.time.as_secs_f64() / 86_400.0;
    panel.frame()
        + &panel.line(nodes, NODES, "")
        + &panel.line(jobs, JOBS, "")
        + &text(panel.left - 8.0, panel.top + 12.0, "end", NODES, &most_nodes.to_string())
        + &text(panel.left - 8.0, panel.bottom, "end", NODES, "0")
        + &text(panel.left, panel.top - 8.0, "start", NODES, "nodes")
        + &text(panel.right + 8.0, panel.top + 12.0, "start", JOBS, &outcome.finished.to_string())
        + &text(panel.right, panel.top - 8.0, "end", JOBS, "jobs finished")
        + &text(panel.left, panel.bottom + 20.0, "middle", "black", "0")
        + &text(panel.right, panel.bottom + 20.0, "middle", "black", &format!("{days:.0} days"))
}

fn by_interval(outcome: &Outcome, swept: &[Swept]) -> String {
    let panel = Panel { top: PANEL.top + DOWN, bottom: PANEL.bottom + DOWN, ..PANEL };
    let automatic = 100.0 * outcome.waste();
    let least = best(swept).map_or(automatic, |best| 100.0 * best.outcome.waste());
    // What is far above the best is cut off, so that the best can be seen.
    let top = (least.min(automatic) * 4.0).max(1e-6);
    let seconds = |swept: &Swept| swept.interval.as_secs_f64();
    let (first, last) = (swept.first().map_or(1.0, seconds), swept.last().map_or(2.0, seconds));
    let x = |seconds: f64| (seconds / first).ln() / (last / first).ln();
    let points =
        swept.iter().map(|swept| (x(seconds(swept)), 100.0 * swept.outcome.waste() / top)).filter(|(_, y)| *y <= 1.0);
    let level = automatic / top;
    let mut svg = panel.frame()
        + &panel.line(points, NODES, "")
        + &panel.line([(0.0, level), (1.0, level)].into_iter(), JOBS, " stroke-dasharray=\"6 4\"")
        + &text(panel.left, panel.top - 8.0, "start", "black", "overhead + lost work, of the useful work")
        + &text(panel.left - 8.0, panel.top + 12.0, "end", "black", &format!("{top:.1} %"))
        + &text(panel.left - 8.0, panel.bottom, "end", "black", "0")
        + &text(panel.right, panel.at(0.0, level).1 - 8.0, "end", JOBS, &format!("automatic {automatic:.2} %"));
    for (seconds, said) in [(30.0, "30 s"), (120.0, "2 min"), (600.0, "10 min"), (3600.0, "1 h")] {
        if (first..=last).contains(&seconds) {
            let (at, below) = panel.at(x(seconds), 0.0);
            svg += &text(at, below + 20.0, "middle", "black", said);
        }
    }
    svg
}
