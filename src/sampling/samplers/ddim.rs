//! DDIM (Song et al. 2021, equation 12) without noise: eta is 0.

use candle_core::{Result, Tensor};

use super::Sampler;
use crate::model::Scheduler;
use crate::model::scheduler::DdimStep;

/// DDIM's steps through a schedule.
pub struct Ddim {
    steps: Vec<DdimStep>,
    timesteps: Vec<usize>,
}

impl Ddim {
    /// `steps` of them, spaced as the schedule says.
    ///
    /// # Errors
    /// If there are none or more than there are timesteps.
    pub fn new(scheduler: &Scheduler, steps: usize) -> Result<Self> {
        let steps = scheduler.ddim(steps)?;
        let timesteps = steps.iter().map(|step| step.timestep).collect();
        Ok(Self { steps, timesteps })
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor) -> Result<Tensor> {
        self.steps[i].apply(latents, predicted)
    }
}
