//! Generators against the percentiles that they are to have.

use super::super::node::{After, Bursts, Node};
use super::super::random::{Lognormal, Weibull, seeded, successes};
use super::*;

const DRAWS: u64 = 20_000;

/// Sorted.
fn drawn(mut draw: impl FnMut(u64) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = (0..DRAWS).map(&mut draw).collect();
    values.sort_by(f64::total_cmp);
    values
}

fn percentile(values: &[f64], share: f64) -> f64 {
    values[(values.len() as f64 * share) as usize]
}

fn near(values: &[f64], percentiles: &[(f64, f64)], tolerance: f64) {
    for &(share, wanted) in percentiles {
        let got = percentile(values, share);
        assert!((got / wanted - 1.0).abs() < tolerance, "p{}: {got} instead of {wanted}", share * 100.0);
    }
}

fn nodes(preset: Preset, what: impl Fn(&Node) -> f64) -> Vec<f64> {
    let bursts = Bursts::draw(1, preset, 30 * DAY);
    drawn(|place| what(&Node::draw(1, place, 1, Duration::ZERO, preset, &bursts)))
}

#[test]
fn links_and_gaps_have_the_percentiles_that_were_measured() {
    near(&nodes(Preset::Typical, |node| node.link.up / 1e6), &[(0.1, 38.7), (0.5, 281.0), (0.9, 734.0)], 0.05);
    near(&nodes(Preset::Typical, |node| node.link.down / 1e6), &[(0.1, 150.0), (0.5, 659.0), (0.9, 868.0)], 0.05);
    near(&nodes(Preset::Typical, |node| node.gap.as_secs_f64() / 60.0), &[(0.5, 12.0), (0.9, 29.0)], 0.03);
    let rtt = nodes(Preset::Typical, |node| node.link.rtt.as_secs_f64() * 1e3);
    assert!(rtt[0] >= 28.0 && rtt[rtt.len() - 1] <= 230.0);
}

#[test]
fn fleets_start_as_one_was_seen_to() {
    let starts = drawn(|place| Node::first(7, place).as_secs_f64() / 60.0);
    assert!(starts[0] >= 3.0 && starts[starts.len() - 1] <= 80.0);
    near(&starts, &[(0.5, 10.0), (0.8, 20.0), (0.9, 40.0)], 0.05);
}

#[test]
fn nodes_live_as_long_as_the_preset_says() {
    let hours = |preset| nodes(preset, |node| node.dies.as_secs_f64() / 3600.0);
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    for (preset, mtbf) in [(Preset::Calm, 93.0), (Preset::Storm, 2.9), (Preset::Typical, 32.6)] {
        let got = mean(&hours(preset));
        assert!((got / mtbf - 1.0).abs() < 0.04, "{preset}: {got} h instead of {mtbf}");
    }
    // Of a Weibull distribution 63.2 % lie below its scale.
    near(&hours(Preset::Typical), &[(0.632_120_6, 19.7)], 0.04);
    let mut random = seeded(&[3]);
    let young = drawn(|_| Weibull { shape: 0.56, scale: 19.7 }.draw(&mut random).as_secs_f64());
    let dead = young.iter().filter(|age| **age < 1800.0).count() as f64 / DRAWS as f64;
    assert!((0.10..0.14).contains(&dead), "{dead} of the nodes are lost in their first half hour");
}

#[test]
fn bursts_take_most_nodes_at_once() {
    let bursts = Bursts::draw(1, Preset::Burst, 30 * DAY);
    let alone = Bursts::draw(1, Preset::Typical, 30 * DAY);
    let (mut hit, mut first) = (0, Vec::new());
    for place in 0..2000 {
        let with = Node::draw(1, place, 1, Duration::ZERO, Preset::Burst, &bursts);
        let without = Node::draw(1, place, 1, Duration::ZERO, Preset::Burst, &alone);
        assert!(with.dies <= without.dies);
        hit += usize::from(with.dies < without.dies);
        first.push(with.dies);
    }
    // Typical nodes that are not lost before are lost in one of the bursts, but for a fifth a time.
    assert!(hit > 300, "{hit} of 2000");
    let calm = fleet(Preset::Typical, 200, 20).run().unwrap();
    let burst = fleet(Preset::Burst, 200, 20).run().unwrap();
    assert!(burst.losses > calm.losses * 3 / 2, "{} and {}", burst.losses, calm.losses);
    let fewest = |outcome: &Outcome| outcome.samples[10..].iter().map(|sample| sample.nodes).min().unwrap();
    assert!(fewest(&burst) < 160 && fewest(&calm) > 180, "{} and {}", fewest(&burst), fewest(&calm));
}

#[test]
fn a_fifth_and_a_twentieth_go_on() {
    let bursts = Bursts::draw(1, Preset::Zombie, DAY);
    let after: Vec<_> =
        (0..DRAWS).map(|n| Node::draw(2, n, 1, Duration::ZERO, Preset::Zombie, &bursts).after).collect();
    let share = |is: fn(&After) -> bool| after.iter().filter(|after| is(after)).count() as f64 / DRAWS as f64;
    let (on, off) =
        (share(|after| matches!(after, After::GoesOn(_))), share(|after| matches!(after, After::CutOff(_))));
    assert!((0.19..0.21).contains(&on) && (0.045..0.055).contains(&off), "{on} and {off}");
    for after in after {
        if let After::GoesOn(time) | After::CutOff(time) = after {
            assert!(time >= Duration::from_secs(30) && time <= Duration::from_secs(600));
        }
    }
}

#[test]
fn faults_come_as_often_as_they_are_to() {
    let mut random = seeded(&[5]);
    let mean = drawn(|_| successes(&mut random, 1e-3) as f64).iter().sum::<f64>() / DRAWS as f64;
    assert!((970.0..1030.0).contains(&mean), "{mean}");
    assert_eq!((successes(&mut random, 0.0), successes(&mut random, 1.0)), (u64::MAX, 0));
    assert!(successes(&mut random, 1e-18) > 1_000_000_000);
    let even = drawn(|_| Lognormal::by(10.0, 10.0, 10.0).draw(&mut random));
    assert!(even[0] > 9.99 && even[even.len() - 1] < 10.01);
}
