//! Hands answers out from a thread to the tasks that wait for them, many at once.
//!
//! Waking a task from outside the runtime costs a system call more often than not; a thread that has answered a whole
//! batch so has spent longer on it than on the work. So a thread sends its answers together to a task of the
//! runtime, and that wakes the others from inside. Its queue is bounded by the places of the stage.

use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

/// Collects answers, and sends them on when told.
pub(crate) struct Replies<T> {
    collected: Vec<(oneshot::Sender<T>, T)>,
    to: UnboundedSender<Vec<(oneshot::Sender<T>, T)>>,
}

impl<T> Clone for Replies<T> {
    fn clone(&self) -> Self {
        Replies { collected: Vec::new(), to: self.to.clone() }
    }
}

impl<T: Send + 'static> Replies<T> {
    /// Starts the task that hands out; it ends when the last of the clones has gone.
    pub(crate) fn start(runtime: &Handle) -> Self {
        let (to, mut answers) = unbounded_channel::<Vec<(oneshot::Sender<T>, T)>>();
        runtime.spawn(async move {
            while let Some(answers) = answers.recv().await {
                hand_out(answers);
            }
        });
        Replies { collected: Vec::new(), to }
    }

    pub(crate) fn add(&mut self, reply: oneshot::Sender<T>, answer: T) {
        self.collected.push((reply, answer));
    }

    /// Sends what was collected.
    pub(crate) fn flush(&mut self) {
        if self.collected.is_empty() {
            return;
        }
        let capacity = self.collected.len();
        let answers = std::mem::replace(&mut self.collected, Vec::with_capacity(capacity));
        if let Err(refused) = self.to.send(answers) {
            // The runtime is ending, and its tasks with it.
            hand_out(refused.0);
        }
    }
}

fn hand_out<T>(answers: Vec<(oneshot::Sender<T>, T)>) {
    for (reply, answer) in answers {
        // A caller that has gone meanwhile needs no answer.
        let _ = reply.send(answer);
    }
}
