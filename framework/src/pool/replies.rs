//! Hands answers out from a thread to the tasks that wait for them.
//!
//! To wake a task from outside its runtime costs a system call more often than not. So a thread sends its answers to
//! one task of the runtime, which wakes the others from inside: a thread that answers a whole batch, or many small
//! jobs in a row, pays for one wake-up. The channel is bounded by the places of the stage.

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

type Answer<T> = (oneshot::Sender<T>, T);

pub(crate) struct Replies<T>(UnboundedSender<Answer<T>>);

impl<T> Clone for Replies<T> {
    fn clone(&self) -> Self {
        Replies(self.0.clone())
    }
}

impl<T: Send + 'static> Replies<T> {
    /// Starts the task that hands out; it ends when the last of the clones has gone.
    pub(crate) fn start(runtime: &Handle) -> Self {
        const AT_ONCE: usize = 64;
        let (to, mut answers) = unbounded_channel::<Answer<T>>();
        runtime.spawn(async move {
            let mut taken = Vec::with_capacity(AT_ONCE);
            while answers.recv_many(&mut taken, AT_ONCE).await > 0 {
                taken.drain(..).for_each(hand_out);
            }
        });
        Replies(to)
    }

    pub(crate) fn send(&self, reply: oneshot::Sender<T>, answer: T) {
        if let Err(refused) = self.0.send((reply, answer)) {
            // The runtime is ending, and its tasks with it.
            hand_out(refused.0);
        }
    }
}

fn hand_out<T>((reply, answer): Answer<T>) {
    // A caller that has gone meanwhile needs no answer.
    let _ = reply.send(answer);
}
