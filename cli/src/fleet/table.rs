//! The figures as text and as JSON.

use std::time::Duration;

use forebay::fleet::{Fleet, Outcome};
use humantime::format_duration;
use serde_json::{Value, json};

use super::sweep::{Swept, best};
use super::{Arguments, counted};
use crate::say;

/// Times of jobs with their share of the useful work, then nodes, then counts.
pub fn text(arguments: &Arguments, fleet: &Fleet, outcome: &Outcome, swept: &[Swept]) -> String {
    let interval = match arguments.every {
        Some(every) => format!("every {}", format_duration(every)),
        None => "at automatic intervals".to_owned(),
    };
    let mut text = format!(
        "{}\njobs of {}, saved {interval}: {} that block for {}\n\n",
        arguments.title(),
        format_duration(fleet.job),
        say::bytes(fleet.state),
        format_duration(fleet.cost),
    );
    text += &format!("{:<22}{:>14}  {:>14}\n", "time of jobs", "hours", "of useful work");
    for (what, time) in times(outcome) {
        text += &format!("{what:<22}{:>14.1}  {:>12.3} %\n", hours(time), 100.0 * outcome.share(time));
    }
    let waste = outcome.overhead + outcome.lost;
    text += &format!("{:<22}{:>14.1}  {:>12.3} %\n\n", "overhead + lost work", hours(waste), 100.0 * outcome.waste());

    let idle = 100.0 * outcome.idle.as_secs_f64() / outcome.node_time.as_secs_f64().max(1.0);
    text += &format!("{:<22}{:>14.1}  hours, {idle:.3} % of them idle\n", "nodes", hours(outcome.node_time));
    text += &format!("{:<22}{:>14}\n", "nodes lost", outcome.losses);
    text += &format!("{:<22}{:>14}  of {} that began\n", "jobs finished", outcome.finished, outcome.started);
    text += &format!("{:<22}{:>14}  {} sent\n", "saves", outcome.saves, say::bytes(outcome.sent));
    text += &format!("{:<22}{:>14}  read for restores\n", "", say::bytes(outcome.received));
    text += &format!(
        "{:<22}{:>14}  of zombies that worked on for {:.1} h\n",
        "saves refused",
        outcome.refused,
        hours(outcome.zombie_time)
    );
    text += &format!(
        "{:<22}{:>14}  before the queue's 12 h, {} without a last save\n",
        "jobs handed over", outcome.hand_overs, outcome.unsaved_hand_overs
    );
    text += &format!("{:<22}{:>14}  {} failed\n", "leases renewed", outcome.renewals, outcome.failed_renewals);
    text += &format!("{:<22}{:>14}\n", "leases lost", outcome.leases_lost);
    text += &format!("{:<22}{:>14}\n", "restores given up", outcome.not_restored);
    text + &table(outcome, swept)
}

fn table(outcome: &Outcome, swept: &[Swept]) -> String {
    let Some(best) = best(swept) else {
        return String::new();
    };
    let mut text = format!("\n{:<12}{:>12}{:>12}{:>12}\n", "interval", "overhead %", "lost %", "both %");
    let mut line = |name: &str, outcome: &Outcome| {
        let shares = [outcome.overhead, outcome.lost].map(|time| 100.0 * outcome.share(time));
        text += &format!("{name:<12}{:>12.3}{:>12.3}{:>12.3}\n", shares[0], shares[1], 100.0 * outcome.waste());
    };
    line("automatic", outcome);
    for Swept { interval, outcome } in swept {
        line(&format_duration(*interval).to_string(), outcome);
    }
    let jobs = counted(outcome.finished as usize, "job");
    text + &match ratio(outcome, best) {
        Some(ratio) => format!(
            "\nbest fixed: {}; the automatic interval wastes {ratio:.3} times as much, over {jobs}\n",
            format_duration(best.interval)
        ),
        None => "\nno interval can be called the best: nothing was wasted, or nothing useful was done\n".to_owned(),
    }
}

/// How much more the automatic interval wastes than the best fixed one.
fn ratio(outcome: &Outcome, best: &Swept) -> Option<f64> {
    let ratio = outcome.waste() / best.outcome.waste();
    ratio.is_finite().then_some(ratio)
}

/// The same, times in seconds.
pub fn json(arguments: &Arguments, outcome: &Outcome, swept: &[Swept]) -> String {
    let samples: Vec<_> = outcome
        .samples
        .iter()
        .map(|sample| json!({ "s": sample.at.as_secs_f64(), "nodes": sample.nodes, "finished": sample.finished }))
        .collect();
    let mut all = json!({
        "preset": arguments.preset.as_str(),
        "nodes": arguments.nodes,
        "days": arguments.days,
        "seed": arguments.seed,
        "job_s": arguments.job.as_secs_f64(),
        "cost_s": arguments.cost.as_secs_f64(),
        "state_bytes": arguments.state,
        "every_s": arguments.every.map(|every| every.as_secs_f64()),
        "outcome": figures(outcome),
        "samples": samples,
    });
    if let Some(best) = best(swept) {
        let line = |swept: &Swept| json!({ "every_s": swept.interval.as_secs(), "outcome": figures(&swept.outcome) });
        all["sweep"] = swept.iter().map(line).collect();
        all["best_s"] = best.interval.as_secs().into();
        all["automatic_to_best"] = ratio(outcome, best).into();
    }
    format!("{all:#}\n")
}

fn figures(outcome: &Outcome) -> Value {
    let mut figures = json!({
        "overhead_share": outcome.share(outcome.overhead),
        "lost_share": outcome.share(outcome.lost),
        "waste_share": outcome.waste(),
        "job_s": outcome.job_time.as_secs_f64(),
        "node_s": outcome.node_time.as_secs_f64(),
        "idle_s": outcome.idle.as_secs_f64(),
        "zombie_s": outcome.zombie_time.as_secs_f64(),
        "losses": outcome.losses,
        "finished": outcome.finished,
        "started": outcome.started,
        "saves": outcome.saves,
        "refused": outcome.refused,
        "hand_overs": outcome.hand_overs,
        "unsaved_hand_overs": outcome.unsaved_hand_overs,
        "leases_lost": outcome.leases_lost,
        "not_restored": outcome.not_restored,
        "renewals": outcome.renewals,
        "failed_renewals": outcome.failed_renewals,
        "sent_bytes": outcome.sent,
        "received_bytes": outcome.received,
    });
    for (what, time) in times(outcome) {
        figures[format!("{}_s", what.replace(' ', "_"))] = time.as_secs_f64().into();
    }
    figures
}

fn times(outcome: &Outcome) -> [(&'static str, Duration); 6] {
    [
        ("useful work", outcome.useful),
        ("checkpoint overhead", outcome.overhead),
        ("lost work", outcome.lost),
        ("gaps between nodes", outcome.gaps),
        ("restoring", outcome.restoring),
        ("handing over", outcome.handing_over),
    ]
}

fn hours(time: Duration) -> f64 {
    time.as_secs_f64() / 3600.0
}
