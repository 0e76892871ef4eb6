//! A worker behind HTTP, to be sent signals: it prints the port it listens on, and what its run has done. With
//! FOREBAY_TEST_JOBS it takes deferred jobs too, in that folder, and signs webhooks with FOREBAY_TEST_SECRET.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use forebay::source::deferred::Deferred;
use forebay::source::folder::Folder;
use forebay::source::http::Http;
use forebay::webhook::{Guard, Secret, Webhook};
use forebay::{Batching, Pipeline, Result, Worker, store};
use forebay_tests::model;

#[tokio::main]
async fn main() -> ExitCode {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("{}", listener.local_addr().expect("it is bound").port());
    let pipeline = Pipeline::new().gpu("slow", Batching::items(4), || {
        Ok(model(|numbers: &[u64]| {
            // As long as a device takes.
            std::thread::sleep(Duration::from_millis(50));
            Ok(numbers.iter().map(|n| n * 2).collect())
        }))
    });
    let http = Http::on(listener).expect("no setting is wrong");
    let worker = Worker::new(pipeline).grace(Duration::from_secs(20));
    let worker = match std::env::var_os("FOREBAY_TEST_JOBS") {
        None => worker.source(http),
        Some(folder) => {
            let later = deferred(folder.into()).expect("the folder can be written");
            worker.source(http.deferred(&later)).source(later)
        }
    };
    worker.run().await
}

/// As `Deferred::folder` makes it, with short leases; its webhooks go to this machine.
fn deferred(at: PathBuf) -> Result<Deferred<Folder>> {
    let inbox = at.join("queue");
    std::fs::create_dir_all(&inbox)?;
    let folder = Folder::open(&inbox, at.join("claims"))?.consuming().lease(Duration::from_secs(2));
    let queue = folder.queue();
    let guard = Guard::new().open_to(["127.0.0.0/8".parse()?]).ports(1024..=65535).plain_http();
    let secret = Secret::new(&std::env::var("FOREBAY_TEST_SECRET").unwrap_or_default())?;
    Ok(Deferred::new(folder, queue, store::Folder::open(at)?).webhook(Webhook::new(guard, [secret])?))
}
