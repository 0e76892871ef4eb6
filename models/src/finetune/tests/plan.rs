//! Which pairs a step has, and its rate.

use std::collections::BTreeSet;

use super::super::order::{Order, split};
use super::super::{Pair, Settings};
use super::{small, tokenized};

#[test]
fn an_epoch_has_every_pair_once_and_each_its_own_order() {
    let settings = Settings { batch: 7, ..small() };
    let epoch = |order: &mut Order, epoch: u64| {
        (epoch * 10..epoch * 10 + 10).flat_map(|step| order.batch(step).to_vec()).collect::<Vec<_>>()
    };
    let mut order = Order::new(73, &settings);
    assert_eq!(order.steps(), 10);
    let epochs: Vec<Vec<usize>> = (0..4).map(|number| epoch(&mut order, number)).collect();
    for places in &epochs {
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), 70, "three fill no batch");
        assert!(places.iter().all(|place| *place < 73));
    }
    assert_eq!(epochs.iter().collect::<BTreeSet<_>>().len(), 4);
    // Whichever way it got there.
    assert_eq!(epoch(&mut order, 1), epochs[1]);
    assert_eq!(epoch(&mut Order::new(73, &settings), 3), epochs[3]);
    assert_ne!(epoch(&mut Order::new(73, &Settings { seed: 1, ..settings }), 0), epochs[0]);

    let mut few = Order::new(5, &small());
    assert_eq!((few.steps(), few.batch(9).len()), (1, 5), "fewer than a batch are the batch");
}

#[test]
fn held_out_pairs_are_not_trained_on() {
    let pairs: Vec<usize> = (0..1000).collect();
    let of = |seed, held_out| split(&pairs, &Settings { seed, held_out, ..small() });
    let (trained, held_out) = of(0, 0.1);
    assert_eq!((trained.len(), held_out.len()), (900, 100));
    assert_eq!(trained.iter().chain(&held_out).collect::<BTreeSet<_>>().len(), 1000);
    assert_eq!(of(0, 0.1), (trained, held_out.clone()));
    assert_ne!(of(1, 0.1).1, held_out);
    assert!(held_out.iter().any(|pair| *pair < 100) && held_out.iter().any(|pair| *pair >= 900));
    assert_eq!(of(0, 0.0), (pairs.clone(), vec![]));
}

#[test]
fn the_rate_rises_and_falls() {
    let settings = Settings { rate: 0.5, warmup: 0.1, ..small() };
    let of = |step| settings.rate_at(step, 100);
    assert_eq!([of(0), of(4), of(9), of(10)], [0.05, 0.25, 0.5, 0.5]);
    assert!((of(55) - 0.25).abs() < 1e-12 && of(99) > 0.0 && of(99) < 0.006);
    assert_eq!(Settings { warmup: 0.0, ..settings.clone() }.rate_at(0, 100), 0.5);
    assert_eq!(settings.rate_at(0, 1), 0.5);
    assert!((0..7).all(|step| Settings { warmup: 0.9, ..settings.clone() }.rate_at(step, 7) > 0.0));
}

#[test]
fn a_text_of_several_pairs_is_kept_once() {
    let pair = |anchor: &str, positive: &str| Pair { anchor: anchor.into(), positive: positive.into() };
    let pairs = tokenized(&[pair("a b", "c"), pair("d", "c"), pair("c", "a b")]);
    assert_eq!((pairs.len(), pairs.texts().len()), (3, 3));
    assert_eq!(pairs.numbered(), [(0, 1), (2, 1), (1, 0)]);
    let other = tokenized(&[pair("a b", "c"), pair("d", "c"), pair("c", "d")]);
    assert_ne!(pairs.fingerprint(), other.fingerprint());
    assert_ne!(pairs.fingerprint(), tokenized(&[pair("a", "c"), pair("d", "c"), pair("c", "a")]).fingerprint());
}
