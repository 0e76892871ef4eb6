//! Random numbers that are a function of a seed and of the moment they are drawn for.
//!
//! Owns SplitMix64 (Steele, Lea and Flood 2014) and the distributions made of it. Nothing has to be saved: the numbers of
//! step 1,000 are the same however the run got there. No function of the system's C library is called, since its last
//! bit differs from machine to machine; `libm` is plain arithmetic.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One sequence of random numbers.
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of a seed, for one purpose (`stream`), at one step.
    pub(crate) fn at(seed: u64, stream: u64, step: u64) -> Self {
        let next = |state: u64, word: u64| mix((state ^ word).wrapping_add(GOLDEN));
        Self([seed, stream, step].into_iter().fold(0, next))
    }

    /// 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A whole number below `end`, all of them equally often but for a share of `end` in 2^64.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.bits()) * end as u128) >> 64) as usize
    }

    /// Evenly from 0 to 1, neither of them.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// From the normal distribution of mean 0 and variance 1 (the polar method of Marsaglia and Bray 1964).
    pub(crate) fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (2.0 * self.unit() - 1.0, 2.0 * self.unit() - 1.0);
            let square = x * x + y * y;
            if square < 1.0 && square > 0.0 {
                return x * (-2.0 * libm::log(square) / square).sqrt();
            }
        }
    }

    /// From the gamma distribution of scale 1 and a `shape` of at least 1 (Marsaglia and Tsang 2000).
    pub(crate) fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = 1.0 + c * x;
            if v > 0.0 {
                let v = v * v * v;
                if libm::log(self.unit()) < 0.5 * x * x + d * (1.0 - v + libm::log(v)) {
                    return d * v;
                }
            }
        }
    }
}

fn mix(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
