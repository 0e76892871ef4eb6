//! Those who wait, in the order of their turns.
//!
//! What was received first goes first at every stage, and lower work lets pass what came up to its budget later
//! ([`Job::turn`](crate::Job::turn)).

use std::collections::VecDeque;

use tokio::time::Instant;

pub(crate) struct Turns<T>(VecDeque<(Instant, T)>);

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Turns(VecDeque::new())
    }
}

impl<T> Turns<T> {
    pub(crate) fn push(&mut self, turn: Instant, what: T) {
        let place = self.0.partition_point(|(other, _)| *other <= turn);
        self.0.insert(place, (turn, what));
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        self.0.pop_front().map(|(_, what)| what)
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = T> {
        self.0.into_iter().map(|(_, what)| what)
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        self.0.retain(|(_, what)| keep(what));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::job::{Job, Meta, Priority};

    #[tokio::test(start_paused = true)]
    async fn lower_work_lets_pass_what_came_within_its_budget_and_no_more() {
        let mut turns = Turns::default();
        let mut push = |name: &'static str, priority| {
            let meta = Meta { priority, ..Meta::default() };
            turns.push(Job::delivered(name.into(), 1, meta, None).turn(), name);
        };
        push("low", Priority::Low);
        push("normal", Priority::Normal);
        push("normal too", Priority::Normal);
        tokio::time::advance(Duration::from_millis(199)).await;
        push("high", Priority::High);
        tokio::time::advance(Duration::from_millis(4_700)).await;
        push("late", Priority::High);
        tokio::time::advance(Duration::from_millis(102)).await;
        push("too late", Priority::High);
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, ["high", "normal", "normal too", "late", "low", "too late"]);
    }
}
