//! A queue against a model too simple to be wrong: a list of messages, each with its last receive and when it is
//! visible. Whatever is done in whatever order, a receive gets what is visible and all of it, a handle does what its
//! receive still allows, and the counts agree.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Something done to the queue. A handle is the index of one that was given out.
#[derive(Clone, Debug)]
enum Op {
    Send { group: u8, delay: u64 },
    Receive { max: usize, hide: u64 },
    Change { handle: usize, seconds: u64 },
    Delete { handle: usize },
    Wait { seconds: u64 },
}

#[derive(Clone)]
struct Naive {
    number: u64,
    group: u8,
    /// The number of the last receive.
    last: Option<u64>,
    /// When it was, in seconds.
    since: u64,
    visible: u64,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..3_u8, prop_oneof![3 => Just(0), 1 => 1..5_u64]).prop_map(|(group, delay)| Op::Send { group, delay }),
        4 => (1..5_usize, 0..6_u64).prop_map(|(max, hide)| Op::Receive { max, hide }),
        3 => (0..50_usize, prop_oneof![0..8_u64, 43_190..43_202_u64])
            .prop_map(|(handle, seconds)| Op::Change { handle, seconds }),
        2 => (0..50_usize).prop_map(|handle| Op::Delete { handle }),
        4 => (1..4_u64).prop_map(|seconds| Op::Wait { seconds }),
    ]
}

fn message(group: u8, now: Instant) -> Message {
    let send = json!({ "MessageBody": "x", "MessageGroupId": group.to_string() });
    Message::of(&serde_json::from_value(send).unwrap(), String::new(), now, 0).unwrap()
}

/// What a receive must get: of a FIFO queue the first of groups of which nothing is held, group after group.
fn expected(messages: &[Naive], now: u64, max: usize, fifo: bool) -> Vec<u64> {
    let visible = |message: &&Naive| message.visible <= now;
    if !fifo {
        return messages.iter().filter(visible).map(|message| message.number).take(max).collect();
    }
    let held = |group: u8| messages.iter().any(|m| m.group == group && m.last.is_some() && m.visible > now);
    let mut groups: Vec<u8> = Vec::new();
    for message in messages.iter().filter(visible).filter(|message| !held(message.group)) {
        if !groups.contains(&message.group) {
            groups.push(message.group);
        }
    }
    let of = |group: u8| messages.iter().filter(visible).filter(move |message| message.group == group);
    groups.into_iter().flat_map(of).map(|message| message.number).take(max).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn does_as_the_model_does(fifo: bool, ops in vec(op(), 1..80)) {
        let start = Instant::now();
        let mut settings = Settings::default();
        settings.set("FifoQueue", &fifo.to_string()).unwrap();
        let mut queue = Queue::new(settings, 0);
        let mut model: Vec<Naive> = Vec::new();
        let mut handles: Vec<Handle> = Vec::new();
        let (mut now, mut sent, mut receives) = (0, 0, 0);
        for op in ops {
            let at = start + Duration::from_secs(now);
            queue.wake(at);
            match op {
                Op::Wait { seconds } => now += seconds,
                Op::Send { group, delay } => {
                    sent += 1;
                    queue.add(at, sent, message(group, at), Duration::from_secs(delay));
                    model.push(Naive { number: sent, group, last: None, since: 0, visible: now + delay });
                }
                Op::Receive { max, hide } => {
                    let hide_for = Duration::from_secs(hide);
                    let take = Take { now: at, now_ms: 0, max, hide: hide_for, receives: u32::MAX };
                    let got = queue.receive(&take, &mut receives).ok().unwrap().messages;
                    let numbers: Vec<u64> = got.iter().map(|handle| handle.message).collect();
                    prop_assert_eq!(numbers, expected(&model, now, max, fifo));
                    for handle in &got {
                        let message = model.iter_mut().find(|message| message.number == handle.message).unwrap();
                        prop_assert!(message.last.is_none_or(|last| last < handle.receive), "a handle is new");
                        (message.last, message.since, message.visible) = (Some(handle.receive), now, now + hide);
                    }
                    handles.extend(got);
                }
                Op::Change { handle, seconds } => {
                    let Some(handle) = handles.get(handle).copied() else { continue };
                    let message = model.iter_mut().find(|message| message.number == handle.message);
                    let message = message.filter(|message| message.last == Some(handle.receive));
                    let allowed = message.filter(|m| m.visible > now && now + seconds <= m.since + LONGEST_HIDDEN);
                    let changed = queue.change(at, handle, "", seconds);
                    prop_assert_eq!(changed.is_ok(), allowed.is_some());
                    if let Some(message) = allowed {
                        message.visible = now + seconds;
                    }
                }
                Op::Delete { handle } => {
                    let Some(handle) = handles.get(handle).copied() else { continue };
                    let found = model.iter().position(|message| message.number == handle.message);
                    let latest = found.filter(|found| model[*found].last == Some(handle.receive));
                    let held = latest.is_some_and(|found| model[found].visible > now);
                    let deleted = queue.delete(handle, "");
                    prop_assert_eq!(deleted.is_ok(), !fifo || found.is_none() || held);
                    if let Some(found) = latest.filter(|_| held || !fifo) {
                        model.remove(found);
                    }
                }
            }
            queue.wake(start + Duration::from_secs(now));
            let hidden = |message: &&Naive| message.visible > now;
            let in_flight = model.iter().filter(hidden).filter(|message| message.last.is_some()).count();
            let delayed = model.iter().filter(hidden).count() - in_flight;
            let visible = model.len() - in_flight - delayed;
            prop_assert_eq!(queue.depth(), Depth { visible, in_flight, delayed });
        }
    }
}
