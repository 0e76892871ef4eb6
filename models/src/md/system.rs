//! Atoms that move: positions, velocities, forces, and one step of time.
//!
//! Owns [`System`] and its integrator, velocity Verlet (Swope, Andersen, Berens and Wilson, J. Chem. Phys. 76, 637, 1982).
//! It promises that a system made of saved parts goes on bit for bit as the saved one does. What is counted and written
//! meanwhile is `run`'s.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use forebay::{Error, Result};

use super::force::{Force, total};
use super::neighbours::{Neighbours, on_device, on_host, wrapped};
use super::{Potential, Simulation, lattice, thermostat};

/// Atoms in a box, at one moment.
pub struct System {
    simulation: Simulation,
    device: Device,
    dtype: DType,
    force: Force,
    potential: Potential,
    length: f64,
    positions: Tensor,
    velocities: Tensor,
    forces: Tensor,
    near: Neighbours,
    step: u64,
    rebuilds: u64,
}

/// What was observed at one moment; energies are per atom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The step, from the very start.
    pub step: u64,
    /// The potential energy, by the [`Potential`] that moves the atoms.
    pub potential: f64,
    /// The kinetic energy.
    pub kinetic: f64,
    /// `2 K / (3 N - 3)`: the total momentum is none.
    pub temperature: f64,
    /// `density * temperature + virial / (3 volume)`, by the potential that moves the atoms.
    pub pressure: f64,
    /// The potential energy of the same positions by the uncut Lennard-Jones potential: its pairs within the cutoff, and
    /// [`Potential::energy_tail`]. This is what to hold against published values.
    pub lj_potential: f64,
    /// The pressure of the same positions by the uncut potential, with [`Potential::pressure_tail`].
    pub lj_pressure: f64,
}

impl Sample {
    /// Potential and kinetic energy together, per atom: what does not change without a thermostat.
    pub fn total(&self) -> f64 {
        self.potential + self.kinetic
    }
}

impl System {
    /// On the lattice, with the velocities of the temperature.
    ///
    /// # Errors
    /// `Invalid` if the description is refused by [`Simulation::check`], before anything is allocated.
    pub fn start(simulation: &Simulation, device: &Device) -> Result<Self> {
        simulation.check()?;
        let positions = lattice::positions(simulation);
        let velocities = lattice::velocities(simulation);
        let dtype = simulation.precision.dtype();
        // Rounded to what the device holds, since the list is made of exactly those.
        let positions = wrapped(&on_device(&positions, dtype, device)?, simulation.length())?;
        let reference = Arc::new(positions.clone());
        Self::of_parts(simulation, device, &positions, &velocities, reference, 0)
    }

    /// From positions, velocities and the reference of the list (each all x, all y, all z), at a step.
    pub(super) fn of_parts(
        simulation: &Simulation,
        device: &Device,
        positions: &[f64],
        velocities: &[f64],
        reference: Arc<Vec<f64>>,
        step: u64,
    ) -> Result<Self> {
        simulation.check()?;
        let wanted = 3 * simulation.atoms as usize;
        for (what, len) in
            [("positions", positions.len()), ("velocities", velocities.len()), ("reference", reference.len())]
        {
            if len != wanted {
                return Err(Error::failed(format!("{len} {what} do not belong to {} atoms", simulation.atoms)));
            }
        }
        let dtype = simulation.precision.dtype();
        let potential = Potential::new(simulation.cutoff);
        let length = simulation.length();
        let force = Force::new(potential, dtype, device)?;
        let near = Neighbours::new(reference, length, simulation.cutoff, simulation.skin, dtype, device)?;
        let positions = on_device(positions, dtype, device)?;
        Ok(Self {
            forces: force.of(&positions, &near)?,
            velocities: on_device(velocities, dtype, device)?,
            positions,
            near,
            force,
            potential,
            length,
            dtype,
            device: device.clone(),
            simulation: simulation.clone(),
            step,
            rebuilds: 0,
        })
    }

