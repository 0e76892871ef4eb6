//! Everything is counted once, and alike however it is played.

use super::*;

/// Every moment of jobs and of nodes, to the nanosecond.
fn is_complete(outcome: &Outcome) {
    let Outcome { useful, overhead, lost, gaps, restoring, handing_over, .. } = *outcome;
    let on_nodes = useful + overhead + lost + restoring + handing_over;
    assert_eq!(on_nodes + gaps, outcome.job_time);
    assert_eq!(on_nodes + outcome.idle, outcome.node_time + outcome.zombie_time);
    assert!(useful >= Fleet::default().job * outcome.finished as u32);
}

#[test]
fn every_moment_is_counted_once() {
    for preset in Preset::ALL {
        is_complete(&fleet(preset, 20, 7).run().unwrap());
        let few = Fleet { jobs: Some(5), ..fleet(preset, 20, 7) }.run().unwrap();
        is_complete(&few);
        assert_eq!(few.started, 5);
        let many = Fleet { jobs: Some(500), faults: 0.05, ..fleet(preset, 20, 7) }.run().unwrap();
        is_complete(&many);
        assert!(many.started <= many.finished + 20, "no more jobs at once than nodes");
    }
}

#[test]
fn all_jobs_end_when_there_is_time() {
    let outcome = Fleet { jobs: Some(30), ..fleet(Preset::Typical, 20, 30) }.run().unwrap();
    assert_eq!((outcome.started, outcome.finished), (30, 30));
    assert_eq!(outcome.useful, 30 * Fleet::default().job);
    assert_eq!(outcome.samples.last().unwrap().finished, 30);
}

/// What the sums of quiet stretches give is what every single event gives: finished jobs, bytes, lost work, and all else.
#[test]
fn quiet_stretches_can_be_left_out() {
    for (preset, every) in [(Preset::Typical, None), (Preset::Storm, Some(200)), (Preset::Zombie, None)] {
        let interval = every.map_or_else(Interval::automatic, |seconds| Interval::every(Duration::from_secs(seconds)));
        let fast = Fleet { interval, job: 20 * HOUR, faults: 3e-3, ..fleet(preset, 100, 2) };
        let slow = Fleet { every_event: true, ..fast.clone() };
        let (fast, slow) = (fast.run().unwrap(), slow.run().unwrap());
        assert!(fast.finished > 50 && fast.lost > Duration::ZERO && fast.failed_renewals > 0);
        assert_eq!(fast, slow, "{preset}");
    }
}

#[test]
fn the_same_seed_gives_the_same_fleet() {
    for preset in Preset::ALL {
        let run = |seed| Fleet { seed, ..fleet(preset, 10, 4) }.run().unwrap();
        assert_eq!(run(3), run(3));
        assert_ne!(run(3), run(4));
    }
    // Its nodes are the same whatever its jobs do.
    let nodes = |interval| {
        let outcome = Fleet { interval, ..fleet(Preset::Burst, 20, 10) }.run().unwrap();
        (outcome.losses, outcome.node_time)
    };
    assert_eq!(nodes(Interval::automatic()), nodes(Interval::every(HOUR)));
}

#[test]
fn what_zombies_save_too_late_is_refused_and_costs_nothing() {
    let with = fleet(Preset::Zombie, 100, 20).run().unwrap();
    let without = fleet(Preset::Typical, 100, 20).run().unwrap();
    assert!(with.refused > 10, "{}", with.refused);
    assert_eq!(without.refused, 0);
    assert_eq!((with.losses, with.node_time), (without.losses, without.node_time), "the same nodes");
    assert!(with.waste() < without.waste() * 1.05, "{} and {}", with.waste(), without.waste());
}

#[test]
fn jobs_are_handed_over_before_twelve_hours() {
    let outcome = fleet(Preset::Calm, 60, 10).run().unwrap();
    // Each job of 48 h four times, as far as its nodes live so long.
    let each = outcome.hand_overs as f64 / outcome.started as f64;
    assert!((2.5..4.5).contains(&each), "{each}");
    let few = outcome.unsaved_hand_overs * 10;
    assert!(few < outcome.hand_overs, "only nodes with slow links cannot write down the last state");
    assert!(outcome.share(outcome.handing_over + outcome.restoring) < 0.001);
}

/// One call in a thousand fails, and no lease is lost for it; where every second call fails, some are.
#[test]
fn leases_outlast_faults() {
    let outcome = fleet(Preset::Typical, 50, 10).run().unwrap();
    assert!(outcome.failed_renewals > 200 && outcome.leases_lost == 0, "{outcome:?}");
    let bad = Fleet { faults: 0.5, ..fleet(Preset::Typical, 20, 3) }.run().unwrap();
    assert!(bad.leases_lost > 0 && bad.not_restored > 0);
    is_complete(&bad);
    let none = Fleet { faults: 0.0, ..fleet(Preset::Typical, 10, 3) }.run().unwrap();
    assert_eq!((none.failed_renewals, none.not_restored), (0, 0));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let wrong = [
        Fleet { nodes: 0, ..Fleet::default() },
        Fleet { nodes: usize::MAX, ..Fleet::default() },
        Fleet { time: Duration::ZERO, ..Fleet::default() },
        Fleet { time: Duration::MAX, ..Fleet::default() },
        Fleet { job: Duration::ZERO, ..Fleet::default() },
        Fleet { cost: Duration::MAX, ..Fleet::default() },
        Fleet { state: u64::MAX, ..Fleet::default() },
        Fleet { faults: f64::NAN, ..Fleet::default() },
        Fleet { interval: Interval::every(Duration::ZERO), ..Fleet::default() },
    ];
    for fleet in wrong {
        assert_eq!(fleet.run().unwrap_err().fault(), crate::Fault::Invalid, "{fleet:?}");
    }
    assert!("hail".parse::<Preset>().unwrap_err().to_string().contains("calm, typical, storm, burst, zombie"));
    for preset in Preset::ALL {
        assert_eq!(preset.to_string().parse::<Preset>().unwrap(), preset);
    }
}

#[test]
fn extremes_are_played() {
    let small = Fleet { nodes: 1, time: HOUR, job: HOUR, state: 0, cost: Duration::ZERO, ..Fleet::default() };
    is_complete_for(&small);
    let often = Interval::automatic().between(Duration::ZERO, HOUR);
    is_complete_for(&Fleet { interval: often, cost: Duration::ZERO, ..fleet(Preset::Storm, 2, 1) });
    let mostly_idle = Fleet { nodes: 100_000, jobs: Some(1), ..fleet(Preset::Storm, 1, 2) };
    is_complete_for(&mostly_idle);
    let heavy = Fleet { state: 1 << 40, cost: HOUR, ..fleet(Preset::Storm, 5, 5) };
    is_complete_for(&heavy);
    assert_eq!(heavy.run().unwrap().finished, 0, "a terabyte is never saved in time");
}

fn is_complete_for(fleet: &Fleet) {
    let outcome = fleet.run().unwrap();
    let on_nodes = outcome.job_time - outcome.gaps;
    assert_eq!(on_nodes + outcome.idle, outcome.node_time + outcome.zombie_time);
}
