//! The noise schedule of Stable Diffusion and DDIM's deterministic steps.

use candle_core::{Result, Tensor};
use serde::Deserialize;

/// What `scheduler_config.json` says of the schedule, whatever sampler it names.
#[derive(Clone, Debug, Deserialize)]
struct SchedulerConfig {
    #[serde(default = "default_train_timesteps")]
    num_train_timesteps: usize,
    #[serde(default = "default_beta_start")]
    beta_start: f64,
    #[serde(default = "default_beta_end")]
    beta_end: f64,
    #[serde(default = "default_beta_schedule")]
    beta_schedule: String,
    #[serde(default = "default_steps_offset")]
    steps_offset: usize,
    #[serde(default)]
    set_alpha_to_one: bool,
    #[serde(default = "default_prediction_type")]
    prediction_type: String,
}

fn default_train_timesteps() -> usize {
    1000
}
fn default_beta_start() -> f64 {
    0.00085
}
fn default_beta_end() -> f64 {
    0.012
}
fn default_beta_schedule() -> String {
    "scaled_linear".into()
}
fn default_steps_offset() -> usize {
    1
}
fn default_prediction_type() -> String {
    "epsilon".into()
}

/// The schedule: how much of a latent is left at each timestep.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    alphas_cumprod: Vec<f64>,
}

/// One step of DDIM, from `timestep` to the one before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdimStep {
    /// The timestep that the denoiser is asked at.
    pub timestep: usize,
    /// Cumulative alpha here and at the previous timestep.
    alpha: f64,
    alpha_previous: f64,
}

impl Scheduler {
    /// From the text of `scheduler_config.json`.
    ///
    /// # Errors
    /// If it is no JSON, or describes a schedule that Stable Diffusion 1.x does not have.
    pub fn from_json(json: &str) -> anyhow::Result<Self> {
        let config: SchedulerConfig = serde_json::from_str(json)?;
        let (count, start, end) = (config.num_train_timesteps, config.beta_start, config.beta_end);
        if config.prediction_type != "epsilon" {
            anyhow::bail!(
                "it predicts {:?}, not the noise (epsilon) as Stable Diffusion 1.x does",
                config.prediction_type
            );
        }
        let line = |a: f64, b: f64, i: usize| a + (b - a) * i as f64 / (count.max(2) - 1) as f64;
        let beta = |i| match config.beta_schedule.as_str() {
            "scaled_linear" => Ok(line(start.sqrt(), end.sqrt(), i).powi(2)),
            "linear" => Ok(line(start, end, i)),
            other => anyhow::bail!("beta schedule {other:?} is not known (scaled_linear, linear)"),
        };
        let mut alphas_cumprod = Vec::with_capacity(count);
        let mut product = 1.;
        for i in 0..count {
            product *= 1. - beta(i)?;
            alphas_cumprod.push(product);
        }
        Ok(Self { config, alphas_cumprod })
    }

    /// Number of timesteps, 1000 in Stable Diffusion.
    pub fn timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// `latents` [B, ...] with `noise` to the level of each sample's timestep.
    pub fn add_noise(&self, latents: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        let column = |f: &dyn Fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = timesteps.iter().map(|&t| f(self.alphas_cumprod[t]) as f32).collect();
            Tensor::from_vec(values, (timesteps.len(), 1, 1, 1), latents.device())
        };
        latents.broadcast_mul(&column(&f64::sqrt)?)? + noise.broadcast_mul(&column(&|a| (1. - a).sqrt())?)?
    }

    /// The steps of DDIM (eta 0), with diffusers' "leading" spacing.
    ///
    /// # Errors
    /// If `steps` is 0 or more than there are timesteps.
    pub fn ddim(&self, steps: usize) -> Result<Vec<DdimStep>> {
        let count = self.timesteps();
        if steps == 0 || steps > count {
            candle_core::bail!("{steps} sampling steps: choose 1 to {count}");
        }
        let ratio = count / steps;
        let last = if self.config.set_alpha_to_one { 1. } else { self.alphas_cumprod[0] };
        let step = |i: usize| {
            let timestep = (i * ratio + self.config.steps_offset).min(count - 1);
            let alpha_previous = timestep.checked_sub(ratio).map_or(last, |t| self.alphas_cumprod[t]);
            DdimStep { timestep, alpha: self.alphas_cumprod[timestep], alpha_previous }
        };
        Ok((0..steps).rev().map(step).collect())
    }
}

impl DdimStep {
    /// The latents one step earlier, given the noise predicted in `latents`.
    pub fn apply(&self, latents: &Tensor, predicted: &Tensor) -> Result<Tensor> {
        let clean = ((latents - (predicted * (1. - self.alpha).sqrt())?)? / self.alpha.sqrt())?;
        (clean * self.alpha_previous.sqrt())? + (predicted * (1. - self.alpha_previous).sqrt())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stable_diffusion_schedule() -> anyhow::Result<()> {
        let scheduler = Scheduler::from_json("{}")?;
        assert!((scheduler.alphas_cumprod[999] - 0.004_660).abs() < 1e-6);
        let steps = scheduler.ddim(50)?;
        assert_eq!((steps[0].timestep, steps[49].timestep), (981, 1));
        assert_eq!(steps[49].alpha_previous, scheduler.alphas_cumprod[0]);
        assert_eq!(steps[48].alpha_previous, steps[49].alpha);
        assert!(scheduler.ddim(0).is_err() && scheduler.ddim(1001).is_err() && scheduler.ddim(1000).is_ok());
        assert!(Scheduler::from_json(r#"{"prediction_type": "v_prediction"}"#).is_err());
        Ok(())
    }
}
