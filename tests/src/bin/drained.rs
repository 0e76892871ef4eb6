//! A worker to be sent signals: `drained SCENARIO`. It says when its jobs are where the scenario wants them, and
//! after the drain what became of them, one `key=value` a line.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use forebay::source::memory::Memory;
use forebay::{Batching, Bytes, Error, Job, Meta, Pipeline, Result, Worker};
use forebay_tests::{Extend, Gate, Ledger, Settle, eventually, model};

const GRACE: Duration = Duration::from_millis(300);
const JOBS: usize = 3;

fn main() -> ExitCode {
    let scenario = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime should start");
    match scenario.as_str() {
        "run-stopped" => runtime.block_on(waiting_worker().run()),
        "run-hanging-cpu" => {
            let (queue, busy) = (queue(), Gate::new());
            say_when(&busy, 2);
            runtime.block_on(Worker::bytes(cpu(busy, forever)).source(queue).grace(GRACE).run())
        }
        "run-fatal" => {
            let ill = |_: &Job, _| -> Result<Bytes> { Err(Error::fatal("the disk is gone")) };
            runtime.block_on(Worker::bytes(Pipeline::new().cpu("ill", 1, ill)).source(queue()).run())
        }
        "run-not-ready" => {
            let pipeline = Pipeline::new().gpu("absent", Batching::items(1), || {
                println!("ready");
                let infer = |inputs: &[Bytes]| Ok(inputs.to_vec());
                Err(Error::invalid("no weights")).map(|()| model(infer))
            });
            runtime.block_on(Worker::bytes(pipeline).source(queue()).run())
        }
        "run-no-node" => {
            let pipeline = Pipeline::new().gpu("absent", Batching::items(1), || {
                let infer = |inputs: &[Bytes]| Ok(inputs.to_vec());
                Err(Error::fatal("no device")).map(|()| model(infer))
            });
            runtime.block_on(Worker::bytes(pipeline).source(queue()).run())
        }
        "deadline" => {
            // One job that is rejected while its stage hangs; then the source is at its end.
            let queue = Memory::new();
            let deadline = Some(tokio::time::Instant::now() + GRACE);
            queue.push_with("late", "x", Meta { deadline, ..Meta::default() });
            queue.close();
            let report = runtime.block_on(Worker::bytes(cpu(Gate::new(), forever)).source(queue).run_once());
            println!("report={}", report.expect("no source fails"));
            std::process::exit(0)
        }
        "settle-hangs" => settle_hangs(&runtime),
        _ => once(&runtime, &scenario),
    }
}

/// A worker that has nothing to do. It listens for signals before it loads its models.
fn waiting_worker() -> Worker {
    let pipeline = Pipeline::new().gpu("idle", Batching::items(1), || {
        println!("ready");
        Ok(model(|inputs: &[Bytes]| Ok(inputs.to_vec())))
    });
    Worker::bytes(pipeline).source(Memory::new())
}

fn queue() -> Memory {
    let queue = Memory::new();
    (0..JOBS).for_each(|n| queue.push(format!("job-{n}"), "x"));
    queue
}

fn forever(_: &Job) {
    loop {
        std::thread::park();
    }
}

fn cpu(busy: Gate, work: fn(&Job)) -> Pipeline<Bytes, Bytes> {
    Pipeline::new().cpu("busy", 2, move |job, x| {
        busy.open();
        busy.pass();
        work(job);
        Ok(x)
    })
}

/// Says `ready` when so many have passed.
fn say_when(gate: &Gate, count: usize) {
    let gate = gate.clone();
    std::thread::spawn(move || {
        eventually("jobs are where they should be", || gate.passed() >= count);
        println!("ready");
    });
}

/// Runs once, says what became of the jobs, and ends without waiting for threads that hang.
fn once(runtime: &tokio::runtime::Runtime, scenario: &str) -> ExitCode {
    let (queue, busy) = (queue(), Gate::new());
    busy.open();
    let (entered, mut grace) = (busy.clone(), GRACE);
    let (pipeline, ready_at) = match scenario {
        "io" => {
            let pipeline = Pipeline::new().io("busy", 8, move |_, x: Bytes| {
                entered.pass();
                async move {
                    std::future::pending::<()>().await;
                    Ok(x)
                }
            });
            (pipeline, JOBS)
        }
        "blocking-io" => {
            let pipeline = Pipeline::new().io("busy", 1, move |job, x: Bytes| {
                entered.pass();
                async move {
                    forever(&job);
                    Ok(x)
                }
            });
            (pipeline, 1)
        }
        "cpu" => (cpu(busy.clone(), forever), 2),
        "gpu" => {
            let pipeline = Pipeline::new().gpu("busy", Batching::items(1), move || {
                let entered = entered.clone();
                Ok(model(move |inputs: &[Bytes]| {
                    entered.pass();
                    loop {
                        if inputs.is_empty() {
                            return Ok(Vec::new());
                        }
                        std::thread::park();
                    }
                }))
            });
            (pipeline, 1)
        }
        "heeds" => {
            // Long work that asks whether to stop.
            let heed = |job: &Job| {
                while !job.is_cancelled() {
                    std::thread::sleep(Duration::from_millis(5));
                }
            };
            (cpu(busy.clone(), heed), 2)
        }
        "finishes" => {
            grace = Duration::from_secs(30);
            (cpu(busy.clone(), |_| std::thread::sleep(Duration::from_millis(300))), 2)
        }
        "again" => {
            grace = Duration::from_secs(3_600);
            let pipeline = Pipeline::new().io("busy", 8, move |_, x: Bytes| {
                entered.pass();
                async move {
                    std::future::pending::<()>().await;
                    Ok(x)
                }
            });
            (pipeline, JOBS)
        }
        other => panic!("there is no scenario `{other}`"),
    };
    // More than are taken, where the scenario is that those which were taken are finished.
    (0..5).filter(|_| scenario == "finishes").for_each(|n| queue.push(format!("late-{n}"), "x"));
    say_when(&busy, ready_at);
    let worker = Worker::bytes(pipeline).source(queue.clone()).in_flight(JOBS).grace(grace);
    let start = Instant::now();
    let report = runtime.block_on(worker.run_once());
    println!("seconds={}", start.elapsed().as_secs());
    match report {
        Ok(report) => println!("report={report}"),
        Err(why) => println!("error={why}"),
    }
    println!("leased={}\nwaiting={}\ndone={}", queue.leased(), queue.waiting(), queue.done());
    std::process::exit(0)
}

/// A source that does not hear verdicts.
fn settle_hangs(runtime: &tokio::runtime::Runtime) -> ExitCode {
    let source = Ledger::new(Duration::from_secs(60));
    let hangs = [Settle::Hang; 9];
    (0..JOBS).for_each(|n| source.push(format!("job-{n}"), "x", &[Extend::Keep], &hangs));
    let busy = Gate::new();
    let heed = |job: &Job| {
        while !job.is_cancelled() {
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    say_when(&busy, 2);
    let worker = Worker::bytes(cpu(busy, heed)).source(source.clone()).grace(GRACE);
    let start = Instant::now();
    let report = runtime.block_on(worker.run_once());
    println!("seconds={}", start.elapsed().as_secs());
    println!("report={}", report.expect("no source fails"));
    println!("broken={}", source.broken().len());
    std::process::exit(0)
}
