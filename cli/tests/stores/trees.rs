//! Folders and prefixes: copied, compared, kept the same.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use crate::World;

fn folder(world: &World) {
    for (name, text) in [("in/a", "one"), ("in/b.c", "two"), ("in/deep/er/d", "three"), ("in/z", "")] {
        world.write(name, text);
    }
}

#[test]
fn a_folder_goes_up_and_comes_down_and_is_not_copied_again() {
    let world = World::new();
    folder(&world);
    let said = world.ok(&["store", "cp", "-r", "in", "s3://forebay/x"]);
    assert!(said.out.starts_with("copied 4 files, 11 bytes"), "{said:?}");
    assert_eq!(world.keys(), ["x/a", "x/b.c", "x/deep/er/d", "x/z"]);
    let said = world.ok(&["store", "cp", "-r", "s3://forebay/x", "out"]);
    assert!(said.out.starts_with("copied 4 files, 11 bytes"), "{said:?}");
    for (name, text) in [("out/a", "one"), ("out/deep/er/d", "three"), ("out/z", "")] {
        assert_eq!(world.read(name), text.as_bytes());
    }
    for again in [["in", "s3://forebay/x/"], ["s3://forebay/x/", "out"]] {
        let said = world.ok(&[&["store", "cp", "-r"][..], &again].concat());
        assert!(said.out.starts_with("copied 0 files") && said.out.contains("4 there already"), "{said:?}");
    }
    world.ok(&["store", "cp", "-r", "s3://forebay/x/deep", "s3://forebay/y"]);
    assert_eq!(fs::read(world.object("y/er/d")).unwrap(), b"three");
    let said = world.run(&["store", "cp", "-r", "s3://forebay/none", "out"]);
    assert!(said.code == Some(2) && said.err.contains("there is nothing in"), "{said:?}");
}

#[test]
fn a_sync_copies_what_is_other_and_deletes_when_told() {
    let world = World::new();
    folder(&world);
    world.ok(&["store", "sync", "in", "s3://forebay/x"]);
    fs::remove_file(world.path("in/b.c")).unwrap();
    world.write("in/new", "new");
    // As long, and older: only the checksum tells.
    world.write("in/a", "eno");
    let old = SystemTime::now() - Duration::from_secs(3600);
    File::options().write(true).open(world.path("in/a")).unwrap().set_modified(old).unwrap();

    let dry = world.ok(&["store", "sync", "--delete", "--dry-run", "in", "s3://forebay/x"]);
    let mut lines: Vec<&str> = dry.out.lines().collect();
    lines.sort_unstable();
    let last = "would copy 2 files; 2 there already; 1 would be deleted";
    assert_eq!(lines, ["copy\ta", "copy\tnew", "delete\tb.c", last]);
    assert_eq!(world.keys(), ["x/a", "x/b.c", "x/deep/er/d", "x/z"]);
    assert_eq!(fs::read(world.object("x/a")).unwrap(), b"one");

    let said = world.ok(&["store", "sync", "in", "s3://forebay/x"]);
    assert!(said.out.starts_with("copied 2 files, 6 bytes"), "{said:?}");
    assert_eq!(world.keys(), ["x/a", "x/b.c", "x/deep/er/d", "x/new", "x/z"]);
    assert_eq!(fs::read(world.object("x/a")).unwrap(), b"eno");
    let said = world.ok(&["store", "sync", "--delete", "in", "s3://forebay/x"]);
    assert!(said.out.ends_with("; 4 there already; 1 deleted\n"), "{said:?}");
    assert_eq!(world.keys(), ["x/a", "x/deep/er/d", "x/new", "x/z"]);

    world.write("back/stale", "stale");
    world.write("back/deep/.d.partial", "of a download that is not finished");
    let said = world.ok(&["store", "sync", "--delete", "s3://forebay/x", "back"]);
    assert!(said.out.starts_with("copied 4 files") && said.out.ends_with("; 1 deleted\n"), "{said:?}");
    assert!(!world.path("back/stale").exists() && world.path("back/deep/.d.partial").exists());
    assert_eq!(world.read("back/a"), b"eno");
}

#[test]
fn a_mistyped_source_does_not_empty_the_other_side() {
    let world = World::new();
    world.write("mine/a", "precious");
    let said = world.run(&["store", "sync", "--delete", "s3://forebay/typo", "mine"]);
    assert!(said.code == Some(2) && said.err.contains("everything would be removed"), "{said:?}");
    assert_eq!(world.read("mine/a"), b"precious");
    let said = world.run(&["store", "sync", "--delete", "typo", "s3://forebay/x"]);
    assert!(said.code == Some(2) && said.err.contains("`typo` is no folder"), "{said:?}");
}

#[test]
fn links_are_neither_followed_nor_written_through() {
    let world = World::new();
    folder(&world);
    world.ok(&["store", "cp", "-r", "in", "s3://forebay/x"]);
    world.write("outside/keep", "keep");
    fs::create_dir(world.path("out")).unwrap();
    symlink(world.path("outside"), world.path("out/deep")).unwrap();
    symlink(world.path("outside/keep"), world.path("out/a")).unwrap();
    let said = world.run(&["store", "cp", "-r", "s3://forebay/x", "out"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.out.starts_with("copied 2 files") && said.out.contains("; 2 failed"), "{said:?}");
    assert_eq!(said.err.matches("is a symbolic link: move it away").count(), 2, "{said:?}");
    assert_eq!(fs::read_dir(world.path("outside")).unwrap().count(), 1);
    assert_eq!(world.read("outside/keep"), b"keep");
    // Up, they are left out.
    let said = world.run(&["store", "cp", "-r", "out", "s3://forebay/y"]);
    assert!(said.code == Some(1) && said.out.contains("; 2 left out"), "{said:?}");
    assert_eq!(said.err.matches("left out: ").count(), 2, "{said:?}");
    assert!(!world.object("y/deep").exists() && !world.object("y/a").exists());
}
