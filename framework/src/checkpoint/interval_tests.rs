use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn run(hours: f64, lost: bool) -> Run {
    Run { age: 0, lasted: (hours * 3600.0) as u64, lost }
}

fn history(runs: &[Run]) -> History {
    let mut history = History::default();
    runs.iter().for_each(|run| history.push(*run));
    history
}

/// Exponential losses, and so many seen that the rate is as good as known.
fn known(mtbf: Duration) -> Interval {
    Interval::automatic().hazard(Hazard::weibull(1.0, mtbf)).between(Duration::ZERO, 100 * HOUR)
}

#[test]
fn exponential_losses_give_youngs_formula() {
    // What Young gives for 2.9 h, 20.6 h and 93 h, at 1 s, 5 s and 30 s; a node of age zero has taught nothing.
    for hours in [2.9, 20.6, 93.0] {
        for cost in [1.0, 5.0, 30.0] {
            let mtbf = Duration::from_secs_f64(hours * 3600.0);
            let mut interval = known(mtbf);
            interval.cost_was(Duration::from_secs_f64(cost));
            let young = (2.0 * cost * mtbf.as_secs_f64()).sqrt();
            let next = interval.next(Duration::ZERO).as_secs_f64();
            assert!((next - young).abs() < 1e-6, "{hours} h, {cost} s: {next} instead of {young}");
        }
    }
    let mut interval = known(s(2 * 3600 + 54 * 60));
    interval.cost_was(s(1));
    assert_eq!(interval.next(Duration::ZERO).as_secs(), 144);
}

#[test]
fn with_measured_costs_it_stays_near_youngs_optimum() {
    // Ten runs of 10 h each, all lost, and costs that scatter by 40 % around 2 s.
    let past = history(&[run(10.0, true); 10]);
    let mut interval = Interval::automatic().hazard(Hazard::weibull(1.0, 8 * HOUR)).learn(past, Duration::ZERO);
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..50 {
        interval.cost_was(Duration::from_secs_f64(2.0 * (0.6 + 0.8 * random.f64())));
    }
    let young = (2.0 * 2.0 * 10.0 * 3600.0f64).sqrt();
    let next = interval.next(Duration::ZERO).as_secs_f64();
    assert!((0.8..1.2).contains(&(next / young)), "{next} against {young}");
}

#[test]
fn it_grows_with_the_age_of_the_node() {
    let interval = Interval::automatic();
    let ages = [0, 60, 600, 3600, 4 * 3600, 12 * 3600, 48 * 3600].map(|age| interval.next(s(age)));
    assert!(ages.windows(2).all(|two| two[0] <= two[1]), "{ages:?}");
    assert!(ages[0] > s(60) && ages[0] < s(180) && ages[6] > s(480) && ages[6] < s(1200), "{ages:?}");
}

#[test]
fn it_is_never_shorter_than_an_upload() {
    for mut interval in [Interval::automatic(), Interval::every(s(10)), Interval::every(Duration::ZERO)] {
        interval.cost_was(Duration::from_millis(5));
        assert!(interval.next(HOUR) < s(60));
        interval.upload_took(s(200));
        assert!(interval.next(HOUR) >= s(200));
        interval.upload_took(3 * HOUR);
        assert!(interval.next(HOUR) > HOUR, "also beyond the longest");
        (0..50).for_each(|_| interval.upload_took(s(100)));
        assert!(interval.next(HOUR) >= s(100) && interval.next(HOUR) <= s(126));
    }
    assert_eq!(Interval::every(s(600)).next(s(1)), s(600));
    assert_eq!(Interval::every(s(600)).next(100 * HOUR), s(600));
}

#[test]
fn it_learns_from_the_jobs_history() {
    let next = |past: &[Run]| Interval::automatic().learn(history(past), Duration::ZERO).next(2 * HOUR);
    let (none, storm, calm) = (next(&[]), next(&[run(0.5, true); 8]), next(&[run(40.0, false), run(45.0, false)]));
    assert!(storm.as_secs_f64() < none.as_secs_f64() / 1.4, "{storm:?} after a storm, {none:?} else");
    assert!(calm.as_secs_f64() > none.as_secs_f64() * 1.3, "{calm:?} in calm, {none:?} else");
    // A calm that follows is learned too.
    let mut after = vec![run(0.5, true); 8];
    after.extend([run(100.0, false); 8]);
    assert!(next(&after) > none);
}

#[test]
fn what_it_hands_on_is_what_was_seen() {
    let first = Interval::automatic().learn(History::default(), HOUR);
    let saved = serde_json::to_string(&first.history(3 * HOUR, false)).unwrap();
    assert_eq!(saved, r#"[{"age_s":3600,"lasted_s":7200,"lost":true}]"#);
    let second = Interval::automatic().learn(serde_json::from_str(&saved).unwrap(), Duration::ZERO);
    let history = second.history(s(30), true);
    assert_eq!(history.runs()[1], Run { age: 0, lasted: 30, lost: false });
    assert_eq!(serde_json::from_str::<History>(r#"[{"lasted_s":1,"lost":false}]"#).unwrap().runs()[0].age, 0);
    let mut long = History::default();
    (0..1000).for_each(|n| long.push(run(n as f64, true)));
    assert_eq!((long.runs().len(), long.runs()[0]), (RUNS, run(1000.0 - RUNS as f64, true)));
}

#[test]
fn nothing_makes_it_wild() {
    let values = [Duration::ZERO, Duration::from_nanos(1), s(1), HOUR, Duration::MAX];
    let runs = [0, 1, 3600, u64::MAX].map(|n| Run { age: n, lasted: n, lost: n % 2 == 0 });
    let hazards = [Hazard::default(), Hazard::weibull(f64::NAN, Duration::ZERO), Hazard::weibull(9.0, Duration::MAX)];
    for (cost, upload) in values.into_iter().flat_map(|cost| values.map(|upload| (cost, upload))) {
        for (hazard, age) in hazards.into_iter().flat_map(|hazard| values.map(|age| (hazard, age))) {
            let mut interval = Interval::automatic().hazard(hazard).learn(history(&runs), age);
            interval.cost_was(cost);
            let next = interval.next(age);
            assert!(next >= SHORTEST && next <= LONGEST, "{cost:?} {age:?}: {next:?}");
            interval.upload_took(upload);
            assert!(interval.next(Duration::MAX) >= upload.max(SHORTEST).min(Duration::MAX / 2));
            let _ = (interval.next(Duration::ZERO), interval.history(Duration::ZERO, false));
        }
    }
    let odd = Interval::automatic().between(HOUR, s(1));
    assert_eq!(odd.next(s(9)), HOUR);
}
