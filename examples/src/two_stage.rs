//! A CPU stage in front of a fake device whose batch of at most 32 takes 5 ms, as a service: `POST /infer` with
//! `{"text": "..."}`; and `POST /echo`, which answers with the JSON that it got. `GET /openapi.json` says so too.
//!
//! ```sh
//! PORT=8080 cargo run --release -p forebay-examples --bin two_stage
//! curl -d '{"text": "to be or not"}' -H 'content-type: application/json' localhost:8080/infer
//! ```
//!
//! With `JOBS=FOLDER` callers need not wait: `-H 'prefer: respond-async'` puts the job into the folder.

use std::process::ExitCode;
use std::time::Duration;

use forebay::source::deferred::Deferred;
use forebay::source::http::Http;
use forebay::{Batching, Error, Model, Pipeline, Result, Worker};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

#[derive(Deserialize, JsonSchema)]
struct Ask {
    #[schemars(length(min = 1))]
    text: String,
}

#[derive(Serialize, JsonSchema)]
struct Answer {
    words: usize,
}

/// A job's memory is taken on one thread and given back on another, at which it is quick.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    // So does the image's HEALTHCHECK.
    if std::env::args().nth(1).as_deref() == Some("health") {
        return Http::check().await;
    }
    match serve().await {
        Ok(code) => code,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

async fn serve() -> Result<ExitCode> {
    forebay::telemetry::init()?;
    let infer = Pipeline::new()
        .cpu("split", 1, |_, ask: Ask| {
            if ask.text.is_empty() {
                return Err(Error::invalid("`text` is empty"));
            }
            Ok(ask.text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        })
        .gpu("count", Batching::items(32), Count::load)
        .io("answer", 256, async |_, words| Ok(Answer { words }));
    let echo = Pipeline::<Value, _>::new();
    let http = Http::from_env()?.path("/infer", "").types::<Ask, Answer>("").types::<Value, Value>("echo");
    let worker = Worker::new(infer).route("echo", echo);
    let Some(folder) = std::env::var_os("JOBS") else {
        return Ok(worker.source(http).run().await);
    };
    let later = Deferred::folder(folder)?;
    Ok(worker.source(http.deferred(&later)).source(later).run().await)
}

/// A fake device: as long as a batch of at most 32 takes, whatever is in it.
struct Count {
    takes: Duration,
}

impl Count {
    fn load() -> Result<Self> {
        let takes = std::env::var("MODEL_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(5);
        Ok(Count { takes: Duration::from_millis(takes) })
    }
}

impl Model for Count {
    type Input = Vec<String>;
    type Output = usize;

    fn infer(&mut self, batch: &[Vec<String>]) -> Result<Vec<usize>> {
        std::thread::sleep(self.takes);
        Ok(batch.iter().map(Vec::len).collect())
    }
}
