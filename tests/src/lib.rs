//! What the integration tests share: waiting for a condition, stopping a device, models made of closures, and a
//! source whose every call is written down.

mod acceptor;
mod beside;
mod client;
mod events;
mod gate;
mod hook;
mod ledger;
mod link;
mod model;
mod random;
mod s3_faults;
mod said;
mod served;
mod servers;
mod service;
mod talker;
mod wait;
mod walk;
mod worked;

pub use beside::{run_beside, start};
pub use client::{Client, Response};
pub use events::{EVENTS, chunk, last_event, rest};
pub use gate::Gate;
pub use hook::Hook;
pub use ledger::{Entry, Extend, Ledger, Settle};
pub use link::{Link, OpenLink};
pub use model::{Func, model};
pub use random::Random;
pub use s3_faults::{Fault, OpenS3Faults, S3Faults};
pub use said::Said;
pub use served::Process;
pub use servers::{S3_BUCKET, S3_KEYS, S3_REGION, Server, serve_beside, sqs_client};
pub use service::{Served, http, inside, is_ready, nobody_is_inside, serve};
pub use talker::Talker;
pub use wait::{PATIENCE, eventually, stays, within};
pub use walk::{Walk, walked};
pub use worked::worked;
