//! One object: up, down, shown, listed, removed.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;

use serde_json::Value;

use crate::{World, bytes};

#[test]
fn a_file_goes_up_and_comes_down_the_same() {
    let world = World::new();
    // More than one part, and less than one.
    for (name, len) in [("big", 23_000_001), ("small", 5), ("empty", 0)] {
        let content = bytes(len);
        world.write(name, &content);
        let said = world.ok(&["store", "cp", name, "s3://forebay/deep/folder/"]);
        assert!(said.out.starts_with("copied 1 file, "), "{said:?}");
        assert!(fs::read(world.object(&format!("deep/folder/{name}"))).unwrap() == content, "{name}");
        world.ok(&["store", "cp", &format!("s3://forebay/deep/folder/{name}"), "back"]);
        assert!(world.read("back") == content, "{name}");
        world.ok(&["store", "cp", &format!("s3://forebay/deep/folder/{name}"), "into/"]);
        assert!(world.read(&format!("into/{name}")) == content, "{name}");
        world.ok(&["store", "cp", &format!("s3://forebay/deep/folder/{name}"), &format!("s3://forebay/twin-{name}")]);
        assert!(fs::read(world.object(&format!("twin-{name}"))).unwrap() == content, "{name}");
        let said = world.command(&["store", "cat", &format!("s3://forebay/twin-{name}")]).output().unwrap();
        assert!(said.status.success() && said.stdout == content, "{name}");
    }
    let left: Vec<_> = fs::read_dir(world.at.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
}

#[test]
fn standard_input_and_output_are_places_too() {
    let world = World::new();
    let content = bytes(12_345_678);
    let mut up = world.command(&["store", "cp", "-", "s3://forebay/piped"]);
    let mut up = up.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    up.stdin.take().unwrap().write_all(&content).unwrap();
    assert!(up.wait().unwrap().success());
    let down = world.command(&["store", "cp", "s3://forebay/piped", "-"]).output().unwrap();
    assert!(down.status.success() && down.stdout == content);
    let said = world.run(&["store", "cp", "-", "s3://forebay/folder/"]);
    assert!(said.code == Some(2) && said.err.contains("name an object"), "{said:?}");
}

#[test]
fn a_reader_that_leaves_is_no_fault() {
    let world = World::new();
    world.write("big", bytes(20_000_000));
    world.ok(&["store", "cp", "big", "s3://forebay/big"]);
    let mut cat = world.command(&["store", "cat", "s3://forebay/big"]);
    let mut cat = cat.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 100];
    cat.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let mut err = String::new();
    cat.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert_eq!((cat.wait().unwrap().code(), err.as_str()), (Some(0), ""));
    assert!(first[..] == bytes(20_000_000)[..100]);
}

#[test]
fn bytes_that_were_damaged_in_the_store_are_told() {
    let world = World::new();
    let mut content = bytes(9_000_000);
    world.write("file", &content);
    world.ok(&["store", "cp", "file", "s3://forebay/file"]);
    content[8_500_000] ^= 1;
    fs::write(world.object("file"), &content).unwrap();
    let said = world.command(&["store", "cat", "s3://forebay/file"]).output().unwrap();
    let err = String::from_utf8(said.stderr).unwrap();
    assert_eq!(said.status.code(), Some(1), "{err}");
    assert!(err.contains("not those of the checksum"), "{err}");
    let said = world.run(&["store", "cp", "s3://forebay/file", "s3://forebay/copy"]);
    assert!(said.code == Some(2) && said.err.contains("not those of the checksum"), "{said:?}");
    assert!(!world.object("copy").exists());
}

#[test]
fn a_list_has_sizes_times_and_a_total() {
    let world = World::new();
    for number in 0..1005 {
        crate::write(&world.object(&format!("many/{number:04}")), b"abc");
    }
    crate::write(&world.object("other"), b"12345");
    let said = world.ok(&["store", "ls", "s3://forebay/many/"]);
    assert_eq!(said.out.lines().count(), 1005);
    assert!(said.out.lines().next().unwrap().ends_with("Z  many/0000"), "{}", said.out);
    assert_eq!(said.err, "1005 objects, 3.0 kB\n");
    let said = world.ok(&["store", "ls", "s3://forebay/oth", "--json"]);
    let line: Value = serde_json::from_str(said.out.trim()).unwrap();
    assert_eq!((&line["key"], &line["bytes"]), (&"other".into(), &5.into()));
    assert_eq!(said.err, "1 object, 5 bytes\n");
    let said = world.ok(&["store", "ls", "s3://forebay/none"]);
    assert_eq!((said.out.as_str(), said.err.as_str()), ("", "0 objects, 0 bytes\n"));
    // Who only looks writes nothing, not even to ask.
    assert!(!world.object(".forebay-probe").exists());
}

#[test]
fn objects_are_removed_one_by_one_or_all_that_were_meant() {
    let world = World::new();
    for key in ["a/1", "a/2", "ab", "b"] {
        crate::write(&world.object(key), b"x");
    }
    let said = world.ok(&["store", "rm", "s3://forebay/b"]);
    assert_eq!(said.out, "removed s3://forebay/b\n");
    let said = world.run(&["store", "rm", "s3://forebay/b"]);
    assert!(said.code == Some(1) && said.err.contains("there is no object"), "{said:?}");
    let said = world.run(&["store", "rm", "-r", "s3://forebay/a"]);
    assert!(said.code == Some(2) && said.err.contains("say --yes"), "{said:?}");
    assert_eq!(world.keys(), ["a/1", "a/2", "ab"]);
    let said = world.ok(&["store", "rm", "-r", "--yes", "s3://forebay/a"]);
    assert_eq!((said.out.as_str(), world.keys()), ("removed 2 objects\n", vec!["ab".to_owned()]));
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    let world = World::new();
    world.write("folder/file", "x");
    let cases: [(&[&str], &str); 7] = [
        (&["cp", "folder", "s3://forebay/x"], "say -r"),
        (&["cp", "nothing", "s3://forebay/x"], "nothing"),
        (&["cp", "folder/file", "elsewhere"], "neither side is in a bucket"),
        (&["cp", "s3://forebay/none", "x"], "there is no such object"),
        (&["cat", "s3://forebay/none"], "there is no object `none`"),
        (&["cp", "-r", "s3://forebay/a", "s3://forebay/a/b"], "overlap"),
        (&["ls", "forebay"], "want s3://bucket"),
    ];
    for (arguments, says) in cases {
        let said = world.run(&[&["store"], arguments].concat());
        assert!(said.code == Some(2) && said.err.contains(says), "{arguments:?}: {said:?}");
    }
    let mut other = world.command(&["store", "ls", "s3://forebay"]);
    let said: crate::Said = other.env("FOREBAY_S3_PROVIDER", "acme").output().unwrap().into();
    assert!(said.code == Some(2) && said.err.contains("aws, r2, b2"), "{said:?}");
}
