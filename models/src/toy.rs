//! Models without weights, for tests, benchmarks and first steps.
//!
//! Owns an echo and a fake device whose time for a batch is known exactly. Both are deterministic. They promise nothing
//! about real models: no memory is used, nothing is computed.

use std::time::{Duration, Instant};

use forebay::{Error, Model, Result};

/// Before a wanted moment, how long a sleep may be trusted to have come back: the rest is waited for awake.
const AWAKE: Duration = Duration::from_micros(150);

/// Gives every input back.
#[derive(Debug, Clone, Copy)]
pub struct Echo<T>(std::marker::PhantomData<fn(T) -> T>);

impl<T> Echo<T> {
    /// An echo.
    pub fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<T> Default for Echo<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Clone + Send + 'static> Model for Echo<T> {
    type Input = T;
    type Output = T;

    fn infer(&mut self, inputs: &[T]) -> Result<Vec<T>> {
        Ok(inputs.to_vec())
    }
}

/// What a [`FakeDevice`] does with a batch that holds a certain input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// The batch fails, fault `Failed`.
    Fail,
    /// `infer` panics.
    Panic,
}

/// A device whose batch of `n` takes `a + b * n`, and whose output is [`FakeDevice::output`] of the input.
///
/// The thread is kept for that time, accurate to a few microseconds on an idle core: it sleeps and waits for the last
/// 150 microseconds awake. Mishaps happen after the time has passed, as with a real device, and not in a warm-up.
pub struct FakeDevice {
    a: Duration,
    b: Duration,
    mishap: Box<dyn Fn(u64) -> Option<Mishap>>,
}

impl FakeDevice {
    /// A batch of `n` takes `a + b * n`.
    pub fn new(a: Duration, b: Duration) -> Self {
        Self { a, b, mishap: Box::new(|_| None) }
    }

    /// Lets a batch fail or panic if `mishap` says so for one of its inputs.
    pub fn mishap(self, mishap: impl Fn(u64) -> Option<Mishap> + 'static) -> Self {
        Self { mishap: Box::new(mishap), ..self }
    }

    /// What the device makes of an input: its bits well mixed, so that a mix-up of outputs shows.
    pub fn output(input: u64) -> u64 {
        let mut x = input.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        x ^ (x >> 32)
    }

    /// How long a batch of `n` takes.
    pub fn time(&self, n: usize) -> Duration {
        self.a.saturating_add(self.b.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX)))
    }
}

impl Model for FakeDevice {
    type Input = u64;
    type Output = u64;

    fn infer(&mut self, inputs: &[u64]) -> Result<Vec<u64>> {
        wait(self.time(inputs.len()));
        for input in inputs {
            match (self.mishap)(*input) {
                Some(Mishap::Fail) => {
                    return Err(Error::failed(format!("the fake device was told to fail on {input}")));
                }
                Some(Mishap::Panic) => panic!("the fake device was told to panic on {input}"),
                None => {}
            }
        }
        Ok(inputs.iter().map(|input| Self::output(*input)).collect())
    }
}

/// Keeps the thread for `time`, accurately.
fn wait(time: Duration) {
    let start = Instant::now();
    if let Some(sleep) = time.checked_sub(AWAKE) {
        std::thread::sleep(sleep);
    }
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_gives_back() {
        let mut echo = Echo::new();
        assert_eq!(echo.infer(&["a", "b"]).unwrap(), ["a", "b"]);
    }

    #[test]
    fn a_batch_takes_a_plus_b_times_n() {
        let mut device = FakeDevice::new(Duration::from_millis(2), Duration::from_micros(100));
        let start = Instant::now();
        let outputs = device.infer(&[1, 2, 3]).unwrap();
        assert!(start.elapsed() >= Duration::from_micros(2300));
        assert_eq!(outputs, [1, 2, 3].map(FakeDevice::output));
        assert_eq!(device.time(3), Duration::from_micros(2300));
    }

    #[test]
    fn outputs_differ() {
        let outputs: std::collections::BTreeSet<u64> = (0..10_000).map(FakeDevice::output).collect();
        assert_eq!(outputs.len(), 10_000);
    }

    #[test]
    fn mishaps_come_when_told() {
        let mut device = FakeDevice::new(Duration::ZERO, Duration::ZERO).mishap(|input| match input {
            7 => Some(Mishap::Fail),
            8 => Some(Mishap::Panic),
            _ => None,
        });
        assert!(device.infer(&[1, 2]).is_ok());
        assert_eq!(device.infer(&[1, 7]).unwrap_err().to_string(), "the fake device was told to fail on 7");
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.infer(&[8])));
        assert!(panicked.is_err());
    }
}
