//! Whether the molecular dynamics of `forebay_models::md` is physics: held against published values of the Lennard-Jones
//! fluid, and against itself where two ways must lead to the same.
//!
//! 1. Energy: 256 atoms at the triple point's density, 100,000 steps of 0.004 without a thermostat. The slope of a
//!    straight line through the total energy, over the whole run, must be less than the fluctuation around it; that must
//!    be less than a hundredth of the kinetic energy's, and less than 1e-4 of the total.
//! 2. Structure: 864 atoms near the triple point, the radial distribution function at two states beside published ones.
//!    The root mean square of the differences must be below 0.03, and the first peak's height within 2 %.
//! 3. Energy and pressure of 500 atoms at three states of NIST's table, and of the gas and the dense fluid by an equation
//!    of state. Differences must be below 0.02 and 0.06 (as the published values differ from each other by), which is
//!    more than the standard errors given beside.
//! 4. Of the same runs: the integral of the radial distribution function gives the same energy and pressure; and the
//!    thermostat keeps temperature and its fluctuation at what the canonical ensemble has.
//! 5. Steps a second for 500 and 4,000 atoms, on the threads that rayon has here.
//!
//! The atoms move by a potential that ends smoothly; what is compared is what the uncut potential gives for the same
//! positions, with corrections for what is beyond the cutoff. It takes ten minutes of one core; `FOREBAY_PHYSICS_SHARE`
//! makes all runs shorter.

use std::f64::consts::PI;
use std::path::Path;
use std::time::Instant;

use forebay::{Classify, Context, Result};
use forebay_benches::lennard_jones::{Distribution, NIST, Point, REATTO, VERLET, johnson};
use forebay_benches::result;
use forebay_models::Device;
use forebay_models::md::{Radial, Run, Sample, Simulation, System, Thermostat};
use mimalloc::MiMalloc;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> Result<()> {
    let set = std::env::var("FOREBAY_PHYSICS_SHARE").ok().filter(|text| !text.is_empty());
    let share = set.map(|text| text.parse::<f64>().or_invalid()).transpose().context("FOREBAY_PHYSICS_SHARE")?;
    let steps = |steps: f64| (steps * share.unwrap_or(1.0)).max(500.0) as u64;
    let conserved = conserved(steps(100_000.0))?;
    let structure = [structure(&REATTO, steps(20_000.0))?, structure(&VERLET, steps(20_000.0))?];
    let mut states = Vec::new();
    for point in NIST {
        states.push(state("NIST", point, steps(20_000.0))?);
    }
    for (density, temperature) in [(0.05, 1.2), (0.5, 2.0)] {
        states.push(state("Johnson", johnson(density, temperature), steps(20_000.0))?);
    }
    let speeds = [speed(500, steps(4_000.0))?, speed(4_000, steps(500.0))?];
    let all = |values: &[Value]| values.iter().all(|value| value["passed"] == true);
    let passed = conserved["passed"] == true && all(&structure) && all(&states);
    result(json!({
        "passed": passed,
        "conserved": conserved,
        "structure": structure,
        "states": states,
        "steps_a_second": { "500": speeds[0], "4000": speeds[1] },
    }));
    Ok(())
}

/// Mean and standard deviation.
fn moments(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let count = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / count;
    (mean, (values.map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0)).sqrt())
}

/// The standard error of a mean of values that depend on those before: from the means of ten blocks.
fn error(values: &[f64]) -> f64 {
    let blocks: Vec<f64> =
        values.chunks(values.len().div_ceil(10)).map(|block| moments(block.iter().copied()).0).collect();
    moments(blocks.iter().copied()).1 / (blocks.len() as f64).sqrt()
}

