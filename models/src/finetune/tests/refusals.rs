//! What is refused before anything is done, and how that is said.

use forebay::checkpoint::Workplace;
use forebay::{Fault, Job, Stepper};

use super::super::training::Training;
use super::super::vectors::Vectors;
use super::super::{Pair, Pairs, Settings, Task, Tuner};
use super::{small, task, tokenized, tuner, twisted, weights};
use crate::tests::tiny;
use crate::{Device, Tokens, Weights};

#[test]
fn settings_out_of_bounds_are_refused_by_name() {
    let with = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings
    };
    Settings::default().check().unwrap();
    for (settings, reason) in [
        (with(|s| s.epochs = 0), "epochs must be from 1 to 10000, not 0"),
        (with(|s| s.epochs = u64::MAX), "epochs"),
        (with(|s| s.batch = 0), "batch must be from 2"),
        (with(|s| s.batch = 1), "batch must be from 2"),
        (with(|s| s.batch = 1 << 40), "batch"),
        (with(|s| s.rate = f64::NAN), "rate must be from 0.000000001 to 1, not NaN"),
        (with(|s| s.rate = 0.0), "rate"),
        (with(|s| s.rate = f64::INFINITY), "rate"),
        (with(|s| s.warmup = 1.0), "warmup"),
        (with(|s| s.decay = -0.1), "decay"),
        (with(|s| s.beta1 = 1.0), "beta1"),
        (with(|s| s.beta2 = 1.0), "beta2"),
        (with(|s| s.epsilon = 0.0), "epsilon"),
        (with(|s| s.clip = Some(0.0)), "clip"),
        (with(|s| s.temperature = 0.0), "temperature"),
        (with(|s| s.held_out = 0.6), "held_out"),
        (with(|s| s.held_out = f64::NAN), "held_out"),
    ] {
        let why = settings.check().unwrap_err();
        assert!(why.to_string().contains(reason), "{why}");
        assert_eq!(why.fault(), Fault::Invalid);
    }
}

#[test]
fn settings_come_as_json() {
    let of = |text: &str| serde_json::from_str::<Settings>(text);
    assert_eq!(of("{}").unwrap(), Settings::default());
    let settings = of(r#"{"epochs": 3, "clip": null}"#).unwrap();
    assert_eq!((settings.epochs, settings.clip, settings.batch), (3, None, 64));
    assert!(of(r#"{"learning_rate": 3}"#).unwrap_err().to_string().contains("unknown field `learning_rate`"));
    assert_eq!(of(&serde_json::to_string(&settings).unwrap()).unwrap(), settings);
}

#[test]
fn pairs_are_refused_by_number() {
    let said = |text: &str| Pair::lines(text).unwrap_err().to_string();
    let good = r#"{"anchor": "a", "positive": "b"}"#;
    assert_eq!(Pair::lines(&format!("{good}\n\n{good}\n")).unwrap().len(), 2);
    assert!(said(&format!("{good}\n\n{{}}")).starts_with("line 3: missing field `anchor`"));
    assert!(said(r#"{"anchor": "a", "positive": "b", "label": 1}"#).contains("unknown field `label`"));
    assert!(said("a,b").contains("line 1"));
    assert!(said(&format!("{good}\n").repeat(250_001)).contains("more than 250000 pairs"));

    let tokens = Tokens::open(&weights()).unwrap();
    let said = |pairs: &[Pair]| Pairs::tokenize(&tokens, pairs).unwrap_err().to_string();
    assert!(said(&[]).contains("no pairs"));
    let mut pairs = twisted(3);
    pairs[1].positive = " ".to_owned();
    assert!(said(&pairs).contains("the positive of pair 2 is empty"));
}

#[test]
fn tasks_are_refused_before_they_begin() {
    let place = Workplace::new(&Job::new("1"), None);
    let mut tuner = tuner(1);
    let mut begin = |task: &Task| tuner.begin(task, &place).map(drop);
    let task = |settings, pairs: usize| Task { settings, pairs: tokenized(&twisted(pairs)) };
    begin(&task(small(), 2)).unwrap();
    let half = Settings { held_out: 0.5, ..small() };
    for (task, reason) in [
        (task(small(), 1), "1 pairs of which 0 are held out"),
        (task(half, 2), "two at least"),
        (task(Settings { rate: f64::NAN, ..small() }, 9), "rate"),
    ] {
        let why = begin(&task).unwrap_err();
        assert!(why.to_string().contains(reason) && why.fault() == Fault::Invalid, "{why}");
    }
}

#[test]
fn tokens_of_another_tokenizer_are_refused_before_the_first_step() {
    let dir = tiny::model();
    let mut config = tiny::config();
    config["vocab_size"] = 20.into();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let mut parts = tiny::tensors("");
    let words = parts.get_mut("embeddings.word_embeddings.weight").unwrap();
    words.1[0] = 20;
    words.2.truncate(20 * tiny::HIDDEN * 4);
    tiny::write(&dir.path().join("model.safetensors"), &parts);
    let mut fewer_words = Tuner::load(&Weights::dir(dir.path()).unwrap(), &Device::Cpu).unwrap();
    let place = Workplace::new(&Job::new("1"), None);
    let why = fewer_words.begin(&task(), &place).err().expect("refused");
    assert!(why.to_string().contains("not in the model's vocabulary of 20") && why.fault() == Fault::Invalid, "{why}");
}

#[test]
fn a_layer_that_grows_beyond_all_bounds_ends_the_training() {
    let overshoots = Settings { rate: 1.0, decay: 1.0, ..small() };
    assert!(overshoots.check().unwrap_err().to_string().contains("has to be below 1"));

    let (task, width) = (Task { settings: small(), pairs: tokenized(&twisted(64)) }, 4);
    let folder = tempfile::tempdir().unwrap();
    let mut vectors = Vectors::create(folder.path(), width, task.pairs.texts().len()).unwrap();
    let vector = |text: usize| (0..width).map(|at| ((text * width + at) as f32).sin()).collect();
    vectors.push(&(0..task.pairs.texts().len()).map(vector).collect::<Vec<_>>()).unwrap();
    let mut frozen = Training::start(&task, width, &Device::Cpu).unwrap().freeze().unwrap();
    // So long that what it makes of a vector has no length that is a number, and the loss says nothing of it.
    frozen.delta.fill(1e30);
    let mut training = Training::thaw(&task, width, &Device::Cpu, frozen).unwrap();
    let why = training.advance(&vectors).unwrap_err();
    assert_eq!(why.fault(), Fault::Invalid);
    assert!(why.to_string().contains("may be too high"), "{why}");
}
