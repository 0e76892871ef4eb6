//! Several sources feed one worker: a lower one leaves room to a higher one, whose jobs go first at every stage, and
//! gets its turn all the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use forebay::source::memory::Memory;
use forebay::{Batching, Pipeline, Priority, Worker};
use forebay_tests::{Gate, eventually, model, stays};

/// Which jobs a stage has worked on, in order.
#[derive(Clone, Default)]
struct Order(Arc<Mutex<Vec<String>>>);

impl Order {
    fn get(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// One thread, or a device, that works on one job at a time once the gate lets it through.
fn gated(stage: &str, gate: &Gate, order: &Order) -> Pipeline<String, String> {
    let (gate, order) = (gate.clone(), order.clone());
    let work = move |name: &String| {
        gate.pass();
        order.0.lock().unwrap().push(name.clone());
    };
    match stage {
        "thread" => Pipeline::new().cpu("work", 1, move |_, name: String| {
            work(&name);
            Ok(name)
        }),
        "door" => Pipeline::new().io("work", 1, move |_, name: String| {
            let work = work.clone();
            async move {
                tokio::task::spawn_blocking(move || work(&name)).await.unwrap();
                Ok(String::new())
            }
        }),
        _ => Pipeline::new().gpu("work", Batching::items(1), move || {
            let work = work.clone();
            Ok(model(move |names: &[String]| {
                names.iter().for_each(&work);
                Ok(names.to_vec())
            }))
        }),
    }
}

fn queue(name: &str, jobs: usize) -> Memory {
    let queue = Memory::new();
    (0..jobs).for_each(|n| queue.push(format!("{name}{n}"), format!("\"{name}{n}\"")));
    queue
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_passes_by_the_work_of_a_lower_source_at_every_kind_of_stage() {
    for stage in ["thread", "door", "device"] {
        let (gate, order) = (Gate::new(), Order::default());
        let (requests, backlog) = (queue("request", 0), queue("backlog", 20));
        let worker = Worker::new(gated(stage, &gate, &order)).in_flight(8);
        let worker = worker.source_at(Priority::Low, backlog.clone()).source(requests.clone());
        let running = tokio::spawn(worker.run_once());

        eventually("the backlog takes three quarters", || backlog.leased() == 6);
        stays(6, || backlog.leased());
        eventually("one is at work", || gate.waiting() == 1);
        (0..2).for_each(|n| requests.push(format!("request{n}"), format!("\"request{n}\"")));
        eventually("requests find room in the full worker", || requests.leased() == 2);
        stays((6, 2), || (backlog.leased(), requests.leased()));
        gate.open();
        requests.close();
        backlog.close();
        let report = running.await.unwrap().unwrap();
        assert_eq!(report.done, 22, "{stage}");
        let order = order.get();
        // A job that is in a stage stays there, and this many are in this one.
        let inside = if stage == "device" { 4 } else { 1 };
        let before = order.iter().rposition(|name| name.starts_with("request")).unwrap() - 1;
        assert!(before <= inside, "{stage}: {order:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_free_goes_to_the_higher_source_but_for_one_place() {
    let (gate, order) = (Gate::new(), Order::default());
    let (requests, backlog) = (queue("request", 100), queue("backlog", 100));
    let worker = Worker::new(gated("thread", &gate, &order)).in_flight(4);
    // Of one priority in the stages, so that all take turns there.
    let worker = worker.source_at(Priority::Normal, backlog.clone()).source(requests.clone());
    let running = tokio::spawn(worker.run_once());
    let held = || (requests.leased(), backlog.leased());
    eventually("there is as much as may be", || held() == (1, 3));
    for done in 1..=40 {
        gate.admit(1);
        eventually("one is done", || requests.done() + backlog.done() == done);
        eventually("another has come", || held().0 + held().1 == 4);
        assert!(held().1 >= 1, "the lower source always has a job here");
        assert!(done < 4 || held() == (3, 1), "after {done}: {:?}", held());
    }
    requests.close();
    backlog.close();
    gate.open();
    assert_eq!(running.await.unwrap().unwrap().done, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn room_is_kept_for_requests_however_many_have_come_and_gone() {
    let (gate, order) = (Gate::new(), Order::default());
    let (requests, backlog) = (queue("request", 0), queue("backlog", 30));
    // More threads than the backlog may have jobs.
    let (held, free) = (gate.clone(), order.clone());
    let pipeline = Pipeline::new().cpu("work", 8, move |_, name: String| {
        if name.starts_with("backlog") {
            held.pass();
        }
        free.0.lock().unwrap().push(name.clone());
        Ok(name)
    });
    let worker = Worker::new(pipeline).in_flight(8).source_at(Priority::Low, backlog.clone()).source(requests.clone());
    let running = tokio::spawn(worker.run_once());
    eventually("the backlog takes three quarters", || backlog.leased() == 6);
    for n in 0..10 {
        requests.push(format!("request{n}"), format!("\"request{n}\""));
        eventually("the request is done", || requests.done() == n + 1);
        stays(6, || backlog.leased());
    }
    gate.open();
    requests.close();
    backlog.close();
    assert_eq!(running.await.unwrap().unwrap().done, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_lower_source_leaves_all_but_one_place_to_requests() {
    let (gate, order) = (Gate::new(), Order::default());
    let (requests, backlog) = (queue("request", 20), queue("backlog", 0));
    let worker = Worker::new(gated("thread", &gate, &order)).in_flight(8);
    let worker = worker.source_at(Priority::Low, backlog.clone()).source(requests.clone());
    let running = tokio::spawn(worker.run_once());
    eventually("requests have all but one place", || requests.leased() == 7);
    stays(7, || requests.leased());
    backlog.push("backlog0", "\"backlog0\"");
    eventually("and that one is free", || backlog.leased() == 1);
    gate.open();
    requests.close();
    backlog.close();
    assert_eq!(running.await.unwrap().unwrap().done, 21);
}
