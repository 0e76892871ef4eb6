//! The threads of a CPU stage: a job that takes long, or for ever, holds up only the thread that it is on, and a job
//! whose caller has gone is not run. Held with jobs that are next to nothing beside one that stands still.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use forebay::Pipeline;
use forebay_tests::{Gate, Random, eventually, within};
use futures_util::future::join_all;

/// The job that stands still.
const SLOW: usize = usize::MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_job_holds_up_only_its_own_thread() {
    let gate = Gate::new();
    let at_gate = gate.clone();
    let pipeline = Pipeline::new().cpu("mixed", 2, move |_, x: usize| {
        if x == SLOW {
            at_gate.pass();
        }
        Ok(x)
    });
    let running = Arc::new(pipeline.configure("mixed.places=200").unwrap().start().await.unwrap());
    let mut random = Random::new(9);
    for round in 0..300 {
        // Many that take nothing, and somewhere among them one that stands still: none may be stuck behind it.
        let slow_at = random.below(100);
        let (quick, slow): (Vec<_>, Vec<_>) = (0..100)
            .map(|n| {
                let running = running.clone();
                let x = if n == slow_at { SLOW } else { n };
                (x, tokio::spawn(async move { running.call(x).await.unwrap() }))
            })
            .partition(|(x, _)| *x != SLOW);
        let what = format!("round {round}: 99 short jobs while the other thread stands still");
        within(&what, join_all(quick.into_iter().map(|(_, call)| call))).await;
        gate.admit(1);
        within("the slow one", join_all(slow.into_iter().map(|(_, call)| call))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_caller_has_gone_is_not_run() {
    let (gate, ran) = (Gate::new(), Arc::new(AtomicUsize::new(0)));
    let (at_gate, counts) = (gate.clone(), ran.clone());
    let pipeline = Pipeline::new().cpu("held", 2, move |_, x: usize| {
        at_gate.pass();
        counts.fetch_add(1, SeqCst);
        Ok(x)
    });
    let running = Arc::new(pipeline.start().await.unwrap());
    let call = |x| {
        let running = running.clone();
        tokio::spawn(async move { running.call(x).await })
    };
    let kept: Vec<_> = (0..2).map(call).collect();
    eventually("both threads are held", || gate.waiting() == 2);
    let gone: Vec<_> = (2..30).map(call).collect();
    eventually("they wait in the queue", || gone.iter().all(|call| !call.is_finished()));
    gone.iter().for_each(|call| call.abort());
    join_all(gone).await;
    gate.open();
    within("those that were kept", join_all(kept)).await;
    assert_eq!(within("one more", call(30)).await.unwrap().unwrap(), 30);
    assert_eq!(ran.load(SeqCst), 3);
}
