//! Where downloaded bytes are put: a file on its way, or memory; written behind the reader.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::partial::{self, Partial};
use crate::error::{Context, Error, Fault, Result};

/// Bytes that are written to the file at once, at the most; while they are, as many come.
const MOST: usize = 1 << 20;
/// Of all lanes together.
const ALL: usize = 16 << 20;

/// Where the bytes are put.
#[derive(Clone)]
pub(super) enum Sink {
    File(Arc<Partial>),
    Memory(Arc<Mutex<Vec<(u64, Bytes)>>>),
}

/// Bytes that came could not be written.
#[derive(Debug)]
pub(super) struct Unwritten(String);

impl std::fmt::Display for Unwritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "writing the file: {}", self.0)
    }
}

impl std::error::Error for Unwritten {}

impl Sink {
    pub(super) fn discard(&self) {
        if let Sink::File(partial) = self {
            partial.discard();
        }
    }
}

/// Writes behind the reader: while one batch is written, the next comes.
pub(super) struct Writer {
    sink: Sink,
    at: u64,
    batch: Vec<Bytes>,
    len: usize,
    /// So many bytes are a batch.
    full: usize,
    writing: Option<tokio::task::JoinHandle<Result<()>>>,
    /// How long the reader had to wait for the disk.
    waited: Duration,
}

impl Writer {
    /// One of so many at once.
    pub(super) fn new(sink: Sink, at: u64, writers: usize) -> Self {
        let full = MOST.min(ALL / writers.max(1));
        Writer { sink, at, batch: Vec::new(), len: 0, full, writing: None, waited: Duration::ZERO }
    }

    pub(super) async fn take(&mut self, bytes: Bytes) -> Result<()> {
        self.len += bytes.len();
        self.batch.push(bytes);
        if self.len >= self.full { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<()> {
        self.written().await?;
        let (at, batch, len) = (self.at, std::mem::take(&mut self.batch), std::mem::take(&mut self.len));
        self.at += len as u64;
        match &self.sink {
            Sink::File(partial) => {
                let file = partial.file();
                self.writing = Some(tokio::task::spawn_blocking(move || partial::write(&file, at, &batch)));
            }
            Sink::Memory(pieces) => {
                let mut pieces = pieces.lock().unwrap_or_else(PoisonError::into_inner);
                let starts = batch.into_iter().scan(at, |next, bytes| {
                    let start = *next;
                    *next += bytes.len() as u64;
                    Some((start, bytes))
                });
                pieces.extend(starts);
            }
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<()> {
        match self.writing.take() {
            None => Ok(()),
            // A disk that is full or broken is the node's fault and not the link's: another may do better.
            Some(writing) => {
                let began = Instant::now();
                let written = writing.await.context("file thread").flatten();
                self.waited += began.elapsed();
                written.map_err(|why| Error::new(Fault::Transient, Unwritten(why.to_string())))
            }
        }
    }

    /// Waits until all is written; how long was waited for the disk in all.
    pub(super) async fn end(mut self) -> Result<Duration> {
        if self.len > 0 {
            self.write().await?;
        }
        self.written().await?;
        Ok(self.waited)
    }
}

/// All pieces, sorted, as one.
pub(super) fn gather(mut pieces: Vec<(u64, Bytes)>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().map(|(_, bytes)| bytes).unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(|(_, bytes)| bytes.len()).sum());
    pieces.iter().for_each(|(_, bytes)| all.extend_from_slice(bytes));
    all.freeze()
}
