//! Whether a link that is slow but moves is left alone: 0.5 Mbit/s each way for ten minutes, full in both directions; and
//! how soon a part is tried again that has stalled.
//!
//! A file goes up to Garage while another comes down. What the link carried beyond the files was sent again: it should
//! be no more than what HTTP adds. Then a download over a fast link stalls once, for good. `FOREBAY_SLOW_MINUTES` says how
//! long the slow ones take.

use std::time::{Duration, Instant};

use bytes::Bytes;
use forebay::store::{Content, Key, Provider, Put, S3, Transfers};
use forebay::{Classify, Context, Error, Result};
use forebay_benches::result;
use forebay_tests::{Link, Random, S3_BUCKET, S3_KEYS, S3_REGION, Server};
use serde_json::json;

const MINUTES: u64 = 10;
/// Bits a second, each way.
const RATE: u64 = 500_000;
/// Where a connection stalls, of so many bytes.
const STALL: (u64, usize) = (4_000_000, 50_000_000);

#[tokio::main]
async fn main() -> Result<()> {
    let _telemetry = forebay::telemetry::init()?;
    let set = std::env::var("FOREBAY_SLOW_MINUTES").ok().filter(|text| !text.is_empty());
    let minutes = set.map(|text| text.parse::<u64>().or_invalid()).transpose().context("FOREBAY_SLOW_MINUTES")?;
    let bytes = RATE / 8 * 60 * minutes.unwrap_or(MINUTES);
    let server = Server::start("garage").ok_or_else(|| Error::invalid("this needs Garage, and may not start it"))?;
    let folder = tempfile::tempdir()?;
    let open = |endpoint: String| {
        let store = S3::at(format!("s3://{S3_BUCKET}")).endpoint(endpoint).region(S3_REGION);
        store.provider(Provider::Garage).keys(S3_KEYS.0, S3_KEYS.1).uploads(folder.path()).open()
    };
    let direct = Transfers::new(open(server.endpoint()).await?);
    let content = noise(bytes as usize);
    let keys = [Key::new("down")?, Key::new("up")?, Key::new("stalls")?];
    send(&direct, &keys[0], &content).await?;

    let link = Link::to(server.address()).up(RATE).down(RATE).open();
    let slow = Transfers::new(open(link.endpoint()).await?);
    let start = Instant::now();
    let (came, sent) = tokio::join!(slow.get(&keys[0], u64::MAX), send(&slow, &keys[1], &content));
    sent?;
    let seconds = start.elapsed().as_secs_f64();
    let again = link.carried().map(|carried| carried as f64 / bytes as f64 - 1.0);
    let mut identical = came? == content && direct.get(&keys[1], u64::MAX).await? == content;
    println!("{bytes} bytes each way in {seconds:.0} s; the link needs {:.0} s", Link::floor(bytes, RATE));

    let content = noise(STALL.1);
    send(&direct, &keys[2], &content).await?;
    let link = Link::to(server.address()).open();
    let fast = Transfers::new(open(link.endpoint()).await?);
    let start = Instant::now();
    link.stall_next(STALL.0);
    let came = tokio::time::timeout(Duration::from_secs(60), fast.get(&keys[2], u64::MAX)).await;
    identical &= came?? == content;
    result(json!({
        "minutes": seconds / 60.0,
        "carried_again": again.into_iter().fold(0.0, f64::max),
        "stalled": link.ended(),
        "stall_seconds": start.elapsed().as_secs_f64(),
        "identical": identical,
    }));
    Ok(())
}

fn noise(len: usize) -> Bytes {
    let mut random = Random::new(len as u64);
    (0..len.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes()).take(len).collect::<Vec<u8>>().into()
}

async fn send(to: &Transfers, key: &Key, content: &Bytes) -> Result<()> {
    to.send(key, Content::bytes(content.clone()), Put::Overwrite).await.map(drop)
}
