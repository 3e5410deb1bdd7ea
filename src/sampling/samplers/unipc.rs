//! UniPC (Zhao et al. 2023) of second order with B(h) = e^h - 1 on clean latents: each prediction first corrects the
//! latents that it was made of, then leads to the next ones as in DPM-Solver++ 2M, with which its predictor agrees.

use candle_core::{Result, Tensor};

use super::dpmpp_2m::{advanced, towards};
use super::{Course, Past, Sampler};
use crate::model::scheduler::Level;

/// UniPC's steps.
pub(super) struct UniPc {
    course: Course,
}

impl UniPc {
    /// Along a course.
    pub(super) fn new(course: Course) -> Self {
        Self { course }
    }

    /// The latents of step `i`, given the `clean` ones that were predicted in them as they came from the step before it.
    fn corrected(&self, i: usize, latents: &Tensor, clean: &Tensor, past: &Past) -> Result<Tensor> {
        let Some(last) = &past.last else { return Ok(latents.clone()) };
        let change = (clean - &last.clean)?;
        let (course, h) = (&self.course, self.course.gain(i - 1, i));
        let target = match &past.before {
            None => (&last.clean + (change * 0.5)?)?,
            Some(before) => {
                // two equations for the weights of both changes: see the paper's theorem 3.1, and its h for -h
                let step = (-h).exp_m1();
                let first = (step / -h - 1.) / step;
                let second = 2. * ((step / -h - 1.) / -h - 0.5) / step;
                let earlier = -course.gain(i - 2, i - 1) / h;
                let weight = (first - second) / (1. - earlier);
                let old = ((&before.clean - &last.clean)? * (weight / earlier))?;
                ((&last.clean + old)? + (change * (first - weight))?)?
            }
        };
        towards(course, [i - 1, i], &last.latents, &target)
    }
}

impl Sampler for UniPc {
    fn timesteps(&self) -> &[f64] {
        &self.course.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.course.levels[i]
    }

    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor, past: &mut Past) -> Result<Tensor> {
        let (clean, _) = self.course.parted(i, latents, predicted)?;
        let corrected = self.corrected(i, latents, &clean, past)?;
        let next = advanced(&self.course, i, &corrected, &clean, past)?;
        past.remember(corrected, clean);
        Ok(next)
    }
}
