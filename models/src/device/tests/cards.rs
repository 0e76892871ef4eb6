//! Every way in which a card cannot be used, before a driver and libraries that the tests compile.
//!
//! A loaded library stays loaded, so each case is a process of its own: this program again, told by `CARD` to look for the
//! card of that number instead of testing.

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

use super::super::cuda::driver;
use crate::{Card, Memory};

const NUMBER: &str = "FOREBAY_TEST_CARD";
const MIB: u64 = 1 << 20;
/// The names that are looked for, in their order.
const ENDINGS: [&str; 7] = ["", ".13", ".12", ".11", ".10", ".9", ".1"];

/// A folder of libraries, for the loader to look into first.
struct Machine(TempDir);

impl Machine {
    /// One with everything.
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.compile("libcuda.so.1", concat!(env!("CARGO_MANIFEST_DIR"), "/src/device/tests/fake_driver.c"));
        let nothing = machine.0.path().join("nothing.c");
        std::fs::write(&nothing, "int nothing;").unwrap();
        for library in ["libcublasLt.so.13", "libcublas.so.13", "libcurand.so.10"] {
            machine.compile(library, nothing.to_str().unwrap());
        }
        machine
    }

    fn compile(&self, library: &str, source: &str) {
        let to = self.0.path().join(library);
        let status = Command::new("cc").args(["-shared", "-fPIC", source, "-o"]).arg(to).status().unwrap();
        assert!(status.success(), "{source} compiles");
        self.break_names(library.split_once(".so").unwrap().0, Some(library));
    }

    /// Puts files that are no libraries where this one is looked for, all but one: so that the machine's own are not found.
    fn break_names(&self, stem: &str, except: Option<&str>) {
        for ending in ENDINGS {
            let name = format!("{stem}.so{ending}");
            if except != Some(&name) {
                std::fs::write(self.0.path().join(name), "").unwrap();
            }
        }
    }

    /// What a process on this machine says about the card of this number.
    fn ask(&self, number: usize, settings: &[(&str, &str)]) -> String {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "device::tests::cards::a_process_looks_for_a_card", "--nocapture"]);
        command.env("LD_LIBRARY_PATH", self.path()).env(NUMBER, number.to_string()).envs(settings.iter().copied());
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
        assert!(status.success() && !said.contains("panicked") && !said.contains("were left"), "{said}");
        said
    }

    /// The folder before those that are set.
    fn path(&self) -> std::ffi::OsString {
        let set = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let folders = std::iter::once(self.0.path().to_owned()).chain(std::env::split_paths(&set));
        std::env::join_paths(folders.filter(|folder| folder != Path::new(""))).unwrap()
    }
}

/// No test, but what [`Machine::ask`] starts.
#[test]
fn a_process_looks_for_a_card() {
    let Ok(number) = std::env::var(NUMBER) else { return };
    match Card::find(number.parse().unwrap()) {
        Ok(card) => {
            println!("found {card}");
            driver().and_then(|driver| driver.keep_pool(40)).unwrap();
            match card.memory() {
                Ok(Memory { free, total }) => println!("free {} of {} MiB", free / MIB, total / MIB),
                Err(why) => println!("{why:?}"),
            }
            println!("room: {:?}", card.room_for(500 * MIB));
        }
        Err(why) => println!("{why:?}"),
    }
}

#[test]
fn a_card_that_is_well_is_found_and_its_memory_known() {
    let machine = Machine::new();
    let said = machine.ask(0, &[]);
    assert!(said.contains("found cuda:0: Fake H200, compute capability 9.0, 8.0 GiB, driver for CUDA 13.0"), "{said}");
    assert!(said.contains("the pool keeps all"), "{said}");
    // What the pool keeps and does not use is there to be used.
    assert!(said.contains("free 4480 of 8192 MiB") && said.contains("room: Ok"), "{said}");
    let said = machine.ask(0, &[("FAKE_POOL", "801"), ("FAKE_CAPABILITY", "80"), ("FAKE_VERSION", "13010")]);
    assert!(said.contains("compute capability 8.0, 8.0 GiB, driver for CUDA 13.1"), "{said}");
    assert!(said.contains("free 4096 of 8192 MiB") && !said.contains("the pool keeps all"), "{said}");
}

#[test]
fn each_trouble_has_its_own_message_and_fault() {
    type Case = (usize, &'static [(&'static str, &'static str)], &'static str, &'static [&'static str]);
    let cases: &[Case] = &[
        (0, &[("FAKE_INIT", "100")], "fatal", &["finds no card", "NVIDIA_VISIBLE_DEVICES"]),
        (0, &[("FAKE_COUNT", "0")], "fatal", &["finds no card", "NVIDIA_VISIBLE_DEVICES"]),
        (0, &[("FAKE_INIT", "802")], "fatal", &["cuInit answered CUDA_ERROR_SYSTEM_NOT_READY", "nvidia-smi"]),
        (0, &[("FAKE_INIT", "7")], "fatal", &["cuInit answered error 7"]),
        (0, &[("FAKE_VERSION", "12080")], "fatal", &["driver is too old", "serves CUDA 12.8", "580 or later"]),
        // Too old counts first: the rest may come of it.
        (0, &[("FAKE_VERSION", "12080"), ("FAKE_INIT", "100")], "fatal", &["driver is too old"]),
        (1, &[], "fatal", &["there is no card cuda:1", "finds 1, counted from cuda:0"]),
        (
            0,
            &[("FAKE_CAPABILITY", "75")],
            "fatal",
            &["Fake H200 has compute capability 7.5", "8.0 (Ampere) is the lowest"],
        ),
        (0, &[("FAKE_MEMORY", "2")], "fatal", &["cuMemGetInfo answered error 2"]),
        (
            0,
            &[("FAKE_FREE_MIB", "100"), ("FAKE_POOL", "801")],
            "fatal",
            &["the weights need 500.0 MiB, and of 8192.0 MiB there are 100.0 MiB free", "a larger one"],
        ),
    ];
    let machine = Machine::new();
    for (number, settings, fault, words) in cases {
        let said = machine.ask(*number, settings);
        assert!(said.contains(&format!("{fault}: ")), "{settings:?}: {said}");
        for word in *words {
            assert!(said.contains(word), "{settings:?}: `{word}` should be in: {said}");
        }
    }
}

#[test]
fn a_library_that_is_missing_is_named() {
    for (library, fault, advice) in [
        ("libcuda.so.1", "fatal", "driver 580 or later"),
        ("libcublas.so.13", "invalid", "install it with the image"),
        ("libcublasLt.so.13", "invalid", "install it with the image"),
        ("libcurand.so.10", "invalid", "install it with the image"),
    ] {
        let machine = Machine::new();
        machine.break_names(library.split_once(".so").unwrap().0, None);
        let said = machine.ask(0, &[]);
        assert!(said.contains(&format!("{fault}: ")) && said.contains(advice), "{said}");
        assert!(said.contains(&format!("{library} cannot be loaded")), "{said}");
    }
}

#[test]
fn a_driver_without_functions_is_an_error() {
    let machine = Machine::new();
    std::fs::copy(machine.0.path().join("libcurand.so.10"), machine.0.path().join("libcuda.so.1")).unwrap();
    let said = machine.ask(0, &[]);
    assert!(said.contains("fatal: ") && said.contains("has no function cuDriverGetVersion"), "{said}");
}
