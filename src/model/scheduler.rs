//! The noise schedule of Stable Diffusion.

use candle_core::{Result, Tensor};
use serde::Deserialize;

use super::config::{Config, within};

/// What `scheduler_config.json` says of the schedule, whatever sampler it names.
#[derive(Clone, Debug, Deserialize)]
struct SchedulerConfig {
    #[serde(default = "default_train_timesteps")]
    num_train_timesteps: usize,
    #[serde(default = "default_beta_start")]
    beta_start: f64,
    #[serde(default = "default_beta_end")]
    beta_end: f64,
    #[serde(default)]
    beta_schedule: BetaSchedule,
    #[serde(default)]
    trained_betas: Option<Vec<f64>>,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    #[serde(default)]
    timestep_spacing: Spacing,
    #[serde(default = "default_steps_offset")]
    steps_offset: usize,
    #[serde(default)]
    set_alpha_to_one: bool,
    #[serde(default)]
    prediction_type: Prediction,
    #[serde(default)]
    clip_sample: bool,
    #[serde(default = "default_clip_sample_range")]
    clip_sample_range: f64,
}

/// How the betas lie between the first and the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum BetaSchedule {
    /// Their roots in a line.
    #[default]
    ScaledLinear,
    /// In a line.
    Linear,
    /// Of cumulative alphas that fall like a squared cosine; the ends have no effect.
    #[serde(rename = "squaredcos_cap_v2")]
    Cosine,
}

/// Which timesteps sampling visits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Spacing {
    /// Multiples of a whole number, from the first on.
    #[default]
    Leading,
    /// From the last on.
    Trailing,
    /// From the first to the last.
    Linspace,
}

/// What the denoiser predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Prediction {
    /// The noise.
    #[default]
    Epsilon,
    /// The noise minus the latents, each with the other's share.
    VPrediction,
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
fn default_steps_offset() -> usize {
    1
}
fn default_clip_sample_range() -> f64 {
    1.
}

impl Config for SchedulerConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[("thresholding", "false")];

    fn check(&self) -> anyhow::Result<()> {
        within("num_train_timesteps", self.num_train_timesteps, 1..=100_000)?;
        within("steps_offset", self.steps_offset, 0..=self.num_train_timesteps - 1)?;
        within("clip_sample_range", self.clip_sample_range, 1e-6..=1e6)?;
        // at the other ends of these ranges nothing happens, or nothing of the picture is left
        within("beta_start", self.beta_start, f64::MIN_POSITIVE..=1. - f64::EPSILON)?;
        within("beta_end", self.beta_end, f64::MIN_POSITIVE..=1. - f64::EPSILON)?;
        if let Some(betas) = &self.trained_betas {
            let count = self.num_train_timesteps;
            within("the length of trained_betas", betas.len(), count..=count)?;
            betas.iter().try_for_each(|&b| within("trained_betas", b, f64::MIN_POSITIVE..=1. - f64::EPSILON))?;
        }
        anyhow::ensure!(
            !self.rescale_betas_zero_snr || self.prediction_type == Prediction::VPrediction,
            "rescale_betas_zero_snr = true: the last timestep is noise alone, of which no picture follows if the noise \
             is predicted; it needs prediction_type = \"v_prediction\""
        );
        Ok(())
    }
}

