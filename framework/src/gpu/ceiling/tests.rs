//! Exact counts for one shape, and any sequence of batches against a device that has memory for so much.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const KEY: u64 = 7;

/// How many batches of the ceiling's size pass until it moves; nothing of it may be seen before.
fn passes_until_moved(ceilings: &mut Ceilings) -> usize {
    let before = ceilings.of(KEY);
    let size = before.unwrap();
    for count in 1.. {
        ceilings.passed(KEY, size);
        if ceilings.of(KEY) != before {
            return count;
        }
        assert!(count <= MOST_PATIENCE, "it stays at {size}");
    }
    unreachable!()
}

#[test]
fn it_is_half_of_what_failed() {
    let mut ceilings = Ceilings::default();
    assert_eq!((ceilings.of(KEY), ceilings.is_empty()), (None, true));
    for (failed, expected) in [(100, 50), (50, 25), (100, 25), (25, 12), (3, 1), (2, 1), (1, 1), (0, 1)] {
        ceilings.ran_out(KEY, failed);
        assert_eq!(ceilings.of(KEY), Some(expected), "{failed} failed");
    }
    assert_eq!(ceilings.of(KEY + 1), None, "another shape is free");
}

#[test]
fn it_is_doubled_after_64_full_batches_until_it_is_gone() {
    let mut ceilings = Ceilings::default();
    [100, 50, 25].into_iter().for_each(|failed| ceilings.ran_out(KEY, failed));
    for (from, to) in [(12, Some(24)), (24, Some(48)), (48, Some(96)), (96, Some(100)), (100, None)] {
        assert_eq!(ceilings.of(KEY), Some(from));
        assert_eq!(passes_until_moved(&mut ceilings), 64);
        assert_eq!(ceilings.of(KEY), to);
    }
    assert!(ceilings.is_empty());
}

#[test]
fn each_time_it_was_doubled_in_vain_it_stays_twice_as_long() {
    let mut ceilings = Ceilings::default();
    ceilings.ran_out(KEY, 100);
    for patience in [64, 128, 256, 512, 1024, 1024, 1024] {
        assert_eq!(passes_until_moved(&mut ceilings), patience);
        assert_eq!(ceilings.of(KEY), Some(100));
        ceilings.ran_out(KEY, 100);
        assert_eq!(ceilings.of(KEY), Some(50));
    }
}

#[test]
fn what_fails_while_a_batch_is_halved_is_no_proof_against_a_doubling() {
    let mut ceilings = Ceilings::default();
    [100, 50, 25, 12].into_iter().for_each(|failed| ceilings.ran_out(KEY, failed));
    assert_eq!(passes_until_moved(&mut ceilings), 64);
    // Proved wrong once, by a batch whose halves fail as well.
    [12, 6, 3].into_iter().for_each(|failed| ceilings.ran_out(KEY, failed));
    assert_eq!(passes_until_moved(&mut ceilings), 128);
}

#[test]
fn batches_that_are_not_full_and_those_of_other_shapes_do_not_count() {
    let mut ceilings = Ceilings::default();
    ceilings.ran_out(KEY, 100);
    for _ in 0..10_000 {
        ceilings.passed(KEY, 25);
        ceilings.passed(KEY + 1, 50);
    }
    assert_eq!(ceilings.of(KEY), Some(50));
    assert_eq!(passes_until_moved(&mut ceilings), 64);
}

#[test]
fn a_failure_in_between_begins_the_count_anew() {
    let mut ceilings = Ceilings::default();
    ceilings.ran_out(KEY, 100);
    (0..63).for_each(|_| ceilings.passed(KEY, 50));
    ceilings.ran_out(KEY, 100);
    assert_eq!(passes_until_moved(&mut ceilings), 64);
}

#[test]
fn the_shape_that_failed_longest_ago_is_forgotten() {
    let mut ceilings = Ceilings::default();
    let shapes = MOST_SHAPES as u64;
    (0..shapes).for_each(|key| ceilings.ran_out(key, 100));
    ceilings.ran_out(0, 20);
    ceilings.ran_out(shapes, 100);
    assert_eq!(ceilings.of(0), Some(10));
    assert_eq!(ceilings.of(1), None);
    assert_eq!((2..=shapes).filter(|&key| ceilings.of(key) == Some(50)).count(), MOST_SHAPES - 1);
    assert_eq!(ceilings.lowest(), Some(10));
    (100..100_000).for_each(|key| ceilings.ran_out(key, 100));
    assert_eq!(ceilings.0.len(), MOST_SHAPES);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// On a device with memory for `room`, cutting below the ceiling: failures become rare, and at most one in 64
    /// batches at first; the ceiling never falls below half of what there is room for.
    #[test]
    fn few_batches_fail_and_little_room_is_lost(room in 1..5_000_usize, wanted in vec(1..10_000_usize, 1..3_000)) {
        let mut ceilings = Ceilings::default();
        let (mut failed, mut passed, mut found) = (0, 0, false);
        for wanted in wanted {
            let size = wanted.min(ceilings.of(KEY).unwrap_or(usize::MAX));
            if size <= room {
                ceilings.passed(KEY, size);
                passed += 1;
                continue;
            }
            prop_assert!(!found || passed >= PATIENCE, "{passed} batches after the last failure");
            ceilings.ran_out(KEY, size);
            let ceiling = ceilings.of(KEY).unwrap();
            prop_assert!(ceiling <= (size / 2).max(1) && ceiling >= room / 2, "{ceiling} of {room}");
            found = ceiling <= room;
            passed = 0;
            failed += 1;
        }
        // Down to the room by halves, and then once for each 64 batches at most.
        prop_assert!(failed <= 14 + 3_000 / 64);
    }

    /// When there is memory again, the ceiling goes.
    #[test]
    fn it_goes_when_there_is_room(failed in vec(2..100_000_usize, 1..20)) {
        let mut ceilings = Ceilings::default();
        failed.into_iter().for_each(|size| ceilings.ran_out(KEY, size));
        let mut batches = 0;
        while let Some(size) = ceilings.of(KEY) {
            ceilings.passed(KEY, size);
            batches += 1;
        }
        prop_assert!(batches <= 18 * PATIENCE, "{batches}");
    }
}
