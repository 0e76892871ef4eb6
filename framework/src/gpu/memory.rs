//! What the models of one device keep on it together: who is there, and who goes when another has to come.
//!
//! Arithmetic with one owner, the device thread: no model, no clock (times are handed in). It promises that what is
//! there never exceeds the budget, and that nobody goes with a batch in hand. It believes what the stages say that
//! they keep, and measures nothing.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Result};

/// For how many times its own load time and that of the other together a model works before it goes for another. As
/// long as whoever goes has work, loading takes at most a fifth of a device's time; who has none goes at once, and
/// each of its jobs may cost a load.
const WORTH_THE_LOADING: u32 = 4;
/// How long a model that puts off all its work stays away, in load times, and at least.
const LOADS_AWAY: u32 = 8;
const LEAST_AWAY: Duration = Duration::from_secs(1);

pub(crate) struct Memory {
    budget: u64,
    models: Vec<Kept>,
    /// How often anything was loaded or run.
    uses: u64,
}

/// One model, on the device or not.
#[derive(Default)]
struct Kept {
    /// 0 where its stage does not say; then it never goes.
    bytes: u64,
    there: bool,
    load_took: Duration,
    /// How long it has used the device since it was loaded.
    used: Duration,
    /// Which of the uses was its last.
    last_use: u64,
}

/// What a model is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doing {
    /// It has something to do.
    pub(crate) works: bool,
    /// It has begun something that would be lost with it.
    pub(crate) in_hand: bool,
}

/// Whether there is room for a model that is not there.
#[derive(Debug, PartialEq)]
pub(crate) enum Room {
    /// When these have gone; most often nobody has to.
    After(Vec<usize>),
    /// Not yet. These would go, but some have something in hand: until then none of them takes more in hand. Where there
    /// are none, others keep their places.
    Later(Vec<usize>),
}

impl Memory {
    /// Nothing is there yet. Without a budget there is always room. No model keeps more than the budget ([`check`]).
    pub(crate) fn new(budget: Option<u64>, bytes: impl IntoIterator<Item = u64>) -> Self {
        let models = bytes.into_iter().map(|bytes| Kept { bytes, ..Kept::default() }).collect();
        Memory { budget: budget.unwrap_or(u64::MAX), models, uses: 0 }
    }

    /// In which order all are loaded at the start, and whether each stays. They stay in their order, as long as there
    /// is room. Whoever has none comes before them, alone: it is loaded to see that it can be, and goes.
    pub(crate) fn at_start(&self) -> Vec<(usize, bool)> {
        let mut room = self.budget;
        let stays = self.models.iter().map(|model| {
            let fits = model.bytes <= room;
            room -= if fits { model.bytes } else { 0 };
            fits
        });
        let mut order: Vec<_> = stays.enumerate().collect();
        order.sort_by_key(|&(_, stays)| stays);
        order
    }

    pub(crate) fn is_there(&self, model: usize) -> bool {
        self.models[model].there
    }

    /// How there is room for a model that is not there and has work. Whoever was used longest ago goes first, and those with
    /// something in hand after all others.
    pub(crate) fn room(&self, wanted: usize, doing: &[Doing]) -> Room {
        let coming = self.models[wanted].load_took;
        let may_go = |&other: &usize| {
            let kept = &self.models[other];
            kept.there && kept.bytes > 0 && !kept.keeps_its_place(doing[other].works, coming)
        };
        let mut others: Vec<usize> = (0..self.models.len()).filter(may_go).collect();
        others.sort_by_key(|&other| (doing[other].in_hand, self.models[other].last_use));
        let mut short = self.models[wanted].bytes.saturating_sub(self.free());
        let mut go = Vec::new();
        for other in others {
            if short == 0 {
                break;
            }
            short = short.saturating_sub(self.models[other].bytes);
            go.push(other);
        }
        if short > 0 {
            return Room::Later(Vec::new());
        }
        let busy = go.iter().any(|&other| doing[other].in_hand);
        if busy { Room::Later(go) } else { Room::After(go) }
    }

    pub(crate) fn loaded(&mut self, model: usize, took: Duration) {
        let kept = self.used(model);
        kept.there = true;
        kept.load_took = took;
        kept.used = Duration::ZERO;
    }

    pub(crate) fn gone(&mut self, model: usize) {
        self.models[model].there = false;
    }

    /// The model has used the device.
    pub(crate) fn ran(&mut self, model: usize, took: Duration) {
        self.used(model).used += took;
    }

    fn used(&mut self, model: usize) -> &mut Kept {
        self.uses += 1;
        let kept = &mut self.models[model];
        kept.last_use = self.uses;
        kept
    }

    fn free(&self) -> u64 {
        let kept = self.models.iter().filter(|model| model.there).map(|model| model.bytes);
        self.budget.saturating_sub(kept.fold(0, u64::saturating_add))
    }
}

impl Kept {
    /// The rule against loading two models for ever in turns: who has work keeps its place until that was worth both
    /// its own loading and that of the one that is `coming`. By its own alone, one with a short load would go soon for
    /// one with a long load, again and again.
    fn keeps_its_place(&self, works: bool, coming: Duration) -> bool {
        let loading = self.load_took.saturating_add(coming);
        works && self.used < loading.saturating_mul(WORTH_THE_LOADING)
    }
}

/// How long a model stays away whose only work is what it has put off itself, so that two of them do not load one
/// another's places for ever, with nothing done.
pub(crate) fn away_for(load_took: Duration) -> Duration {
    load_took.saturating_mul(LOADS_AWAY).max(LEAST_AWAY)
}

/// Refuses a model that would not be let on its device alone.
pub(crate) fn check(stage: &str, bytes: u64, device: usize, budget: Option<u64>) -> Result<()> {
    let Some(budget) = budget.filter(|&budget| bytes > budget) else {
        return Ok(());
    };
    Err(Error::invalid(format_args!(
        "stage `{stage}` keeps {} ({bytes} bytes) on device {device}, where all models together may keep {} ({budget} \
         bytes); allow more with FOREBAY_DEVICE_MEMORY or Worker::device_memory, or have the stage keep less and say so \
         with its `memory`",
        Size(bytes),
        Size(budget),
    )))
}

/// Bytes as people read them, such as `2 GiB` or `1.5 MiB`.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let bytes = self.0;
        match units.into_iter().find(|(unit, _)| bytes >= *unit) {
            None => write!(f, "{bytes} B"),
            Some((unit, name)) if bytes.is_multiple_of(unit) => write!(f, "{} {name}", bytes / unit),
            Some((unit, name)) => write!(f, "{:.1} {name}", bytes as f64 / unit as f64),
        }
    }
}

#[cfg(test)]
mod tests;
