//! What solvers go through: noise levels from much to none, and the timesteps that the denoiser knows them by.

use candle_core::{Result, Tensor};

use crate::model::Scheduler;
use crate::model::scheduler::Level;

/// A way through a schedule.
pub(super) struct Course {
    scheduler: Scheduler,
    /// The timestep of each step.
    pub(super) timesteps: Vec<f64>,
    /// The level before each step, and at last none.
    pub(super) levels: Vec<Level>,
}

/// Noise alone has no finite ratio to its signal: where a schedule ends so, that much is left of the picture.
const LEAST_ALPHA: f64 = 1. / (1 << 24) as f64;

/// The exponent of Karras et al. 2022, equation 5.
const RHO: f64 = 7.;

impl Course {
    /// Spaced as the schedule says; `beyond` as in [`Scheduler::visited`].
    ///
    /// # Errors
    /// If there are no steps, or more than the schedule has timesteps for.
    pub(super) fn spaced(scheduler: &Scheduler, steps: usize, beyond: usize) -> Result<Self> {
        let timesteps = scheduler.visited(steps, beyond)?;
        let alphas = timesteps.iter().map(|&timestep| scheduler.alpha(timestep)).collect();
        Ok(Self::of(scheduler, timesteps, alphas))
    }

    /// The spacing of Karras et al. 2022, equation 5: close where there is little noise.
    ///
    /// # Errors
    /// See [`spaced`](Self::spaced).
    pub(super) fn karras(scheduler: &Scheduler, steps: usize) -> Result<Self> {
        scheduler.visited(steps, 0)?;
        let count = scheduler.timesteps();
        let sigmas: Vec<f64> =
            (0..count).map(|t| sigma(Level::of_alpha(scheduler.alpha(t).max(LEAST_ALPHA)))).collect();
        let [most, least] = [sigmas[count - 1], sigmas[0]].map(|sigma| sigma.powf(1. / RHO));
        let ramp = (0..steps).map(|i| i as f64 / (steps.max(2) - 1) as f64);
        let chosen: Vec<f64> = ramp.map(|x| (most + x * (least - most)).powf(RHO)).collect();
        let timesteps = chosen.iter().map(|&sigma| nearest(&sigmas, sigma)).collect();
        Ok(Self::of(scheduler, timesteps, chosen.iter().map(|sigma| 1. / (sigma * sigma + 1.)).collect()))
    }

    fn of(scheduler: &Scheduler, timesteps: Vec<usize>, alphas: Vec<f64>) -> Self {
        let levels = alphas.into_iter().map(|alpha| Level::of_alpha(alpha.max(LEAST_ALPHA)));
        let timesteps = timesteps.into_iter().map(|timestep| timestep as f64).collect();
        Self { scheduler: scheduler.clone(), timesteps, levels: levels.chain([Level::CLEAN]).collect() }
    }

    /// The clean latents and the noise that step `i` starts from, by what was predicted there.
    pub(super) fn parted(&self, i: usize, latents: &Tensor, predicted: &Tensor) -> Result<(Tensor, Tensor)> {
        self.scheduler.parted(latents, predicted, self.levels[i])
    }

    /// Whether step `i` is the last one.
    pub(super) fn is_last(&self, i: usize) -> bool {
        i + 1 == self.timesteps.len()
    }

    /// By how much the logarithm of signal over noise grows from level `i` to `j`.
    pub(super) fn gain(&self, i: usize, j: usize) -> f64 {
        (sigma(self.levels[i]) / sigma(self.levels[j])).ln()
    }
}

/// The noise for each of the signal.
pub(super) fn sigma(level: Level) -> f64 {
    level.noise / level.signal
}

/// The timestep whose noise is the next to `sigma`; logarithms are compared.
fn nearest(sigmas: &[f64], sigma: f64) -> usize {
    let above = sigmas.partition_point(|&known| known < sigma).clamp(1, sigmas.len().max(2) - 1);
    let [low, high] = [above - 1, above.min(sigmas.len() - 1)].map(|t| sigmas[t].ln());
    let share = ((sigma.ln() - low) / (high - low)).clamp(0., 1.);
    ((above - 1) as f64 + share).round_ties_even() as usize
}
