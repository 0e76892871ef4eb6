//! Which device a model runs on: what is asked for, what is there, and why a card cannot be used.
//!
//! Everything but opening a card works, and is tested, in builds without CUDA: the driver is looked for when it is asked
//! for. It chooses and checks; it holds no device and watches none.

mod architecture;
mod card;
mod choice;
mod cuda;
mod speed;
#[cfg(test)]
mod tests;
mod unusable;

pub(crate) use card::room_for;
pub use card::{Card, Memory};
pub use choice::DeviceChoice;
pub use speed::device_speed;
