//! A worker behind HTTP: `POST /tone` with `{"text": "..."}`.

mod model;
mod pipeline;

use std::process::ExitCode;

use forebay::source::http::Http;
use forebay::{Result, Worker};

/// A job's memory is taken on one thread and given back on another, at which it is quick.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // So does the HEALTHCHECK of the Dockerfile.
    if std::env::args().nth(1).as_deref() == Some("health") {
        return Http::check().await;
    }
    match serve().await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("NAME: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<ExitCode> {
    forebay::telemetry::init()?;
    let http = Http::from_env()?.path("/tone", "");
    Ok(Worker::new(pipeline::pipeline()).source(http).run().await)
}
