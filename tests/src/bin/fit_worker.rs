//! A worker that wants something of its node, as `FOREBAY_NODE_*` says: `fit_worker LINK`. The way to its bucket is
//! `good`, `slow` (60 ms an answer) or `keys` (refused). Whenever a job is asked for it says `asked` on standard error.

use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;

use forebay::node::Fitness;
use forebay::source::{Delivery, Source};
use forebay::store::{Conditional, Key, Memory, Meta, Object, Outcome, Page, Put, Store};
use forebay::{BoxFuture, Bytes, Error, Pipeline, Result, Worker};
use tokio::time::sleep;

/// A store at the end of a link.
struct Link {
    store: Memory,
    kind: String,
}

impl Link {
    /// A call on its way.
    async fn pass(&self) -> Result<()> {
        match self.kind.as_str() {
            "slow" => sleep(Duration::from_millis(60)).await,
            "keys" => return Err(Error::invalid("InvalidAccessKeyId")),
            _ => {}
        }
        Ok(())
    }
}

impl Store for Link {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move {
            self.pass().await?;
            self.store.get(key).await
        })
    }

    fn get_range<'a>(&'a self, key: &'a Key, range: Range<u64>) -> BoxFuture<'a, Result<Option<Object>>> {
        Box::pin(async move {
            self.pass().await?;
            self.store.get_range(key, range).await
        })
    }

    fn head<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Meta>>> {
        Box::pin(async move {
            self.pass().await?;
            self.store.head(key).await
        })
    }

    fn put<'a>(&'a self, key: &'a Key, bytes: Bytes, mode: Put) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.pass().await?;
            self.store.put(key, bytes, mode).await
        })
    }

    fn delete<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.pass().await?;
            self.store.delete(key).await
        })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a Key>, limit: usize) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            self.pass().await?;
            self.store.list(prefix, after, limit).await
        })
    }

    fn conditional(&self) -> Conditional {
        self.store.conditional()
    }
}

/// A source without jobs.
struct Asked;

impl Source for Asked {
    fn name(&self) -> &'static str {
        "asked"
    }

    async fn receive(&mut self, _: usize) -> Result<Vec<Delivery>> {
        eprintln!("asked");
        std::future::pending().await
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let kind = std::env::args().nth(1).unwrap_or_default();
    let fitness = forebay::telemetry::init().and_then(|_| Fitness::from_env());
    match fitness {
        Ok(fitness) => {
            let fitness = fitness.bucket(Link { store: Memory::new(), kind });
            let pipeline = Pipeline::new().io("echo", 1, async |_, x: Bytes| Ok(x));
            Worker::bytes(pipeline).fit(fitness).source(Asked).run().await
        }
        Err(why) => {
            eprintln!("fit_worker: {why}");
            ExitCode::FAILURE
        }
    }
}
