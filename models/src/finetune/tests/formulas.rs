//! The loss, its gradient, the optimiser and the measure, against numbers worked out elsewhere.

use candle_core::{DType, Device, Tensor, Var};

use super::super::accuracy::accuracy;
use super::super::adamw::{AdamW, length};
use super::super::loss::{contrastive, mask};
use super::super::vectors::Vectors;
use super::super::{Projection, Settings};
use crate::random::Random;

const CPU: Device = Device::Cpu;

fn normal(count: usize, stream: u64) -> Vec<f64> {
    let mut random = Random::at(3, stream, 0);
    (0..count).map(|_| random.normal()).collect()
}

#[test]
fn the_gradient_is_that_of_differences() {
    let (pairs, width) = ([(0, 4), (1, 5), (2, 6), (1, 7)], 5);
    let vectors = Tensor::from_vec(normal(8 * width, 0), (8, width), &CPU).unwrap();
    let mask = mask(&pairs, &CPU).unwrap().to_dtype(DType::F64).unwrap();
    let start: Vec<f64> = normal(width * width, 1).iter().map(|value| 0.3 * value).collect();
    let loss = |delta: &Tensor| contrastive(&vectors, &mask, delta, 0.2).unwrap();
    let delta = Var::from_vec(start.clone(), (width, width), &CPU).unwrap();
    let gradients = loss(&delta).backward().unwrap();
    let gradient = gradients.get(&delta).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    assert!(gradient.iter().all(|slope| slope.abs() > 1e-6), "{gradient:?}");
    for (at, slope) in gradient.iter().enumerate() {
        let moved = |by: f64| {
            let mut values = start.clone();
            values[at] += by;
            let loss = loss(&Tensor::from_vec(values, (width, width), &CPU).unwrap());
            loss.to_scalar::<f64>().unwrap()
        };
        let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
        assert!((slope - difference).abs() < 1e-8, "weight {at}: {slope} and {difference}");
    }
}

#[test]
fn an_anchor_is_no_negative_of_itself() {
    // The second pair's positive is the first's anchor: row 0, column 1.
    let mask = mask(&[(0, 3), (1, 0), (2, 5)], &CPU).unwrap().to_vec2::<f32>().unwrap();
    assert_eq!(mask, [[0.0, -1e9, 0.0], [0.0; 3], [0.0; 3]]);
}

#[test]
fn the_loss_is_what_the_formula_says() {
    let zero = Tensor::zeros((2, 2), DType::F64, &CPU).unwrap();
    let of = |vectors: &[f64], pairs: &[(u32, u32)]| {
        let vectors = Tensor::from_slice(vectors, (2 * pairs.len(), 2), &CPU).unwrap();
        let mask = mask(pairs, &CPU).unwrap().to_dtype(DType::F64).unwrap();
        contrastive(&vectors, &mask, &zero, 0.5).unwrap().to_scalar::<f64>().unwrap()
    };
    // Cosines 1 and 0, divided by 0.5: ln(e^2 + e^0) - 2, for both anchors. Lengths do not count.
    let two = [(0, 2), (1, 3)];
    let expected = (2f64.exp() + 1.0).ln() - 2.0;
    assert!((of(&[1.0, 0.0, 0.0, 3.0, 0.5, 0.0, 0.0, 1.0], &two) - expected).abs() < 1e-9);
    // All alike: one of n is found by chance. Of those with a common text none is a negative.
    let alike = |pairs: &[(u32, u32)]| of(&[0.6, 0.8].repeat(2 * pairs.len()), pairs);
    for (pairs, among) in [
        ([(0, 3), (1, 4), (2, 5)], [3, 3, 3]),
        ([(0, 3), (0, 4), (2, 5)], [2, 2, 3]),
        ([(0, 3), (1, 3), (2, 5)], [2, 2, 3]),
        ([(0, 3), (1, 0), (2, 5)], [2, 3, 3]),
    ] {
        let expected = among.iter().map(|among| f64::from(*among).ln()).sum::<f64>() / 3.0;
        assert!((alike(&pairs) - expected).abs() < 1e-9, "{pairs:?}: {}", alike(&pairs));
    }
}

