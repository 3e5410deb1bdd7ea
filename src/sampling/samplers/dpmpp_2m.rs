//! DPM-Solver++ 2M (Lu et al. 2022, algorithm 2), in its midpoint form; the last step is of first order.

use candle_core::{Result, Tensor};

use super::{Course, Past, Sampler};
use crate::model::scheduler::Level;

/// DPM-Solver++'s multistep solver of second order.
pub(super) struct Dpmpp2m {
    course: Course,
}

impl Dpmpp2m {
    /// Along a course.
    pub(super) fn new(course: Course) -> Self {
        Self { course }
    }
}

impl Sampler for Dpmpp2m {
    fn timesteps(&self) -> &[f64] {
        &self.course.timesteps
    }

    fn level(&self, i: usize) -> Level {
        self.course.levels[i]
    }

    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor, past: &mut Past) -> Result<Tensor> {
        let (clean, _) = self.course.parted(i, latents, predicted)?;
        let next = advanced(&self.course, i, latents, &clean, past)?;
        past.remember(latents.clone(), clean);
        Ok(next)
    }
}

/// `latents` and the `clean` ones predicted in them after step `i`: exact if the clean ones change in a line from the last
/// step's on, along the logarithm of signal over noise.
pub(super) fn advanced(course: &Course, i: usize, latents: &Tensor, clean: &Tensor, past: &Past) -> Result<Tensor> {
    let target = match &past.last {
        Some(last) if !course.is_last(i) => {
            let ratio = course.gain(i, i + 1) / course.gain(i - 1, i);
            (clean + ((clean - &last.clean)? * (0.5 * ratio))?)?
        }
        _ => clean.clone(),
    };
    towards(course, [i, i + 1], latents, &target)
}

/// `latents` of the level `from` at the level `to`, had the clean ones been `clean` all the way.
pub(super) fn towards(course: &Course, [from, to]: [usize; 2], latents: &Tensor, clean: &Tensor) -> Result<Tensor> {
    let (before, after) = (course.levels[from], course.levels[to]);
    let kept = after.noise / before.noise;
    (latents * kept)? + (clean * (after.signal - before.signal * kept))?
}
