//! Server-sent events, as they come in the chunks of an answer.

use crate::{Client, within};

/// The header of a request that is to be answered with them.
pub const EVENTS: &str = "accept: text/event-stream\r\n";

/// The next piece of the answer.
pub async fn chunk(client: &mut Client) -> String {
    within("a piece of the answer", client.chunk()).await.expect("the answer goes on")
}

/// All pieces to the end of the answer, which is an empty one.
pub async fn rest(client: &mut Client) -> Vec<String> {
    let mut chunks = vec![];
    while chunks.last().is_none_or(|chunk: &String| !chunk.is_empty()) {
        chunks.push(chunk(client).await);
    }
    chunks
}

/// The last event, without the comment that tells the times, which must be there.
pub fn last_event(chunk: &str) -> &str {
    let (comment, event) = chunk.split_once('\n').expect("a comment and an event");
    assert!(comment.starts_with(": server-timing: total;dur="), "{comment}");
    event
}
