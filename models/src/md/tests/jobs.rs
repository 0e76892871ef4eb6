//! Simulations as jobs: saved by one worker's stepper and gone on with by another's.

use std::sync::Arc;

use candle_core::Device;
use forebay::checkpoint::{Checkpoints, Workplace};
use forebay::store::{Key, Memory};
use forebay::{Fault, Job, Pipeline, Result, Stepper, Stepping};

use super::super::{Dynamics, Outcome, Simulation};
use super::small;

fn with_trajectory() -> Simulation {
    Simulation { atoms: 200, equilibrate: 50, steps: 250, trajectory_every: Some(20), ..small() }
}

fn end(stepper: &mut Dynamics, mut state: <Dynamics as Stepper>::State) -> (Outcome, String) {
    while stepper.step(&mut [&mut state]).unwrap() != [forebay::Progress::done()] {}
    let outcome = stepper.finish(state).unwrap();
    let trajectory = std::fs::read_to_string(outcome.trajectory.as_ref().unwrap()).unwrap();
    (outcome, trajectory)
}

#[tokio::test]
async fn another_worker_goes_on_with_a_saved_job() -> Result<()> {
    let simulation = with_trajectory();
    let alone = Workplace::new(&Job::new("alone"), None);
    let mut stepper = Dynamics::new(&Device::Cpu);
    let state = stepper.begin(&simulation, &alone)?;
    let (whole, frames) = end(&mut stepper, state);
    assert_eq!(frames.lines().count(), 12 * 202);

    let (store, key) = (Arc::new(Memory::new()), Key::new("jobs/1/state")?);
    let mut ended = None;
    for attempt in 0..4 {
        let place = Workplace::new(&Job::new("1"), None);
        let mut checkpoints = Checkpoints::open(store.clone(), &key, &place, Dynamics::FORMAT).await?;
        let mut stepper = Dynamics::new(&Device::Cpu);
        let mut state = match checkpoints.restore().await? {
            None => stepper.begin(&simulation, &place)?,
            Some(saved) => stepper.restore(&simulation, &place, saved)?,
        };
        if attempt == 3 {
            ended = Some(end(&mut stepper, state));
            break;
        }
        // Less than a step of the stepper, so that each of these attempts stops on the way.
        for _ in 0..71 {
            state.run.advance()?;
        }
        checkpoints.save(stepper.save(&mut state)?).await?;
        state.run.advance()?;
    }
    let (outcome, trajectory) = ended.expect("the last attempt ends");
    assert_eq!(outcome.summary, whole.summary);
    assert_eq!(trajectory, frames);
    Ok(())
}

#[tokio::test]
async fn a_pipeline_simulates_several_at_once() -> Result<()> {
    let pipeline = Pipeline::new().gpu_steps("md", Stepping::jobs(3), || Ok(Dynamics::new(&Device::Cpu)));
    let pipeline = pipeline.start().await?;
    let of = |seed| Simulation { seed, thermostat: None, ..small() };
    let (a, b, refused) =
        tokio::join!(pipeline.call(of(1)), pipeline.call(of(2)), pipeline.call(Simulation { atoms: 0, ..small() }));
    let (a, b) = (a?.summary, b?.summary);
    assert_eq!((a.samples, a.steps, a.atoms), (20, 200, 170));
    assert_ne!(a.potential, b.potential);
    assert_eq!(refused.map(drop).unwrap_err().fault(), Fault::Invalid);
    assert_eq!(pipeline.call(of(1)).await?.summary, a);
    // As text, as a job's result is.
    let text = serde_json::to_value(&a)?;
    assert_eq!(text["radial"].as_array().map(Vec::len), Some(200));
    Ok(())
}
