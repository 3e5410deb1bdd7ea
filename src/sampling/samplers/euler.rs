//! Euler's method for the ordinary differential equation of Karras et al. 2022 (algorithm 1 without churn).

use candle_core::{Result, Tensor};

use super::{Course, Past, Sampler};
use crate::model::scheduler::Level;

/// Euler's steps.
pub(super) struct Euler {
    course: Course,
}

impl Euler {
    /// Along a course.
    pub(super) fn new(course: Course) -> Self {
        Self { course }
    }
}

impl Sampler for Euler {
    fn timesteps(&self) -> &[f64] {
        &self.course.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.course.levels[i]
    }

    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor, _: &mut Past) -> Result<Tensor> {
        // along the line through clean latents and noise, whose direction is the equation's
        let (clean, noise) = self.course.parted(i, latents, predicted)?;
        self.course.levels[i + 1].mixed(&clean, &noise)
    }
}