impl SchedulerConfig {
    fn beta(&self, i: usize) -> f64 {
        let count = self.num_train_timesteps;
        let line = |a: f64, b: f64| a + (b - a) * i as f64 / (count.max(2) - 1) as f64;
        if let Some(betas) = &self.trained_betas {
            return betas[i];
        }
        match self.beta_schedule {
            BetaSchedule::ScaledLinear => line(self.beta_start.sqrt(), self.beta_end.sqrt()).powi(2),
            BetaSchedule::Linear => line(self.beta_start, self.beta_end),
            BetaSchedule::Cosine => {
                let left = |i: usize| {
                    let share = i as f64 / count as f64;
                    ((share + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2)
                };
                (1. - left(i + 1) / left(i)).min(0.999)
            }
        }
    }

    fn alphas_cumprod(&self) -> Vec<f64> {
        let mut product = 1.;
        let alphas = (0..self.num_train_timesteps).map(|i| {
            product *= 1. - self.beta(i);
            product
        });
        let mut alphas: Vec<f64> = alphas.collect();
        if self.rescale_betas_zero_snr {
            // the roots keep their first value and end at 0
            let (first, last) = (alphas[0].sqrt(), alphas[alphas.len() - 1].sqrt());
            for alpha in &mut alphas {
                *alpha = ((alpha.sqrt() - last) * first / (first - last)).powi(2);
            }
        }
        alphas
    }
}

/// The schedule: how much of a latent is left at each timestep.
#[derive(Clone, Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    alphas_cumprod: Vec<f64>,
}

/// A noise level: latents are the clean ones by `signal` plus normal noise by `noise`, whose squares sum to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// The share of the clean latents.
    pub signal: f64,
    /// The share of the noise.
    pub noise: f64,
}

impl Level {
    /// No noise.
    pub const CLEAN: Self = Self { signal: 1., noise: 0. };

    /// That of a cumulative alpha.
    pub fn of_alpha(alpha: f64) -> Self {
        Self { signal: alpha.sqrt(), noise: (1. - alpha).sqrt() }
    }

    /// `clean` latents with `noise` at this level.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn mixed(self, clean: &Tensor, noise: &Tensor) -> Result<Tensor> {
        (clean * self.signal)? + (noise * self.noise)?
    }
}

impl Scheduler {
    /// From the text of `scheduler_config.json`.
    ///
    /// # Errors
    /// If it is no JSON, or describes a schedule that is not served or makes no sense.
    pub fn from_json(json: &str) -> anyhow::Result<Self> {
        let config = SchedulerConfig::from_json(json)?;
        let alphas_cumprod = config.alphas_cumprod();
        let visible = |&alpha: &f64| alpha >= f64::from(f32::MIN_POSITIVE);
        let end = alphas_cumprod.len() - config.rescale_betas_zero_snr as usize;
        if let Some(gone) = alphas_cumprod[..end].iter().position(|alpha| !visible(alpha)) {
            anyhow::bail!("its betas are so large that at timestep {gone} nothing of the picture is left");
        }
        Ok(Self { config, alphas_cumprod })
    }

    /// Number of timesteps, 1000 in Stable Diffusion.
    pub fn timesteps(&self) -> usize {
        self.alphas_cumprod.len()
    }

    /// `a` [B, ...] by the root of the cumulative alpha of each sample's timestep, plus `b` by the root of the rest.
    fn mixed(&self, a: &Tensor, b: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        let column = |f: &dyn Fn(f64) -> f64| -> Result<Tensor> {
            let values: Vec<f32> = timesteps.iter().map(|&t| f(self.alphas_cumprod[t]) as f32).collect();
            Tensor::from_vec(values, (timesteps.len(), 1, 1, 1), a.device())
        };
        a.broadcast_mul(&column(&f64::sqrt)?)? + b.broadcast_mul(&column(&|a| (1. - a).sqrt())?)?
    }

