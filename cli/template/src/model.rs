//! The model. Replace it with yours: `load` gets it ready, `infer` runs one batch.

use forebay::{Model, Result};

const GOOD: [&str; 8] = ["calm", "friendly", "fine", "glad", "good", "great", "happy", "love"];
const BAD: [&str; 8] = ["angry", "awful", "bad", "broken", "hate", "poor", "sad", "terrible"];

/// Says how glad a text sounds, by a few words. A real model would hold weights on a device.
pub struct Tone;

impl Tone {
    /// Called on the device's thread. If it fails, the worker says that it is not ready, and tries again.
    pub fn load() -> Result<Self> {
        Ok(Tone)
    }
}

impl Model for Tone {
    type Input = String;
    /// From -1, where only bad words are in it, to 1; 0 where there is neither kind.
    type Output = f32;

    fn infer(&mut self, texts: &[String]) -> Result<Vec<f32>> {
        Ok(texts.iter().map(|text| tone(text)).collect())
    }
}

fn tone(text: &str) -> f32 {
    let text = text.to_lowercase();
    let words = || text.split(|c: char| !c.is_alphanumeric());
    let good = words().filter(|word| GOOD.contains(word)).count() as f32;
    let bad = words().filter(|word| BAD.contains(word)).count() as f32;
    (good - bad) / (good + bad).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_good_words_against_bad_ones() {
        let texts = ["Good, great, calm; but sad.", "bad", "a stone"].map(str::to_owned);
        assert_eq!(Tone.infer(&texts).unwrap(), [0.5, -1.0, 0.0]);
    }
}
