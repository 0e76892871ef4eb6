//! What `forebay bench storage` measures, writes and leaves.

use std::fs;

use serde_json::Value;

use crate::World;

#[test]
fn a_benchmark_measures_every_bucket_and_removes_what_it_wrote() {
    let world = World::new();
    fs::create_dir(world.kept.path().join("second")).unwrap();
    let arguments = ["bench", "storage", "s3://forebay/a", "s3://second", "--size", "11MB", "--rounds", "2"];
    let outputs = ["--json", "figures.json", "--plot", "plot.svg", "--save"];
    let said = world.ok(&[&arguments[..], &outputs].concat());
    assert!(said.out.starts_with("11.0 MB each way\n"), "{said:?}");
    assert_eq!(said.out.lines().count(), 4, "{said:?}");
    let figures: Value = serde_json::from_slice(&world.read("figures.json")).unwrap();
    assert_eq!((&figures["bytes"], figures["buckets"].as_array().unwrap().len()), (&11_000_000.into(), 2));
    for bucket in figures["buckets"].as_array().unwrap() {
        assert!(bucket["rtt_ms"].as_f64().unwrap() > 0.0, "{bucket}");
        for way in ["up", "down"] {
            assert!(bucket[way]["mbit_s"].as_f64().unwrap() > 0.0, "{bucket}");
            assert_eq!(bucket[way]["seconds"].as_array().unwrap().len(), 2, "{bucket}");
            assert_eq!(bucket[way]["failures"], 0, "{bucket}");
        }
    }
    let plot = String::from_utf8(world.read("plot.svg")).unwrap();
    assert!(plot.starts_with("<svg ") && plot.contains("s3://second") && plot.ends_with("</svg>\n"), "{plot}");
    let keys = world.keys();
    let saved = ["figures.json", "plot.svg", "table.txt"];
    assert_eq!(keys.len(), 3, "{keys:?}");
    for (key, name) in keys.iter().zip(saved) {
        assert!(key.starts_with("a/.forebay/bench/20") && key.ends_with(name), "{key}");
    }
    assert_eq!(fs::read(world.object(&keys[0])).unwrap(), world.read("figures.json"));
    assert_eq!(world.ok(&["store", "ls", "s3://second"]).out, "");
    // One that cannot be measured does not keep the others from it.
    let said = world.run(&["bench", "storage", "s3://no bucket", "s3://second", "--size", "1MB"]);
    assert!(said.code == Some(1) && said.err.contains("names no bucket"), "{said:?}");
    assert_eq!(said.err.matches("  upload: ").count(), 1, "{said:?}");
}
