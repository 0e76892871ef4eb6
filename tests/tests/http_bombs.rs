//! Small bodies that unpack to large ones cost their worker no more than its limit and one window.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::Command;

use forebay_tests::{Client, Process, within};

/// The largest body, unpacked.
const LIMIT: usize = 8 << 20;
/// The largest window.
const WINDOW: usize = 16 << 20;
/// Pieces on their way, and what the allocator keeps.
const SLACK: usize = 4 << 20;
/// What the bombs unpack to.
const ZEROS: usize = 256 << 20;

async fn ready() -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_served"));
    let process = Process::start(command.env("FOREBAY_HTTP_BODY", LIMIT.to_string()));
    let answers = async {
        while post(&process, "identity", b"4").await.0 != 200 {
            tokio::task::yield_now().await;
        }
    };
    within("the worker is ready", answers).await;
    process
}

/// The most memory that it has had, in bytes.
fn peak(process: &Process) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

async fn post(process: &Process, encoding: &str, body: &[u8]) -> (u16, String) {
    let headers = format!("content-type: application/json\r\ncontent-encoding: {encoding}\r\n");
    let answer = Client::connect(process.address).await.post_with("/", &headers, body).await;
    (answer.status, answer.text())
}

fn zstd(window_log: u32, body: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(window_log).unwrap();
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

fn brotli(window_log: i32, body: &[u8]) -> Vec<u8> {
    let params = brotli::enc::BrotliEncoderParams {
        quality: 2,
        lgwin: window_log,
        large_window: window_log > 24,
        ..Default::default()
    };
    let mut packed = Vec::new();
    brotli::BrotliCompress(&mut &body[..], &mut packed, &params).unwrap();
    packed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bomb_costs_the_limit_and_one_window() {
    let process = ready().await;
    let zeros = vec![0; ZEROS];
    let bombs = [
        ("gzip", 413, gzip(&zeros)),
        ("deflate", 413, deflate(&zeros)),
        ("br", 413, brotli(24, &zeros)),
        ("zstd", 413, zstd(23, &zeros)),
        // Their windows alone would cost 128 MiB and a gibibyte.
        ("zstd", 400, zstd(27, &zeros)),
        ("zstd", 400, [zstd(10, b"4"), zstd(27, &zeros)].concat()),
        ("br", 400, brotli(30, &zeros)),
    ];
    drop(zeros);
    let before = peak(&process);
    for (encoding, status, bomb) in bombs {
        assert!(bomb.len() < LIMIT, "{encoding}: {}", bomb.len());
        let (answered, text) = post(&process, encoding, &bomb).await;
        assert_eq!(answered, status, "{encoding}: {text}");
        let cost = peak(&process) - before;
        assert!(cost <= LIMIT + WINDOW + SLACK, "{encoding} cost {} KiB", cost / 1024);
    }
    println!(
        "seven bombs of {} MiB cost {} KiB, with a limit of {} MiB",
        ZEROS >> 20,
        (peak(&process) - before) >> 10,
        LIMIT >> 20
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_packed_is_unpacked() {
    let process = ready().await;
    let two_members = [gzip(b"2"), gzip(b"1")].concat();
    let packed = [
        ("gzip", gzip(b"21")),
        ("x-gzip", two_members),
        ("deflate", deflate(b"21")),
        ("BR", brotli(22, b"21")),
        ("zstd", zstd(10, b"21")),
        ("zstd", [zstd(10, b"2"), zstd(23, b"1")].concat()),
    ];
    for (encoding, body) in packed {
        assert_eq!(post(&process, encoding, &body).await, (200, "42".to_owned()), "{encoding}");
    }
    let unknown = post(&process, "compress", b"21").await;
    assert!(unknown.0 == 415 && unknown.1.contains("compress"), "{unknown:?}");
    let broken = post(&process, "gzip", b"21").await;
    assert!(broken.0 == 400 && broken.1.contains("could not be read"), "{broken:?}");
}
