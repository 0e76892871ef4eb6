//! The fake SQS for other processes and other languages: `fake_sqs [PORT]` prints its endpoint and serves until its
//! standard input ends, and so with whoever started it.

use forebay::testing::fake_sqs::FakeSqs;
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() {
    let port = std::env::args().nth(1).map_or(0, |port| port.parse().expect("a port's number"));
    let served = FakeSqs::new().serve(port).await.expect("the port is free");
    println!("{}", served.endpoint());
    let mut input = Vec::new();
    // However it ends, it has ended.
    let _ = tokio::io::stdin().read_to_end(&mut input).await;
}
