//! When leases are renewed, in exact times: the paused clock stands still, since nothing here runs on a thread.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, advance};

use super::*;
use crate::error::Result;
use crate::source::Extended;

struct Nobody;

impl Receipt for Nobody {
    fn extend(&self, _: Duration) -> BoxFuture<'_, Result<Extended>> {
        Box::pin(async { Ok(Extended::Lost) })
    }

    fn settle<'a>(&'a self, _: &'a Verdict) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

const LEASE: Duration = Duration::from_secs(30);

fn enter(leases: &mut Leases) -> u64 {
    let now = Instant::now();
    leases.enter(now, 0, now + LEASE, Arc::new(Nobody), Job::new("job"))
}

#[tokio::test(start_paused = true)]
async fn renewed_at_a_third_with_time_for_three_attempts() {
    let mut leases = Leases::new();
    let number = enter(&mut leases);
    assert_eq!(leases.next_due(), Some(Instant::now() + LEASE / 3));
    assert!(leases.take_due(Instant::now()).is_none(), "it is not due yet");
    advance(LEASE / 3).await;
    let mut attempts = 0;
    loop {
        let Some(Due::Renewal { number: due, within, length }) = leases.take_due(Instant::now()) else {
            panic!("a renewal is due");
        };
        assert_eq!((due, length), (number, LEASE));
        assert!(within <= LEASE / 6, "an attempt takes at most a sixth");
        attempts += 1;
        advance(within).await;
        if !leases.not_renewed(Instant::now(), number) {
            break;
        }
        advance(leases.next_due().expect("another attempt") - Instant::now()).await;
    }
    assert!(attempts >= 3, "{attempts} attempts fit");
    let until = leases.get(number).expect("it is held").until;
    assert!(Instant::now() <= until - margin(LEASE) + LEASE / 24, "the job stops before the lease ends");
    assert!(Instant::now() < until);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_is_due_again_at_a_third_of_what_is_left() {
    let mut leases = Leases::new();
    let number = enter(&mut leases);
    advance(LEASE / 3).await;
    leases.take_due(Instant::now()).expect("it is due");
    let until = Instant::now() + LEASE;
    assert!(leases.renewed(Instant::now(), number, until));
    assert_eq!(leases.next_due(), Some(Instant::now() + LEASE / 3));
    leases.forget_renewal(number);
    assert_eq!(leases.next_due(), None, "a job that is being settled is not renewed");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_does_not_grow_counts_as_lost_at_its_margin() {
    let mut leases = Leases::new();
    let number = enter(&mut leases);
    let end = Instant::now() + LEASE;
    let mut renewals = 0;
    loop {
        advance(leases.next_due().expect("it is due some time") - Instant::now()).await;
        leases.take_due(Instant::now()).expect("it is due");
        renewals += 1;
        assert!(renewals < 20, "it does not go on for ever");
        if !leases.renewed(Instant::now(), number, end) {
            break;
        }
    }
    assert!(end - Instant::now() <= margin(LEASE));
}

#[tokio::test(start_paused = true)]
async fn a_lease_renewed_for_the_last_time_is_due_once_more_and_that_is_its_jobs_end() {
    let mut leases = Leases::new();
    let number = enter(&mut leases);
    advance(LEASE / 3).await;
    leases.take_due(Instant::now()).expect("it is due");
    let (stop, until) = (Instant::now() + LEASE, Instant::now() + 2 * LEASE);
    assert!(leases.renewed_for_good(Instant::now(), number, until, stop));
    assert_eq!(leases.next_due(), Some(stop), "it is not renewed before");
    advance(LEASE).await;
    assert_eq!(leases.take_due(Instant::now()), Some(Due::Stop(number)));
    let held = leases.get(number).expect("it is held");
    assert_eq!(held.time_to_tell(Instant::now()), LEASE - margin(LEASE));
    // Too late to be of use.
    let late = enter(&mut leases);
    advance(LEASE / 3).await;
    leases.take_due(Instant::now()).expect("it is due");
    let until = Instant::now() + margin(LEASE);
    assert!(!leases.renewed_for_good(Instant::now(), late, until, until));
}
