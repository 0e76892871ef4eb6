//! Hears SIGTERM and SIGINT from the moment that a worker starts, on a small thread of its own.
//!
//! It counts them, so that a drain can tell a second one. Where signals cannot be heard it says so and stays silent.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::error::{Context, Result};

/// The signals heard so far.
#[derive(Clone)]
pub(super) struct Stop {
    signals: watch::Receiver<u32>,
    /// Told by the worker itself, which counts as a first signal.
    asked: Option<watch::Receiver<bool>>,
}

impl Stop {
    /// Begins to listen; from here on the signals no longer end the process by themselves.
    pub(super) async fn listen() -> Result<Self> {
        let (heard, stop) = watch::channel(0);
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            match runtime {
                Ok(runtime) => runtime.block_on(count(heard, ready)),
                Err(why) => warn!(error = %why, "cannot listen for SIGTERM and SIGINT"),
            }
        };
        std::thread::Builder::new().name("forebay-signals".to_owned()).spawn(work).context("listening for signals")?;
        // Either way it has done what it can.
        let _ = is_ready.await;
        Ok(Stop { signals: stop, asked: None })
    }

    /// For tests: told by hand.
    #[cfg(all(test, feature = "testing", feature = "sqs"))]
    pub(super) fn by_hand() -> (watch::Sender<u32>, Self) {
        let (heard, stop) = watch::channel(0);
        (heard, Stop { signals: stop, asked: None })
    }

    /// The same, which the worker too can tell to stop.
    pub(super) fn askable(self) -> (watch::Sender<bool>, Self) {
        let (ask, asked) = watch::channel(false);
        (ask, Stop { asked: Some(asked), ..self })
    }

    /// Waits until so many signals were heard.
    pub(super) async fn told(&mut self, times: u32) {
        let Stop { signals, asked } = self;
        let signals = async {
            if signals.wait_for(|heard| *heard >= times).await.is_err() {
                // Nobody listens, so nobody will be told.
                std::future::pending::<()>().await;
            }
        };
        let asked = async {
            if let Some(asked) = asked.as_mut().filter(|_| times == 1)
                && asked.wait_for(|asked| *asked).await.is_ok()
            {
                return;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = signals => {}
            () = asked => {}
        }
    }

    /// Whether a signal was heard, or came within so long.
    pub(super) async fn told_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.told(1)).await.is_ok()
    }
}

async fn count(heard: watch::Sender<u32>, ready: tokio::sync::oneshot::Sender<()>) {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return warn!("cannot listen for SIGTERM and SIGINT; the worker will not drain on them");
    };
    // The worker may have been dropped meanwhile.
    let _ = ready.send(());
    loop {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
            () = heard.closed() => return,
        }
        heard.send_modify(|times| *times += 1);
    }
}
