//! Hands answers out from a thread to those who wait for them.
//!
//! To wake a task from outside its runtime costs a system call more often than not, and so does to wake the thread of
//! another stage. So a thread sends its answers to one task of the runtime, which wakes the others: a thread that
//! answers a whole batch, or many small jobs in a row, pays for one wake-up. The channel is bounded by the places of the
//! stages.

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::panic::fence_drop;

/// An answer that knows who waits for it.
pub(crate) trait Answer: Send + 'static {
    fn hand_out(self);
}

pub(crate) struct Replies<T>(UnboundedSender<T>);

impl<T> Clone for Replies<T> {
    fn clone(&self) -> Self {
        Replies(self.0.clone())
    }
}

impl<T: Answer> Replies<T> {
    /// Starts the task that hands out; it ends when the last of the clones has gone.
    pub(crate) fn start(runtime: &Handle) -> Self {
        const AT_ONCE: usize = 64;
        let (to, mut answers) = unbounded_channel::<T>();
        runtime.spawn(async move {
            let mut taken = Vec::with_capacity(AT_ONCE);
            while answers.recv_many(&mut taken, AT_ONCE).await > 0 {
                taken.drain(..).for_each(|answer| fence_drop(|| answer.hand_out()));
            }
        });
        Replies(to)
    }

    pub(crate) fn send(&self, answer: T) {
        if let Err(refused) = self.0.send(answer) {
            // The runtime is ending, and its tasks with it.
            fence_drop(|| refused.0.hand_out());
        }
    }
}
