//! Cards that are made up, in real time: which threshold is short, what is said, and whose fault it is.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Mutex, PoisonError};

use super::*;
use crate::node::bounded::Bounded;
use crate::node::card::{Card, Seen};
use crate::source::memory::Memory;
use crate::{Bytes, DeviceSpeed, EXIT_NODE_FAULT, Pipeline, Result, Worker};

const GIB: u64 = 1 << 30;

/// A machine with these cards and no bucket.
fn with(cards: impl Fn() -> Result<Seen> + Send + Sync + 'static) -> Fitness {
    let mut fitness = fitness(&Link::new()).tries(1).unfit(Unfit::Exit).patience(Duration::ZERO);
    fitness.store = None;
    fitness.cards = Some(Bounded::new("cards", 10 * MINUTE, cards));
    fitness
}

/// A driver of 2025 with a card of 24 GB and an older one.
fn two() -> Result<Seen> {
    let card = |capability, free| Card {
        capability: Some(capability),
        memory_free: Some(free),
        memory_total: Some(24 * GIB),
        ..Card::default()
    };
    let cards = vec![Ok(card((8, 9), 20 * GIB)), Ok(card((7, 5), 22 * GIB))];
    Ok(Seen { driver: "570.86.15".to_owned(), cards, xids: Vec::new() })
}

fn no_driver() -> Result<Seen> {
    Err(Error::fatal("the NVIDIA driver cannot be asked (no library)"))
}

fn at(tflops: f64, copy: f64) -> impl Fn() -> Result<DeviceSpeed> + Send + Sync + 'static {
    move || Ok(DeviceSpeed { tflops, copy })
}

async fn said(fitness: Fitness) -> (Fault, String) {
    let why = fitness.check().await.unwrap_err();
    (why.fault(), why.to_string())
}

#[tokio::test]
async fn without_thresholds_the_cards_are_figures_and_anything_will_do() {
    let figures = with(two).device(at(81.3, 24.9)).check().await.unwrap();
    assert_eq!(figures.gpu_driver.as_deref(), Some("570.86.15"));
    assert_eq!((figures.gpu_capability, figures.gpu_memory), (Some((7, 5)), Some(20 * GIB)));
    assert_eq!((figures.gpu_tflops, figures.gpu_copy), (Some(81.3), Some(24.9)));

    let figures = with(no_driver).device(|| Err(Error::failed("no card"))).check().await.unwrap();
    assert_eq!((figures.gpu_driver, figures.gpu_capability, figures.gpu_memory), (None, None, None));
    assert_eq!((figures.gpu_tflops, figures.gpu_copy), (None, None));
}

#[tokio::test]
async fn each_threshold_is_met_at_its_value_and_named_above_it() {
    let measured = || with(two).device(at(80.0, 24.5));
    let met = measured().gpu_driver(570).gpu_capability(7, 5).gpu_memory(20 * GIB).gpu_tflops(80).gpu_copy(24);
    met.check().await.unwrap();

    let wrong = [
        (measured().gpu_driver(580), "driver of the cards: 570.86.15, wanted at least 580 (FOREBAY_NODE_GPU_DRIVER)"),
        (
            measured().gpu_capability(8, 0),
            "compute capability: 7.5 of card 1, wanted at least 8.0 (FOREBAY_NODE_GPU_CAPABILITY)",
        ),
        (
            measured().gpu_memory(21 * GIB),
            "free memory of the cards: 21474836480 bytes of card 0, wanted at least 22548578304 (FOREBAY_NODE_GPU_MEMORY)",
        ),
        (
            measured().gpu_tflops(81),
            "matrix product on the device: 80.0 TFLOP/s, wanted at least 81 (FOREBAY_NODE_GPU_TFLOPS)",
        ),
        (measured().gpu_copy(25), "copy to the device: 24.5 GB/s, wanted at least 25 (FOREBAY_NODE_GPU_COPY)"),
    ];
    for (fitness, text) in wrong {
        assert_eq!(said(fitness).await, (Fault::Fatal, text.to_owned()));
    }
    let all = measured().gpu_driver(580).gpu_capability(8, 0).gpu_memory(21 * GIB).gpu_tflops(81).gpu_copy(25);
    assert_eq!(said(all).await.1.matches("; ").count(), 4);
}

#[tokio::test]
async fn a_card_that_is_wanted_and_not_there_is_the_nodes_fault() {
    let why = "unknown, since the NVIDIA driver cannot be asked (no library), wanted at least";
    for fitness in [with(no_driver).gpu_driver(1), with(no_driver).gpu_capability(1, 0), with(no_driver).gpu_memory(1)]
    {
        let (fault, text) = said(fitness).await;
        assert_eq!(fault, Fault::Fatal);
        assert!(text.contains(why), "{text}");
    }
    let none = || Ok(Seen { cards: Vec::new(), ..two()? });
    with(none).gpu_driver(570).check().await.unwrap();
    let text = "compute capability: unknown, since the driver shows no card, wanted at least 7.5 \
                (FOREBAY_NODE_GPU_CAPABILITY)";
    assert_eq!(said(with(none).gpu_capability(7, 5)).await, (Fault::Fatal, text.to_owned()));

    let lost = || Ok(Seen { cards: vec![Ok(Card::default()), Err(Error::fatal("it fell off the bus"))], ..two()? });
    let (_, text) = said(with(lost).gpu_memory(1)).await;
    assert!(text.starts_with("free memory of the cards: unknown, since card 0 does not tell its memory, "), "{text}");
    let lost = || Ok(Seen { cards: vec![Err(Error::fatal("it fell off the bus"))], ..two()? });
    let (_, text) = said(with(lost).gpu_memory(1)).await;
    assert!(text.contains("unknown, since card 0 cannot be read: it fell off the bus, wanted"), "{text}");
}

