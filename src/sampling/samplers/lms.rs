//! Linear multistep of order 4 (k-diffusion's LMS, as ELITE draws with): the last predictions of the noise, through which a
//! polynomial is laid, are integrated from one level to the next. Its timesteps lie evenly from the last to the first, between
//! whole ones.

use candle_core::{Result, Tensor, bail};

use super::{Past, Sampler};
use crate::model::Scheduler;
use crate::model::scheduler::Level;

/// Predictions that are looked back at.
const ORDER: usize = 4;

/// Nodes and weights of the Gauss-Legendre quadrature, which is exact for the cubics that are integrated here.
const NODES: [(f64, f64); 4] = [
    (-0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
    (-0.339_981_043_584_856_3, 0.652_145_154_862_546_2),
    (0.339_981_043_584_856_3, 0.652_145_154_862_546_2),
    (0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
];

/// LMS steps through a schedule.
pub struct Lms {
    scheduler: Scheduler,
    timesteps: Vec<f64>,
    /// The noise for each of the signal before each step, and at last none.
    sigmas: Vec<f64>,
}

impl Lms {
    /// `steps` of them.
    ///
    /// # Errors
    /// If there are none or more than there are timesteps.
    pub fn new(scheduler: &Scheduler, steps: usize) -> Result<Self> {
        let last = scheduler.timesteps() - 1;
        if steps == 0 || steps > last + 1 {
            bail!("{steps} sampling steps: choose 1 to {}", last + 1);
        }
        let timesteps: Vec<f64> =
            (0..steps).rev().map(|i| last as f64 * i as f64 / (steps.max(2) - 1) as f64).collect();
        let sigma = |timestep: usize| {
            let alpha = scheduler.alpha(timestep).max(f64::from(f32::EPSILON).powi(2));
            ((1. - alpha) / alpha).sqrt()
        };
        let between = |&at: &f64| {
            let low = (at as usize).min(last);
            let (here, next) = (sigma(low), sigma((low + 1).min(last)));
            here + (next - here) * (at - low as f64)
        };
        let sigmas = timesteps.iter().map(between).chain([0.]).collect();
        Ok(Self { scheduler: scheduler.clone(), timesteps, sigmas })
    }

    /// The levels, the last of which is 0.
    pub fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// The weights of the predictions of step `i` and those before it, of `taken` steps with this one.
    pub fn coefficients(&self, i: usize, taken: usize) -> Vec<f64> {
        let known: Vec<f64> = (0..ORDER.min(taken)).map(|back| self.sigmas[i - back]).collect();
        let (from, to) = (self.sigmas[i], self.sigmas[i + 1]);
        let integral = |mine: usize| {
            let basis = |at: f64| -> f64 {
                let others = known.iter().enumerate().filter(|(j, _)| *j != mine);
                others.map(|(_, other)| (at - other) / (known[mine] - other)).product()
            };
            NODES.iter().map(|(node, weight)| weight * basis((node + 1.) / 2. * (to - from) + from)).sum::<f64>()
        };
        (0..known.len()).map(|mine| integral(mine) * (to - from) / 2.).collect()
    }

    /// What latents whose noise grows are multiplied with to keep their variance.
    fn scale(&self, i: usize) -> f64 {
        1. / (self.sigmas[i].powi(2) + 1.).sqrt()
    }
}

impl Sampler for Lms {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn first(&self) -> f64 {
        self.level(0).noise
    }

    fn level(&self, i: usize) -> Level {
        Level { signal: self.scale(i), noise: self.sigmas[i] * self.scale(i) }
    }

    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor, past: &mut Past) -> Result<Tensor> {
        let level = self.level(i);
        let (_, noise) = self.scheduler.parted(latents, predicted, level)?;
        let mut grown = (latents / level.signal)?;
        // drawing may start from a picture, and has then taken fewer steps
        let noises = past.noises(noise, ORDER);
        for (noise, coefficient) in noises.iter().zip(self.coefficients(i, noises.len())) {
            grown = (grown + (noise * coefficient)?)?;
        }
        grown * self.scale(i + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_a_constant_reach_the_next_level() -> anyhow::Result<()> {
        let sampler = Lms::new(&Scheduler::from_json("{}")?, 100)?;
        assert_eq!((sampler.timesteps[0], sampler.timesteps[99], sampler.timesteps.len()), (999., 0., 100));
        assert!((sampler.sigmas[0] - 14.6146).abs() < 1e-3, "{}", sampler.sigmas[0]);
        for i in 0..100 {
            let way = sampler.sigmas[i + 1] - sampler.sigmas[i];
            assert!((sampler.coefficients(i, i + 1).iter().sum::<f64>() / way - 1.).abs() < 1e-9, "{i}");
        }
        Ok(())
    }
}