    /// `latents` [B, ...] with `noise` to the level of each sample's timestep.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn add_noise(&self, latents: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        self.mixed(latents, noise, timesteps)
    }

    /// What the denoiser should predict of `latents` [B, ...] to which `noise` was added.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn target(&self, latents: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        match self.config.prediction_type {
            Prediction::Epsilon => Ok(noise.clone()),
            Prediction::VPrediction => self.mixed(noise, &latents.neg()?, timesteps),
        }
    }

    /// The cumulative alpha of a timestep.
    pub fn alpha(&self, timestep: usize) -> f64 {
        self.alphas_cumprod[timestep]
    }

    /// The cumulative alpha that DDIM's last step leads to.
    pub fn last_alpha(&self) -> f64 {
        if self.config.set_alpha_to_one { 1. } else { self.alphas_cumprod[0] }
    }

    /// What DDIM's clean latents stay within of 0, if the configuration says so.
    pub fn bound(&self) -> Option<f64> {
        self.config.clip_sample.then_some(self.config.clip_sample_range)
    }

    /// The clean latents and the noise that `latents` at `level` are made of by what the denoiser predicted of them.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn parted(&self, latents: &Tensor, predicted: &Tensor, level: Level) -> Result<(Tensor, Tensor)> {
        let Level { signal, noise: rest } = level;
        Ok(match self.config.prediction_type {
            Prediction::Epsilon => (((latents - (predicted * rest)?)? / signal)?, predicted.clone()),
            Prediction::VPrediction => {
                (((latents * signal)? - (predicted * rest)?)?, ((predicted * signal)? + (latents * rest)?)?)
            }
        })
    }

    /// The timesteps that `steps` steps visit, the largest first, spaced as the configuration says and as in diffusers,
    /// no timestep twice. As if there were `beyond` steps more at the end, which are not taken.
    ///
    /// # Errors
    /// If `steps` is 0 or more than there are timesteps.
    pub fn visited(&self, steps: usize, beyond: usize) -> Result<Vec<usize>> {
        let (count, points) = (self.timesteps(), steps + beyond);
        if steps == 0 || points > count {
            candle_core::bail!("{steps} sampling steps: choose 1 to {}", count.saturating_sub(beyond));
        }
        let ratio = count / points;
        // with as many steps as timesteps there is no room for an offset
        let offset = self.config.steps_offset.min(count - 1 - (points - 1) * ratio);
        let timestep = |i: usize| match self.config.timestep_spacing {
            Spacing::Leading => i * ratio + offset,
            Spacing::Trailing => {
                let from_last = (points - 1 - i) as f64 * (count as f64 / steps as f64);
                (count as f64 - from_last).round_ties_even() as usize - 1
            }
            Spacing::Linspace => {
                ((count - 1) as f64 / (points.max(2) - 1) as f64 * i as f64).round_ties_even() as usize
            }
        };
        Ok((beyond..points).rev().map(timestep).collect())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn stable_diffusion_schedule() -> anyhow::Result<()> {
        let scheduler = Scheduler::from_json("{}")?;
        assert!((scheduler.alphas_cumprod[999] - 0.004_66).abs() < 1e-6);
        let visited = scheduler.visited(50, 0)?;
        assert_eq!((visited[0], visited[49]), (981, 1));
        for (steps, beyond, fits) in
            [(0, 0, false), (1001, 0, false), (1000, 0, true), (1000, 1, false), (999, 1, true)]
        {
            assert_eq!(scheduler.visited(steps, beyond).is_ok(), fits, "{steps} {beyond}");
        }
        // with a step beyond, as diffusers' multistep solvers space them
        assert_eq!(scheduler.visited(3, 1)?, [751, 501, 251]);
        Ok(())
    }

    /// Timesteps of diffusers' `DDIMScheduler.set_timesteps` (0.42, with Stable Diffusion's settings): their number's
    /// sum weighted by place, the first two and the last. It leaves the schedule with 1000 leading steps, so that case
    /// is ours.
    #[test]
    fn no_timestep_twice() -> anyhow::Result<()> {
        for (spacing, steps, weighted, ends) in [
            ("leading", 1, 1, [1, 1, 1]),
            ("leading", 7, 7980, [853, 711, 1]),
            ("leading", 30, 148_800, [958, 925, 1]),
            ("leading", 999, 166_666_500, [999, 998, 1]),
            ("leading", 1000, 166_666_500, [999, 998, 0]),
            ("trailing", 1, 999, [999, 999, 999]),
            ("trailing", 7, 11_974, [999, 856, 142]),
            ("trailing", 30, 164_865, [999, 966, 32]),
            ("trailing", 999, 166_292_250, [999, 998, 0]),
            ("trailing", 1000, 166_666_500, [999, 998, 0]),
            ("linspace", 1, 0, [0, 0, 0]),
            ("linspace", 7, 9_322, [999, 832, 0]),
            ("linspace", 30, 154_830, [999, 965, 0]),
            ("linspace", 1000, 166_666_500, [999, 998, 0]),
        ] {
            let scheduler = Scheduler::from_json(&format!(r#"{{"timestep_spacing": "{spacing}"}}"#))?;
            let visited = scheduler.visited(steps, 0)?;
            assert!(visited.is_sorted_by(|a, b| a > b), "{spacing} {steps}: {visited:?}");
            assert_eq!(visited.iter().enumerate().map(|(i, t)| (i + 1) * t).sum::<usize>(), weighted, "{spacing}");
            assert_eq!([visited[0], visited[1.min(steps - 1)], visited[steps - 1]], ends, "{spacing} {steps}");
        }
        Ok(())
    }

    /// Diffusers' `DDIMScheduler.get_velocity` (0.42) at timestep 781, and its cumulative alpha of trained betas.
    #[test]
    fn velocities_and_trained_betas_equal_diffusers() -> anyhow::Result<()> {
        let tensor = |values: [f32; 4]| Tensor::new(&values, &Device::Cpu)?.reshape((1, 4, 1, 1));
        let (latents, noise) = (tensor([0.5, -1.25, 2., 0.125])?, tensor([-0.75, 0.5, 1.5, -2.])?);
        let scheduler = Scheduler::from_json(r#"{"prediction_type": "v_prediction"}"#)?;
        let velocity = scheduler.target(&latents, &noise, &[781])?.flatten_all()?.to_vec1::<f32>()?;
        let recorded = [-0.645_361, 1.326_769, -1.643_37, -0.539_176f32];
        assert!(velocity.iter().zip(recorded).all(|(a, b)| (a - b).abs() < 2e-5), "{velocity:?}");
        let betas: Vec<String> = (0..1000).map(|i| (0.1 * (i + 1) as f64 / 1000.).to_string()).collect();
        let trained = Scheduler::from_json(&format!(r#"{{"trained_betas": [{}]}}"#, betas.join(",")))?;
        assert!((trained.alphas_cumprod[500] / 2.786_431e-6 - 1.).abs() < 1e-4, "{}", trained.alphas_cumprod[500]);
        Ok(())
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (json, key) in [
            (r#"{"num_train_timesteps": 0}"#, "num_train_timesteps"),
            (r#"{"num_train_timesteps": 1000000000000}"#, "num_train_timesteps"),
            (r#"{"num_train_timesteps": 9223372036854775808}"#, "num_train_timesteps"),
            (r#"{"num_train_timesteps": -1}"#, "num_train_timesteps: "),
            (r#"{"beta_start": 0}"#, "beta_start"),
            (r#"{"beta_start": -0.1}"#, "beta_start"),
            (r#"{"beta_end": 1}"#, "beta_end"),
            (r#"{"beta_end": 0.999}"#, "nothing of the picture is left"),
            (r#"{"beta_end": NaN}"#, "expected"),
            (r#"{"beta_schedule": "sigmoid"}"#, "beta_schedule: unknown variant `sigmoid`"),
            (r#"{"trained_betas": [0.1]}"#, "trained_betas"),
            (r#"{"num_train_timesteps": 2, "steps_offset": 0, "trained_betas": [0.1, 1.5]}"#, "trained_betas"),
            (r#"{"steps_offset": 1000}"#, "steps_offset"),
            (r#"{"timestep_spacing": "other"}"#, "timestep_spacing: "),
            (r#"{"prediction_type": "sample"}"#, "prediction_type: "),
            (r#"{"rescale_betas_zero_snr": true}"#, "rescale_betas_zero_snr"),
            (r#"{"thresholding": true}"#, "thresholding"),
            (r#"{"clip_sample_range": 0}"#, "clip_sample_range"),
            ("[]", "no JSON object"),
        ] {
            let said = Scheduler::from_json(json).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(said.contains(key), "{json}: {said}");
        }
        assert!(Scheduler::from_json(r#"{"num_train_timesteps": 1, "steps_offset": 0}"#).is_ok());
    }
}
