//! A copy that is killed half-way goes on where it was.

use std::fs;
use std::process::Stdio;

use forebay_tests::{Link, eventually};

use crate::{Said, World, bytes, forebay};

const LEN: usize = 64_000_000;
/// Bits a second: slow enough to be killed half-way.
const RATE: u64 = 200_000_000;

/// Runs it over a slow link until `half_way`, sends it the signal, and then runs it again without one.
fn cut_off(world: &World, arguments: &[&str], signal: &str, half_way: impl Fn() -> bool) -> (Said, Said) {
    let link = Link::to(world.server.address()).up(RATE).down(RATE).open();
    // What was cut off is known by the endpoint too.
    let mut command = forebay(world.at.path(), &link.endpoint(), arguments);
    let first = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("it is half-way", half_way);
    let kill = std::process::Command::new("sh").arg("-c").arg(format!("kill -{signal} {}", first.id())).status();
    assert!(kill.unwrap().success());
    let first: Said = first.wait_with_output().unwrap().into();
    let second: Said = forebay(world.at.path(), &link.endpoint(), arguments).output().unwrap().into();
    assert_eq!(second.code, Some(0), "{second:?}");
    (first, second)
}

/// Parts that are noted of uploads.
fn parts(world: &World) -> usize {
    let journals = fs::read_dir(world.path(".uploads")).into_iter().flatten().flatten();
    journals.map(|entry| fs::read_to_string(entry.path()).unwrap_or_default().lines().skip(1).count()).sum()
}

fn ranges(world: &World, log: &str) -> usize {
    fs::read_to_string(world.path(log)).unwrap_or_default().lines().skip(1).count()
}

/// Bytes that it says were kept, which are some and not all.
fn kept(said: &Said) {
    let told = said.out.split("; ").find(|part| part.contains("were kept from an earlier attempt"));
    let megabytes = told.and_then(|told| told.split(" MB").next()).and_then(|number| number.parse::<f64>().ok());
    let megabytes = megabytes.unwrap_or_else(|| panic!("{said:?}"));
    assert!(megabytes >= 4.0 && megabytes < LEN as f64 / 1e6, "{said:?}");
    println!("{}", said.out.trim());
}

#[test]
fn an_upload_that_was_killed_goes_on() {
    let Some(world) = World::at_garage() else { return };
    world.write("big", bytes(LEN));
    let arguments = ["store", "cp", "big", "s3://forebay/up/big"];
    let (first, second) = cut_off(&world, &arguments, "KILL", || parts(&world) >= 1);
    assert_eq!(first.code, None);
    kept(&second);
    assert!(world.cat("up/big") == bytes(LEN));
    assert_eq!(fs::read_dir(world.path(".uploads")).unwrap().count(), 0, "nothing is left open");
}

#[test]
fn a_download_that_was_killed_goes_on() {
    let world = World::new();
    crate::write(&world.object("big"), &bytes(LEN));
    let arguments = ["store", "cp", "s3://forebay/big", "big"];
    let (first, second) = cut_off(&world, &arguments, "KILL", || ranges(&world, ".big.partial.log") >= 1);
    assert_eq!(first.code, None);
    kept(&second);
    assert!(world.read("big") == bytes(LEN));
    assert!(!world.path(".big.partial").exists() && !world.path(".big.partial.log").exists());
}

#[test]
fn told_to_stop_it_says_what_to_do_and_goes_on_too() {
    let Some(world) = World::at_garage() else { return };
    world.write("in/big", bytes(LEN));
    world.write("in/a", "small");
    let arguments = ["store", "cp", "-r", "in", "s3://forebay/x"];
    let (first, second) = cut_off(&world, &arguments, "INT", || parts(&world) >= 1);
    assert!(first.code == Some(1) && first.err.contains("the same command goes on"), "{first:?}");
    kept(&second);
    assert!(second.out.starts_with("copied 1 file,") && second.out.contains("1 there already"), "{second:?}");
    assert!(world.cat("x/big") == bytes(LEN));
}
