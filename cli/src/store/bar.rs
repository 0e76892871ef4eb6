//! How far bytes have come, shown while they move: a bar on a terminal, elsewhere a line every few seconds.
//!
//! It owns standard error for as long as it lives, and leaves nothing behind on a terminal.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use forebay::store::Progress;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::{interval, sleep};

use crate::say;

/// How often the bar is drawn.
const DRAWN: Duration = Duration::from_millis(100);
/// How often a line is written where there is no bar.
const WRITTEN: Duration = Duration::from_secs(5);

/// Shows until it is dropped.
pub struct Bar {
    bar: ProgressBar,
    task: JoinHandle<()>,
}

impl Bar {
    /// Shows what `progress` counts.
    pub fn show(progress: &Progress) -> Bar {
        let progress = progress.clone();
        if stderr().is_terminal() {
            let bar = bar();
            let drawn = bar.clone();
            return Bar { bar, task: tokio::spawn(draw(progress, drawn)) };
        }
        Bar { bar: ProgressBar::hidden(), task: tokio::spawn(write(progress)) }
    }

    /// Says a line beside it.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.task.abort();
        self.bar.finish_and_clear();
    }
}

fn bar() -> ProgressBar {
    let template = "{bar:40} {decimal_bytes}/{decimal_total_bytes}, {decimal_bytes_per_sec}, {eta} to go";
    let style = ProgressStyle::with_template(template);
    ProgressBar::new(0).with_style(style.unwrap_or(ProgressStyle::default_bar()))
}

async fn draw(progress: Progress, bar: ProgressBar) {
    let (mut ticks, mut kept) = (interval(DRAWN), 0);
    loop {
        ticks.tick().await;
        bar.set_length(progress.total());
        bar.set_position(progress.done());
        if progress.kept() > kept {
            // What was there already is no measure of the link.
            kept = progress.kept();
            bar.reset_eta();
        }
    }
}

async fn write(progress: Progress) {
    let begun = Instant::now();
    loop {
        sleep(WRITTEN).await;
        let moved = progress.done().saturating_sub(progress.kept());
        let rate = say::bytes((moved as f64 / begun.elapsed().as_secs_f64()) as u64);
        eprintln!("{} of {}, {rate}/s", say::bytes(progress.done()), say::bytes(progress.total()));
    }
}
