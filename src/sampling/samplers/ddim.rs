//! DDIM (Song et al. 2021, equation 12) without noise, eta 0, and with as much as the diffusion's own variance, eta 1.

use candle_core::{Result, Tensor};

use super::{Past, Sampler};
use crate::model::Scheduler;
use crate::model::scheduler::Level;

/// DDIM's steps through a schedule.
pub struct Ddim {
    scheduler: Scheduler,
    timesteps: Vec<f64>,
    /// The level before and after each step.
    levels: Vec<[Level; 2]>,
    /// Whether eta is 1.
    ancestral: bool,
}

impl Ddim {
    /// `steps` of them, spaced as the schedule says.
    ///
    /// # Errors
    /// If there are none or more than there are timesteps.
    pub fn new(scheduler: &Scheduler, steps: usize) -> Result<Self> {
        let timesteps = scheduler.visited(steps, 0)?;
        let ratio = scheduler.timesteps() / steps;
        let levels = |&timestep: &usize| {
            let after = timestep.checked_sub(ratio).map_or(scheduler.last_alpha(), |t| scheduler.alpha(t));
            [scheduler.alpha(timestep), after].map(Level::of_alpha)
        };
        let levels = timesteps.iter().map(levels).collect();
        let timesteps = timesteps.into_iter().map(|timestep| timestep as f64).collect();
        Ok(Self { scheduler: scheduler.clone(), timesteps, levels, ancestral: false })
    }

    /// The same with eta 1.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn ancestral(scheduler: &Scheduler, steps: usize) -> Result<Self> {
        Ok(Self { ancestral: true, ..Self::new(scheduler, steps)? })
    }
}

impl Sampler for Ddim {
    fn timesteps(&self) -> &[f64] {
        &self.timesteps
    }

    fn level(&self, i: usize) -> Level {
        match self.levels.get(i) {
            Some([before, _]) => *before,
            None => self.levels[self.levels.len() - 1][1],
        }
    }

    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor, _: &mut Past) -> Result<Tensor> {
        let [before, after] = self.levels[i];
        let (clean, noise) = self.scheduler.parted(latents, predicted, before)?;
        let clean = match self.scheduler.bound() {
            Some(bound) => clean.clamp(-bound, bound)?,
            None => clean,
        };
        // the fresh noise takes its share of what the level has
        let rest = (after.noise.powi(2) - self.noise(i).powi(2)).max(0.).sqrt();
        let after = if self.ancestral { Level { noise: rest, ..after } } else { after };
        after.mixed(&clean, &noise)
    }

    fn noise(&self, i: usize) -> f64 {
        let [before, after] = self.levels[i];
        let gone = 1. - (before.signal / after.signal).powi(2);
        if self.ancestral { after.noise / before.noise * gone.max(0.).sqrt() } else { 0. }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_step_begins_where_the_one_before_it_ended() -> anyhow::Result<()> {
        let scheduler = Scheduler::from_json("{}")?;
        let sampler = Ddim::new(&scheduler, 50)?;
        assert!(sampler.levels.windows(2).all(|pair| pair[0][1] == pair[1][0]));
        assert_eq!(sampler.levels[49][1], Level::of_alpha(scheduler.alpha(0)));
        Ok(())
    }

    /// Latents, noise (or prediction), and for each configuration what diffusers' `DDIMScheduler` (0.42) makes of them
    /// in the step of that number: `step`, `add_noise`.
    #[test]
    fn equals_diffusers() -> anyhow::Result<()> {
        let tensor = |values: [f32; 4]| Tensor::new(&values, &Device::Cpu)?.reshape((1, 4, 1, 1));
        let (latents, noise) = (tensor([0.5, -1.25, 2., 0.125])?, tensor([-0.75, 0.5, 1.5, -2.])?);
        let close = |ours: &Tensor, recorded: [f32; 4]| -> Result<()> {
            let ours = ours.flatten_all()?.to_vec1::<f32>()?;
            assert!(ours.iter().zip(recorded).all(|(a, b)| (a - b).abs() < 2e-5), "{ours:?} {recorded:?}");
            Ok(())
        };
        for (json, steps, i, stepped, noised) in [
            (
                r#"{}"#,
                50,
                10,
                [0.610_585, -1.403_645, 2.040_39, 0.314_543],
                [-0.629_293, 0.228_439, 1.883_968, -1.930_004],
            ),
            (
                r#"{"beta_schedule": "linear"}"#,
                50,
                10,
                [0.625_355, -1.424_983, 2.048_46, 0.338_781],
                [-0.678_857, 0.333_744, 1.746_603, -1.966_921],
            ),
            (
                r#"{"beta_schedule": "squaredcos_cap_v2"}"#,
                50,
                10,
                [0.613_982, -1.406_367, 2.035_097, 0.322_996],
                [-0.540_508, 0.054_864, 2.080_75, -1.844_025],
            ),
            (
                r#"{"timestep_spacing": "trailing"}"#,
                30,
                0,
                [0.768_875, -1.626_09, 2.106_452, 0.582_531],
                [-0.714_118, 0.413_503, 1.633_031, -1.986_801],
            ),
            (
                r#"{"timestep_spacing": "linspace"}"#,
                30,
                5,
                [0.701_093, -1.530_024, 2.075_508, 0.468_843],
                [-0.654_055, 0.280_163, 1.818_244, -1.949_617],
            ),
            (
                r#"{"prediction_type": "v_prediction"}"#,
                50,
                10,
                [0.513_878, -1.259_093, 1.971_723, 0.162_219],
                [-0.629_293, 0.228_439, 1.883_968, -1.930_004],
            ),
            (
                r#"{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
                50,
                0,
                [0.506_925, -1.254_578, 1.986_021, 0.143_519],
                [-0.75, 0.5, 1.5, -2.],
            ),
            (
                r#"{"prediction_type": "v_prediction", "rescale_betas_zero_snr": true, "timestep_spacing": "trailing"}"#,
                50,
                20,
                [0.520_932, -1.263_591, 1.956_944, 0.181_299],
                [-0.520_979, 0.018_79, 2.117_146, -1.822_34],
            ),
            (
                r#"{"clip_sample": true, "clip_sample_range": 0.75}"#,
                50,
                10,
                [-0.560_508, 0.317_013, 1.630_946, -1.777_982],
                [-0.629_293, 0.228_439, 1.883_968, -1.930_004],
            ),
            (
                r#"{"set_alpha_to_one": true}"#,
                50,
                49,
                [0.531_412, -1.271_724, 1.939_734, 0.207_736],
                [0.468_614, -1.228_295, 2.060_214, 0.042_335],
            ),
        ] {
            let scheduler = Scheduler::from_json(json)?;
            let sampler = Ddim::new(&scheduler, steps)?;
            close(&sampler.step(i, &latents, &noise, &mut Past::default())?, stepped)?;
            close(&scheduler.add_noise(&latents, &noise, &[sampler.timesteps[i] as usize])?, noised)?;
        }
        Ok(())
    }
}
