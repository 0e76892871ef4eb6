//! The trait of a model that works in steps: simulations, training, samplers, whatever takes longer than one batch.
//!
//! It owns [`Stepper`] and what a step says ([`Progress`]). Like [`Model`](crate::Model) it lives and dies on the
//! device thread and need not be `Send`, and neither need its states. When a state is saved, where to, and how it comes
//! back is not decided here: see [`checkpoint`](crate::checkpoint).

use bytes::Bytes;

use crate::checkpoint::{Saved, Snapshot, Workplace};
use crate::error::{Error, Result};
use crate::model::Admit;

/// A model whose jobs are states that are advanced step by step, several jobs' at once.
///
/// Between two steps the device thread looks around: finished jobs leave, waiting ones join, those that were called off
/// are dropped, other models have their turn, and what is due is saved. So a step should take a tenth of a second to a
/// few seconds.
///
/// ```
/// use forebay::checkpoint::{Saved, Snapshot, Workplace};
/// use forebay::{Progress, Result, Stepper};
///
/// /// Adds up the numbers below `until`, a thousand a step.
/// struct Adder;
///
/// struct Sum {
///     next: u64,
///     until: u64,
///     sum: u64,
/// }
///
/// impl Stepper for Adder {
///     type Spec = u64;
///     type State = Sum;
///     type Output = u64;
///     const FORMAT: &'static str = "adder 1";
///
///     fn begin(&mut self, until: &u64, _: &Workplace) -> Result<Sum> {
///         Ok(Sum { next: 0, until: *until, sum: 0 })
///     }
///
///     fn step(&mut self, sums: &mut [&mut Sum]) -> Result<Vec<Progress>> {
///         let advance = |sum: &mut &mut Sum| {
///             let end = sum.until.min(sum.next + 1000);
///             sum.sum += (sum.next..end).sum::<u64>();
///             sum.next = end;
///             if end == sum.until { Progress::done() } else { Progress::of(end as f32 / sum.until as f32) }
///         };
///         Ok(sums.iter_mut().map(advance).collect())
///     }
///
///     fn finish(&mut self, sum: Sum) -> Result<u64> {
///         Ok(sum.sum)
///     }
///
///     fn save(&mut self, sum: &mut Sum) -> Result<Snapshot> {
///         Ok(Snapshot::new().bytes("sum", format!("{} {}", sum.next, sum.sum)))
///     }
///
///     fn restore(&mut self, until: &u64, _: &Workplace, saved: Saved) -> Result<Sum> {
///         let text = String::from_utf8(saved.bytes("sum")?.to_vec())?;
///         let (next, sum) = text.split_once(' ').unwrap_or_default();
///         Ok(Sum { next: next.parse()?, until: *until, sum: sum.parse()? })
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use forebay::{Pipeline, Stepping};
/// let pipeline = Pipeline::new().gpu_steps("add", Stepping::jobs(4), || Ok(Adder));
/// assert_eq!(pipeline.start().await?.call(10_000).await?, 49_995_000);
/// # Ok::<(), forebay::Error>(()) }).unwrap();
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not work in steps",
    label = "needs `impl forebay::Stepper for {Self}`",
    note = "a stepper has `type Spec`, `type State`, `type Output`, `const FORMAT`, and `begin`, `step` and `finish`"
)]
pub trait Stepper: 'static {
    /// What a job asks for.
    type Spec: Send + 'static;
    /// How far a job is. It never leaves the device thread.
    type State: 'static;
    /// What a job becomes.
    type Output: Send + 'static;

    /// Names what saved states look like, with a number that changes when they do. A job whose state was saved under
    /// another name fails with an error that names both.
    const FORMAT: &'static str;

    /// The state that a job begins with, where none was saved.
    fn begin(&mut self, spec: &Self::Spec, place: &Workplace) -> Result<Self::State>;

    /// Advances every state by one step: one [`Progress`] for each, in order; another number is a fatal fault.
    ///
    /// If it fails or panics, all jobs of the step fail with that, since nobody knows how far their states had got. They
    /// go on from what was saved last when they are delivered again, each alone until it has got as far again.
    fn step(&mut self, states: &mut [&mut Self::State]) -> Result<Vec<Progress>>;

    /// Makes the job's result of a state that is [done](Progress::done).
    fn finish(&mut self, state: Self::State) -> Result<Self::Output>;

    /// Copies a state to host memory, and no more: the device waits for this, and for nothing of what follows.
    ///
    /// Called only where [`Stepping::saving`](crate::Stepping::saving) says so. Default: an error that says that it is
    /// missing.
    fn save(&mut self, _state: &mut Self::State) -> Result<Snapshot> {
        Err(Error::failed("this stepper has no `save`, so its stage must not say `saving`"))
    }

    /// The state that was saved. `spec` is what the job asks for now. Whoever may ask for something else under the same id
    /// should save what was asked for, and compare: nobody else does.
    fn restore(&mut self, _spec: &Self::Spec, _place: &Workplace, _saved: Saved) -> Result<Self::State> {
        Err(Error::failed("this stepper has no `restore`, so its stage must not say `saving`"))
    }

    /// Whether a part of a saved state is needed to go on with it. What is not is not downloaded: a file that has only
    /// grown may then be left where it is, and what is added to it is put behind what was saved. Default: all are.
    fn wants(_part: &str) -> bool {
        true
    }

    /// Asked before a job begins, while others are under way: is there memory for it?
    fn admit(&mut self, _spec: &Self::Spec) -> Admit {
        Admit::Now
    }

    /// Called once after each loading, at the start before the worker is ready: run what compiles kernels and fills caches.
    fn warm_up(&mut self) -> Result<()> {
        Ok(())
    }
}

/// What a step has made of one state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub(crate) done: bool,
    pub(crate) fraction: Option<f32>,
    pub(crate) pieces: Vec<Bytes>,
}

impl Progress {
    /// There is more to do; `fraction` of it, from 0 to 1, is done. The job's caller may see it.
    pub fn of(fraction: f32) -> Self {
        Progress { fraction: Some(fraction), ..Progress::default() }
    }

    /// There is more to do, and nobody knows how much.
    pub fn some() -> Self {
        Progress::default()
    }

    /// The state is done: [`Stepper::finish`] is next.
    pub fn done() -> Self {
        Progress { done: true, ..Progress::default() }
    }

    /// A piece of the result that the caller may have at once, such as a token.
    pub fn with_piece(mut self, piece: impl Into<Bytes>) -> Self {
        self.pieces.push(piece.into());
        self
    }
}
