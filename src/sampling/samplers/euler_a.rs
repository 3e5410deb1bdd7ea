//! Euler's ancestral method, as k-diffusion has it: a step goes further than Euler's, and fresh noise makes up for it.

use candle_core::{Result, Tensor};

use super::course::sigma;
use super::{Course, Past, Sampler};
use crate::model::scheduler::Level;

/// Euler's ancestral steps.
pub(super) struct EulerA {
    course: Course,
}

impl EulerA {
    /// Along a course.
    pub(super) fn new(course: Course) -> Self {
        Self { course }
    }

    /// Step `i`'s ratio of fresh noise to all noise at its end.
    fn fresh(&self, i: usize) -> f64 {
        let [before, after] = [i, i + 1].map(|i| sigma(self.course.levels[i]));
        (1. - (after / before).powi(2)).max(0.).sqrt()
    }
}

impl Sampler for EulerA {
    fn timesteps(&self) -> &[f64] {
        &self.course.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.course.levels[i]
    }

    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor, _: &mut Past) -> Result<Tensor> {
        let (clean, noise) = self.course.parted(i, latents, predicted)?;
        let Level { signal, noise: rest } = self.course.levels[i + 1];
        let fresh = self.fresh(i);
        Level { signal, noise: rest * (1. - fresh * fresh).sqrt() }.mixed(&clean, &noise)
    }

    fn noise(&self, i: usize) -> f64 {
        self.course.levels[i + 1].noise * self.fresh(i)
    }
}
