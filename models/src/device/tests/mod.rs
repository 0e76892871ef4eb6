//! What is asked for, which kernels run where, and (in `cards`) what can be wrong with a card.

#![allow(clippy::unwrap_used)]

// Of one generation, which a build for another one refuses.
#[cfg(not(feature = "cuda"))]
mod cards;

use candle_core::Device;
use forebay::Fault;

use super::architecture::{Built, Capability};
use super::{DeviceChoice, device_speed, room_for};

#[test]
fn a_choice_is_read_as_it_is_written() {
    for (text, choice) in [
        ("auto", DeviceChoice::Auto),
        ("cpu", DeviceChoice::Cpu),
        ("cuda:0", DeviceChoice::Cuda(0)),
        ("cuda:13", DeviceChoice::Cuda(13)),
    ] {
        assert_eq!(text.parse::<DeviceChoice>().unwrap(), choice);
        assert_eq!(choice.to_string(), text);
    }
    assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
    assert_eq!(DeviceChoice::of("").unwrap(), DeviceChoice::Auto);
    for text in ["", "gpu", "CUDA", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1", "cuda:1x", "cuda:99999999999999999999"] {
        let why = text.parse::<DeviceChoice>().unwrap_err();
        assert_eq!(why.fault(), Fault::Invalid);
        assert!(why.to_string().contains(&format!("`{text}` is no device: say `auto`")), "{why}");
    }
}

#[test]
fn the_cpu_needs_no_driver() {
    assert!(DeviceChoice::Cpu.open().unwrap().is_cpu());
    room_for(u64::MAX, &Device::Cpu).unwrap();
}

#[cfg(not(feature = "cuda"))]
#[test]
fn without_cuda_a_card_is_refused_and_auto_is_the_cpu() {
    assert!(DeviceChoice::Auto.open().unwrap().is_cpu());
    for why in [DeviceChoice::Cuda(0).open().unwrap_err(), DeviceChoice::of("cuda:1").unwrap_err()] {
        assert_eq!(why.fault(), Fault::Invalid);
        assert!(why.to_string().contains("built without CUDA"), "{why}");
        assert!(why.to_string().contains("FOREBAY_DEVICE=cpu"), "{why}");
    }
}

#[test]
fn kernels_run_on_the_cards_that_they_were_built_for() {
    let capability = |number: i32| Capability { major: number / 10, minor: number % 10 };
    type Case = (Option<&'static str>, Option<&'static str>, &'static str, &'static [i32], &'static [i32]);
    let cases: [Case; 8] = [
        (None, None, "any card", &[80, 90, 120], &[]),
        (Some("80"), None, "8.0 only", &[80, 86, 89], &[75, 90, 120]),
        (Some("89"), None, "8.9 only", &[89], &[80, 86, 90, 120]),
        (Some("90"), None, "9.0 only", &[90], &[80, 89, 100, 120]),
        (Some("90a"), Some(""), "9.0 only", &[90], &[89, 100]),
        (Some("12.0"), None, "12.0 only", &[120], &[121, 100, 90]),
        (Some("80"), Some("80 90 100 120"), "8.0 and later", &[80, 86, 90, 103, 120, 121], &[75]),
        (Some("86"), Some("90 86"), "8.6 and later", &[86, 89, 90], &[80]),
    ];
    for (one, many, said, runs, fails) in cases {
        let built = Built::of(one, many);
        assert_eq!(built.to_string(), said);
        assert!(runs.iter().all(|card| built.runs_on(capability(*card))), "{said} runs on {runs:?}");
        assert!(!fails.iter().any(|card| built.runs_on(capability(*card))), "{said} does not run on {fails:?}");
    }
}

#[test]
fn the_cpu_has_a_speed() {
    let speed = device_speed(&Device::Cpu).unwrap();
    assert!(speed.tflops > 1e-4 && speed.tflops < 1e3, "{speed:?}");
    assert!(speed.copy > 1e-2 && speed.copy < 1e4, "{speed:?}");
}
