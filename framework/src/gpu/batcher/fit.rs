//! Which of the items whose turn it is go into one batch, within its limits.
//!
//! Always the first of them, which is the one that has waited longest.

use super::{Limits, Pick};

/// Keeps the picks whose weights sum up to no more than the limit, always the first. Returns the fill.
pub(super) fn summed(picks: &mut Vec<Pick>, limits: Limits) -> f64 {
    let limit = limits.weight.unwrap_or(usize::MAX);
    let mut total: usize = 0;
    let mut count = 0;
    picks.retain(|pick| {
        let fits = count == 0 || (count < limits.items && total.saturating_add(pick.weight) <= limit);
        if fits {
            total = total.saturating_add(pick.weight);
            count += 1;
        }
        fits
    });
    fill(count, total, limits)
}

/// Keeps the run of like weights around the first pick that makes the largest batch, and of those the least padded.
pub(super) fn padded(picks: &mut Vec<Pick>, limits: Limits) -> f64 {
    let limit = limits.weight.unwrap_or(usize::MAX);
    let first = (picks[0].slot, picks[0].index);
    picks.sort_by_key(|pick| pick.weight);
    let anchor = picks.iter().position(|pick| (pick.slot, pick.index) == first).unwrap_or(0);
    let mut best = anchor..anchor + 1;
    for last in anchor..picks.len() {
        let heaviest = picks[last].weight.max(1);
        let room = limits.items.min(limit / heaviest);
        let start = (last + 1).saturating_sub(room);
        if start > anchor {
            break;
        }
        let padding = |run: &std::ops::Range<usize>| {
            let run = &picks[run.clone()];
            run.iter().map(|pick| (run[run.len() - 1].weight - pick.weight) as u128).sum::<u128>()
        };
        let run = start..last + 1;
        if run.len() > best.len() || (run.len() == best.len() && padding(&run) < padding(&best)) {
            best = run;
        }
    }
    let heaviest = picks[best.end - 1].weight;
    let count = best.len();
    picks.drain(best.end..);
    picks.drain(..best.start);
    fill(count, heaviest.saturating_mul(count), limits)
}

fn fill(count: usize, weight: usize, limits: Limits) -> f64 {
    let items = count as f64 / limits.items as f64;
    let weight = limits.weight.map(|limit| weight as f64 / limit as f64);
    items.max(weight.unwrap_or(0.0))
}
