//! A worker behind HTTP, to be sent signals: it prints the port it listens on, and what its run has done.

use std::process::ExitCode;
use std::time::Duration;

use forebay::source::http::Http;
use forebay::{Batching, Pipeline, Worker};
use forebay_tests::model;

#[tokio::main]
async fn main() -> ExitCode {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("{}", listener.local_addr().expect("it is bound").port());
    let pipeline = Pipeline::new().gpu("slow", Batching::items(4), || {
        Ok(model(|numbers: &[u64]| {
            std::thread::sleep(Duration::from_millis(50));
            Ok(numbers.iter().map(|n| n * 2).collect())
        }))
    });
    let http = Http::on(listener).expect("no setting is wrong");
    Worker::new(pipeline).source(http).grace(Duration::from_secs(20)).run().await
}
