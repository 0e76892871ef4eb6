//! What the integration tests share: waiting for a condition, stopping a device, models made of closures, and a
//! source whose every call is written down.

mod beside;
mod client;
mod gate;
mod hook;
mod ledger;
mod model;
mod random;
mod served;
mod servers;
mod wait;
mod worked;

pub use beside::{run_beside, start};
pub use client::{Client, Response};
pub use gate::Gate;
pub use hook::Hook;
pub use ledger::{Entry, Extend, Ledger, Settle};
pub use model::{Func, model};
pub use random::Random;
pub use served::Process;
pub use servers::{Server, serve_beside, sqs_client};
pub use wait::{PATIENCE, eventually, stays, within};
pub use worked::worked;