#[tokio::test]
async fn what_the_program_was_not_built_to_look_at_is_for_the_operator_to_mend() {
    let mut blind = with(two).gpu_driver(580);
    blind.cards = None;
    let text = "driver of the cards: unknown, since this program was built without forebay's feature `nvml`, \
                wanted at least 580 (FOREBAY_NODE_GPU_DRIVER)";
    assert_eq!(said(blind).await, (Fault::Invalid, text.to_owned()));
    let text = "copy to the device: unknown, since this program measures no device (Fitness::device), wanted at least 1 \
                (FOREBAY_NODE_GPU_COPY)";
    assert_eq!(said(with(two).gpu_copy(1)).await, (Fault::Invalid, text.to_owned()));
    let unset = with(two).gpu_tflops(1).device(|| Err(Error::invalid("built without the feature `cuda`")));
    assert_eq!(said(unset).await.0, Fault::Invalid);
}

#[tokio::test]
async fn a_measurement_that_fails_panics_or_says_nonsense_falls_short() {
    let measures: [fn() -> Result<DeviceSpeed>; 3] = [
        || Err(Error::transient("the card is busy")),
        || panic!("no libcuda"),
        || Ok(DeviceSpeed { tflops: f64::NAN, copy: 1.0 }),
    ];
    let texts = ["unknown, since the card is busy", "unknown, since panicked: no libcuda", "NaN TFLOP/s"];
    for (measure, text) in measures.into_iter().zip(texts) {
        let text = format!("matrix product on the device: {text}, wanted at least 1 (FOREBAY_NODE_GPU_TFLOPS)");
        assert_eq!(said(with(two).gpu_tflops(1).device(measure)).await, (Fault::Fatal, text));
    }
}

#[tokio::test]
async fn one_that_hangs_costs_one_thread_and_is_asked_again_when_it_has_ended() {
    let (release, released) = channel::<()>();
    let (released, calls) = (Mutex::new(released), Arc::new(AtomicUsize::new(0)));
    let counted = calls.clone();
    let measure = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let _ = released.lock().unwrap_or_else(PoisonError::into_inner).recv();
        Ok(DeviceSpeed { tflops: 2.0, copy: 2.0 })
    };
    let mut fitness = with(two).gpu_tflops(1).device(measure);
    fitness.speed = fitness.speed.map(|speed| speed.within(Duration::from_millis(50)));
    assert!(said(fitness.clone()).await.1.contains("unknown, since no answer within 0.05 s, wanted"));
    let again = said(fitness.clone()).await.1;
    assert!(again.contains("unknown, since there was no answer, and there still is none, wanted"), "{again}");
    assert_eq!(calls.load(Ordering::SeqCst), 1);

    // With whoever tells nothing any more, every call answers at once.
    drop(release);
    fitness.speed = fitness.speed.map(|speed| speed.within(MINUTE));
    while fitness.check().await.is_err() {
        tokio::task::yield_now().await;
    }
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_takes_no_job_on_such_a_node_and_ends_with_70() {
    let measured = || with(two).device(at(80.0, 24.5));
    let unfit = [
        measured().gpu_driver(580),
        measured().gpu_capability(8, 0),
        measured().gpu_memory(21 * GIB),
        measured().gpu_tflops(81),
        measured().gpu_copy(25),
        with(no_driver).gpu_driver(580),
    ];
    for fitness in unfit {
        let queue = Memory::new();
        queue.push("job", "x");
        let echo = Pipeline::new().io("echo", 1, async |_, x: Bytes| Ok(x));
        let code = Worker::bytes(echo).source(queue.clone()).fit(fitness).run().await;
        assert_eq!(code, ExitCode::from(EXIT_NODE_FAULT));
        assert_eq!((queue.waiting(), queue.done()), (1, 0));
    }
}

#[cfg(feature = "telemetry")]
#[tokio::test]
async fn the_figures_are_metrics() {
    use crate::telemetry::{self, NodeMeter, Telemetry};

    let figures = with(two).device(at(80.0, 24.5)).check().await.unwrap();
    let recorder = Telemetry::new();
    metrics::with_local_recorder(&recorder, || NodeMeter::show(&figures));
    let shown = recorder.snapshot();
    let gauges = [
        (telemetry::NODE_GPU_DRIVER, 570.0),
        (telemetry::NODE_GPU_CAPABILITY, 7.5),
        (telemetry::NODE_GPU_MEMORY, 20.0 * GIB as f64),
        (telemetry::NODE_GPU_FLOPS, 80e12),
        (telemetry::NODE_GPU_COPY, 24.5e9),
    ];
    for (name, value) in gauges {
        assert_eq!(shown.gauge(name, &[]), value, "{name}");
    }
}