fn conserved(steps: u64) -> Result<Value> {
    let simulation = Simulation {
        atoms: 256,
        temperature: 0.73,
        equilibrate: 5_000,
        steps,
        sample_every: 10,
        ..Simulation::default()
    };
    let mut run = Run::start(&simulation, &Device::Cpu, Path::new(""))?;
    while run.fraction() * (simulation.total() as f64) < simulation.equilibrate as f64 {
        run.advance()?;
    }
    let start = Instant::now();
    while !run.done() {
        run.advance()?;
    }
    let a_second = steps as f64 / start.elapsed().as_secs_f64();
    let summary = run.summary();
    let time = steps as f64 * simulation.timestep;
    let drift = summary.drift * time;
    // Around the line: what the line itself explains is taken off.
    let explained = drift * drift / 12.0;
    let fluctuation = (summary.total.deviation.powi(2) - explained).max(0.0).sqrt();
    let momentum =
        run.system().velocities()?.chunks(256).map(|axis| axis.iter().sum::<f64>().abs()).fold(0.0, f64::max);
    let ratio = fluctuation / summary.kinetic.deviation;
    let relative = fluctuation / summary.total.mean.abs();
    let passed = drift.abs() < fluctuation && ratio < 0.01 && relative < 1e-4;
    println!("energy of 256 atoms at density {}, {steps} steps of {}:", simulation.density, simulation.timestep);
    println!("  total {:.6} an atom, temperature {:.4}", summary.total.mean, summary.temperature.mean);
    println!("  drift {drift:+.2e} an atom over the run ({:+.2e} a unit of time)", summary.drift);
    println!(
        "  fluctuation around it {fluctuation:.2e}, of the total {relative:.1e}, of the kinetic energy's {ratio:.4}"
    );
    println!("  total momentum at the end {momentum:.1e}; {a_second:.0} steps a second; passed: {passed}");
    Ok(json!({
        "steps": steps, "drift": drift, "drift_a_time": summary.drift, "fluctuation": fluctuation,
        "of_total": relative, "of_kinetic": ratio, "temperature": summary.temperature.mean,
        "momentum": momentum, "steps_a_second": a_second, "passed": passed,
    }))
}

/// All that is observed of a run at the thermostat.
struct Observed {
    samples: Vec<Sample>,
    radial: Vec<[f64; 2]>,
}

fn observe(simulation: &Simulation) -> Result<Observed> {
    let mut system = System::start(simulation, &Device::Cpu)?;
    // Half of a published step on either side of a distance.
    let mut radial = Radial::new(simulation.radial_reach(), simulation.radial_bins as usize);
    let mut samples = Vec::new();
    while system.step() < simulation.total() {
        system.advance()?;
        if system.step() > simulation.equilibrate && system.step() % simulation.sample_every == 0 {
            samples.push(system.sample()?);
            radial.add(&system.positions()?, system.length());
        }
    }
    Ok(Observed { samples, radial: radial.values(simulation.atoms, simulation.density) })
}

/// What is simulated at a state: the thermostat is weak enough to leave the motion as it is.
fn at(density: f64, temperature: f64, atoms: u64, steps: u64) -> Simulation {
    Simulation {
        atoms,
        density,
        temperature,
        steps,
        cutoff: 3.0,
        equilibrate: 5_000.min(steps / 2),
        sample_every: 20,
        thermostat: Some(Thermostat { time: 0.5 }),
        ..Simulation::default()
    }
}

fn structure(published: &Distribution, steps: u64) -> Result<Value> {
    let reach = 5.0;
    let simulation = Simulation {
        // Bins around multiples of 0.01.
        radial_reach: Some(reach + 0.005),
        radial_bins: 1001,
        ..at(published.density, published.temperature, 864, steps)
    };
    let Observed { radial, .. } = observe(&simulation)?;
    // Two bins of 0.005, one on either side.
    let ours = |r: f64| {
        let at = (r / 0.005).round() as usize;
        (radial[at - 1][1] + radial[at][1]) / 2.0
    };
    println!(
        "radial distribution at density {}, temperature {}, beside {}:",
        published.density, published.temperature, published.source
    );
    let mut squares = 0.0;
    let mut worst = (0.0, 0.0);
    for (r, theirs) in published.values {
        let difference = ours(*r) - theirs;
        squares += difference * difference;
        if difference.abs() > f64::abs(worst.1) {
            worst = (*r, difference);
        }
        println!("  {r:.2}  {:.3}  {theirs:.3}  {difference:+.3}", ours(*r));
    }
    let rms = (squares / published.values.len() as f64).sqrt();
    let highest = |value: &dyn Fn(f64) -> f64| {
        published.values.iter().map(|(r, _)| (*r, value(*r))).fold((0.0, 0.0), |a, b| if b.1 > a.1 { b } else { a })
    };
    let theirs = published.values.iter().fold((0.0, 0.0), |a, b| if b.1 > a.1 { *b } else { a });
    let same = highest(&ours);
    let peak = radial.iter().copied().fold([0.0; 2], |a, b| if b[1] > a[1] { b } else { a });
    let passed = rms < 0.03 && (same.1 / theirs.1 - 1.0).abs() < 0.02;
    println!("  differences: root mean square {rms:.4}, largest {:+.3} at {:.2}", worst.1, worst.0);
    println!(
        "  highest {:.3} at {:.4}; of the published distances {:.3} at {:.2}, theirs {:.3} at {:.2}; passed: {passed}",
        peak[1], peak[0], same.1, same.0, theirs.1, theirs.0
    );
    Ok(json!({
        "source": published.source, "density": published.density, "temperature": published.temperature,
        "rms": rms, "largest": worst.1, "largest_at": worst.0, "peak": same.1, "peak_published": theirs.1,
        "passed": passed,
    }))
}