    /// One step of time; the thermostat acts where there is one, and before [`Simulation::equilibrate`] always.
    ///
    /// # Errors
    /// `Invalid` when atoms have become so fast that they have no place: the timestep is too long.
    pub fn advance(&mut self) -> Result<()> {
        let (step, half) = (self.simulation.timestep, self.simulation.timestep / 2.0);
        let velocities = (&self.velocities + (&self.forces * half)?)?;
        self.positions = (&self.positions + (&velocities * step)?)?;
        if self.near.stale(&self.positions)? {
            self.renew()?;
        }
        self.forces = self.force.of(&self.positions, &self.near)?;
        self.velocities = (velocities + (&self.forces * half)?)?;
        self.step += 1;
        self.thermostat()
    }

    /// Puts the atoms back into the box and makes the list of neighbours anew.
    fn renew(&mut self) -> Result<()> {
        let Simulation { cutoff, skin, .. } = self.simulation;
        let positions = Arc::new(wrapped(&self.positions, self.length)?);
        self.positions = on_device(&positions, self.dtype, &self.device)?;
        self.near = Neighbours::new(positions, self.length, cutoff, skin, self.dtype, &self.device)?;
        self.rebuilds += 1;
        Ok(())
    }

    fn thermostat(&mut self) -> Result<()> {
        let Simulation { timestep, temperature, seed, equilibrate, thermostat, .. } = self.simulation;
        let time = match thermostat {
            Some(thermostat) => thermostat.time,
            // Fast enough to take away the heat of the melting crystal.
            None if self.step <= equilibrate => 25.0 * timestep,
            None => return Ok(()),
        };
        let kinetic = 0.5 * total(&self.velocities.sqr()?)?;
        let factor = thermostat::factor(kinetic, self.freedom(), temperature, timestep / time, seed, self.step);
        self.velocities = (&self.velocities * factor)?;
        Ok(())
    }

    /// Degrees of freedom: the total momentum is fixed.
    fn freedom(&self) -> f64 {
        (3 * self.simulation.atoms - 3) as f64
    }

    /// Observes the system as it is. Costs about as much as two steps.
    ///
    /// # Errors
    /// `Invalid` if an energy is not a number: the timestep is too long.
    pub fn sample(&self) -> Result<Sample> {
        let totals = self.force.totals(&self.positions, &self.near)?;
        let kinetic = 0.5 * total(&self.velocities.sqr()?)?;
        let Simulation { density, .. } = self.simulation;
        let atoms = self.simulation.atoms as f64;
        let temperature = 2.0 * kinetic / self.freedom();
        let pressure = |virial: f64| density * temperature + virial * density / (3.0 * atoms);
        let sample = Sample {
            step: self.step,
            potential: totals.energy / atoms,
            kinetic: kinetic / atoms,
            temperature,
            pressure: pressure(totals.virial),
            lj_potential: totals.plain_energy / atoms + self.potential.energy_tail(density),
            lj_pressure: pressure(totals.plain_virial) + self.potential.pressure_tail(density),
        };
        if !(sample.total() + sample.pressure).is_finite() {
            return Err(Error::invalid(format!(
                "the simulation blew up before step {}: its energy is not a number; a shorter timestep may help",
                self.step
            )));
        }
        Ok(sample)
    }

    /// All x, then all y, then all z, each in the box: from 0 to below [`System::length`].
    pub fn positions(&self) -> Result<Vec<f64>> {
        wrapped(&self.positions, self.length)
    }

    /// Velocities in the same order.
    pub fn velocities(&self) -> Result<Vec<f64>> {
        on_host(&self.velocities)
    }

    /// Forces in the same order.
    pub fn forces(&self) -> Result<Vec<f64>> {
        on_host(&self.forces)
    }

    /// The side of the box.
    pub fn length(&self) -> f64 {
        self.length
    }

    /// How many steps were made.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// How often the list of neighbours was made anew since this system is here.
    pub fn rebuilds(&self) -> u64 {
        self.rebuilds
    }

    /// The potential that moves the atoms.
    pub fn potential(&self) -> Potential {
        self.potential
    }

    /// Positions as they are, which may be outside the box by what atoms moved since the list was made; and what the
    /// list was made of.
    pub(super) fn places(&self) -> Result<(Vec<f64>, Arc<Vec<f64>>)> {
        Ok((on_host(&self.positions)?, self.near.reference().clone()))
    }
}
