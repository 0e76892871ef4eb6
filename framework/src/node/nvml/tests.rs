//! What is read of cards that are made up, through a library of C that this builds; and whatever this machine has.

use super::*;

#[test]
fn what_the_library_tells_is_read_in_its_own_units() {
    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("made_up.c"), folder.path().join("libmade_up.so"));
    std::fs::write(&source, include_str!("made_up.c")).unwrap();
    // What links every program of Rust.
    let mut compiler = std::process::Command::new("cc");
    let built = compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().unwrap();
    assert!(built.success());
    let nvml = Nvml::builder().lib_path(library.as_os_str()).init().unwrap();
    let mut nvidia = Nvidia::new(&nvml).with_xids();
    let mut seen = nvidia.look().unwrap();

    assert_eq!(seen.driver, "580.65.06");
    let lost = seen.cards.remove(2).unwrap_err();
    assert_eq!(lost.to_string(), "device fell off the bus or has otherwise become inacessible");
    let reasons = |on: &[&str]| Some(THROTTLES.map(|(name, _)| (name, on.contains(&name))).to_vec());
    let whole = Card {
        capability: Some((9, 0)),
        memory_free: Some(600),
        memory_used: Some(300),
        memory_total: Some(1000),
        temperature: Some(61),
        power: Some(312_500),
        power_limit: Some(700_000),
        sm_clock: Some(1980),
        memory_clock: Some(3201),
        utilization: Some(97),
        memory_utilization: Some(40),
        throttled: reasons(&["sw_power_cap", "hw_thermal"]),
        ecc_corrected: Some(7),
        ecc_uncorrected: Some(2),
    };
    let part = Card {
        capability: Some((7, 5)),
        temperature: Some(60),
        sm_clock: Some(1979),
        memory_clock: Some(3200),
        throttled: reasons(&[]),
        power: None,
        power_limit: None,
        utilization: None,
        memory_utilization: None,
        ecc_corrected: None,
        ecc_uncorrected: None,
        ..whole.clone()
    };
    let cards: Vec<Card> = seen.cards.into_iter().map(|card| card.unwrap()).collect();
    assert_eq!(cards, [whole, part]);
    assert_eq!(seen.xids, [(0, Some(79)), (0, None)]);
    assert_eq!(nvidia.look().unwrap().xids, [], "each is told once");
}

#[test]
fn a_value_that_a_card_does_not_tell_is_no_error_and_a_lost_card_is() {
    assert_eq!(told(Ok(7)).unwrap(), Some(7));
    for quiet in [NvmlError::NotSupported, NvmlError::NoPermission, NvmlError::Unknown] {
        assert_eq!(told::<u32>(Err(quiet)).unwrap(), None);
    }
    assert!(matches!(told::<u32>(Err(NvmlError::GpuLost)), Err(NvmlError::GpuLost)));
}

/// Where there is a driver its cards are read, and elsewhere it is said what is missing: the machine decides.
#[test]
fn this_machine_can_be_looked_at_with_or_without_a_driver() {
    match look() {
        Ok(seen) => {
            assert!(crate::node::gpu::branch(&seen.driver).is_some(), "{}", seen.driver);
            for card in seen.cards.iter().flatten() {
                assert!(card.memory_free <= card.memory_total, "{card:?}");
            }
        }
        Err(why) => {
            assert_eq!(why.fault(), crate::Fault::Fatal);
            let said = why.to_string();
            assert!(said.starts_with("the NVIDIA driver cannot be asked ("), "{said}");
            assert!(said.ends_with("needs `utility` among NVIDIA_DRIVER_CAPABILITIES"), "{said}");
        }
    }
}