#[test]
fn adamw_makes_the_steps_that_were_worked_out_by_hand() {
    let settings = Settings { decay: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, ..Settings::default() };
    let value = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap()[0];
    let of = |value: f32| Tensor::new(&[value], &CPU).unwrap();
    let mut adamw = AdamW::new(&of(1.0)).unwrap();

    // Moments 0.05 and 0.00025, without bias 0.5 and 0.25: 1 * (1 - 0.001) - 0.1 * 0.5 / 0.5.
    let weight = adamw.update(&of(1.0), &of(0.5), 0.1, &settings).unwrap();
    assert!((value(&weight) - 0.899).abs() < 1e-6, "{weight}");
    // Moments 0.02 and 0.00031225, without bias 0.02 / 0.19 and 0.00031225 / 0.001999: 0.898101 - 0.0266337.
    let weight = adamw.update(&weight, &of(-0.25), 0.1, &settings).unwrap();
    assert!((value(&weight) - 0.871_467_3).abs() < 1e-6, "{weight}");
    assert_eq!(adamw.step, 2);
    assert!((value(&adamw.first) - 0.02).abs() < 1e-8 && (value(&adamw.second) - 0.000_312_25).abs() < 1e-9);

    assert_eq!(length(&Tensor::new(&[3f32, -4.0], &CPU).unwrap()).unwrap(), 5.0);
}

#[test]
fn accuracy_counts_what_is_found_first() {
    let folder = tempfile::tempdir().unwrap();
    let mut vectors = Vectors::create(folder.path(), 2, 4).unwrap();
    let at = |degrees: f32| vec![degrees.to_radians().cos(), degrees.to_radians().sin()];
    vectors.push(&[0.0, 10.0, 40.0, 45.0, 90.0, 80.0, 50.0].map(at)).unwrap();
    let zero = Tensor::zeros((2, 2), DType::F32, &CPU).unwrap();
    let of = |pairs: &[(u32, u32)]| accuracy(pairs, &vectors, &zero).unwrap();
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[(0, 1), (2, 3), (4, 5)]), Some(1.0));
    assert_eq!(of(&[(0, 3), (2, 1), (4, 5)]), Some(1.0 / 3.0));
    assert_eq!(of(&[(0, 3), (0, 1), (4, 5)]), Some(1.0), "both are right");
    assert_eq!(of(&[(3, 2), (4, 6)]), Some(0.5), "the same distance is not nearer");
    assert_eq!(of(&[(0, 1), (1, 0)]), Some(1.0), "what is asked with is no answer");
    let nonsense = Tensor::full(f32::NAN, (2, 2), &CPU).unwrap();
    assert_eq!(accuracy(&[(0, 1), (2, 3)], &vectors, &nonsense).unwrap(), Some(0.0));
}

#[test]
fn a_layer_comes_back_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer");
    let delta = Tensor::new(&[[0f32, 1.0], [0.0, -0.5]], &CPU).unwrap();
    Projection::write(&delta, &file).unwrap();
    let layer = Projection::open(&file).unwrap();
    assert_eq!(layer.width(), 2);
    // One row is 1 1, the other 0 0.5.
    assert_eq!(layer.apply(&[2.0, 2.0]).unwrap(), [4.0, 1.0].map(|value: f32| value / 17f32.sqrt()));
    for (vector, reason) in [(&[1.0, 2.0, 3.0][..], "the layer takes 2"), (&[0.0, 0.0], "without a length")] {
        assert!(layer.apply(vector).unwrap_err().to_string().contains(reason));
    }
    let said = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Projection::open(&file).unwrap_err().to_string()
    };
    assert!(said(b"nothing").contains("layer"));
    let other = Tensor::zeros((2, 3), DType::F32, &CPU).unwrap();
    other.save_safetensors("linear.weight", &file).unwrap();
    assert!(Projection::open(&file).unwrap_err().to_string().contains("2 rows and 3 columns"));
    other.save_safetensors("weight", &file).unwrap();
    assert!(Projection::open(&file).unwrap_err().to_string().contains("no tensor linear.weight"));
}