fn state(source: &str, published: Point, steps: u64) -> Result<Value> {
    let Point { density, temperature, energy, pressure } = published;
    let simulation = Simulation { radial_reach: Some(3.0), radial_bins: 1500, ..at(density, temperature, 500, steps) };
    let Observed { samples, radial } = observe(&simulation)?;
    let of = |value: fn(&Sample) -> f64| samples.iter().map(value).collect::<Vec<f64>>();
    let (energies, pressures) = (of(|sample| sample.lj_potential), of(|sample| sample.lj_pressure));
    let (u, p) = (moments(energies.iter().copied()).0, moments(pressures.iter().copied()).0);
    let (u_error, p_error) = (error(&energies), error(&pressures));
    let (t, t_deviation) = moments(of(|sample| sample.temperature).into_iter());
    // What the canonical ensemble has.
    let canonical = temperature * (2.0 / (3.0 * simulation.atoms as f64 - 3.0)).sqrt();
    let eos = johnson(density, temperature);
    let [u_integral, p_integral] = integrals(&radial, &simulation, t);
    let consistent = (u_integral / u - 1.0).abs() < 0.003 && (p_integral - p).abs() < 0.02;
    let tempered = (t / temperature - 1.0).abs() < 0.003 && (t_deviation / canonical - 1.0).abs() < 0.1;
    let passed = (u - energy).abs() < 0.02 && (p - pressure).abs() < 0.06 && consistent && tempered;
    println!("500 atoms at density {density}, temperature {temperature}, {steps} steps:");
    println!(
        "  energy    {u:+.4} ({u_error:.4}), {source} {energy:+.4}, Johnson {:+.4}, by the distances {u_integral:+.4}",
        eos.energy
    );
    println!(
        "  pressure  {p:+.4} ({p_error:.4}), {source} {pressure:+.4}, Johnson {:+.4}, by the distances {p_integral:+.4}",
        eos.pressure
    );
    println!("  temperature {t:.4}, deviation {t_deviation:.4}, canonical {canonical:.4}; passed: {passed}");
    Ok(json!({
        "source": source, "density": density, "temperature": temperature, "energy": u, "energy_error": u_error,
        "energy_published": energy, "energy_johnson": eos.energy, "energy_by_distances": u_integral,
        "pressure": p, "pressure_error": p_error, "pressure_published": pressure, "pressure_johnson": eos.pressure,
        "pressure_by_distances": p_integral, "temperature_mean": t, "temperature_deviation": t_deviation,
        "temperature_deviation_canonical": canonical, "passed": passed,
    }))
}

/// Energy and pressure of the uncut potential as integrals over the radial distribution function.
fn integrals(radial: &[[f64; 2]], simulation: &Simulation, temperature: f64) -> [f64; 2] {
    let density = simulation.density;
    let potential = forebay_models::md::Potential::new(simulation.cutoff);
    let width = radial[0][0] * 2.0;
    let mut energy = potential.energy_tail(density);
    let mut pressure = density * temperature + potential.pressure_tail(density);
    for [r, value] in radial {
        let s = r.powi(-6);
        let pairs = 2.0 * PI * density * r * r * width * value;
        energy += pairs * 4.0 * (s * s - s);
        pressure += pairs * density / 3.0 * 24.0 * (2.0 * s * s - s);
    }
    [energy, pressure]
}

fn speed(atoms: u64, steps: u64) -> Result<f64> {
    let simulation = Simulation { atoms, ..Simulation::default() };
    let mut system = System::start(&simulation, &Device::Cpu)?;
    for _ in 0..steps / 4 {
        system.advance()?;
    }
    let start = Instant::now();
    for _ in 0..steps {
        system.advance()?;
    }
    let a_second = steps as f64 / start.elapsed().as_secs_f64();
    println!("{atoms} atoms: {a_second:.0} steps a second");
    Ok(a_second)
}
