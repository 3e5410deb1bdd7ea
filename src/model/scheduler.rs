//! The noise schedule of Stable Diffusion and DDIM's deterministic steps.

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

/// One step of DDIM, from `timestep` to the one before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DdimStep {
    /// The timestep that the denoiser is asked at.
    pub timestep: usize,
    /// Cumulative alpha here and at the previous timestep.
    alpha: f64,
    alpha_previous: f64,
    prediction: Prediction,
    /// Clean latents stay within this of 0.
    bound: Option<f64>,
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
    pub fn add_noise(&self, latents: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        self.mixed(latents, noise, timesteps)
    }

    /// What the denoiser should predict of `latents` [B, ...] to which `noise` was added.
    pub fn target(&self, latents: &Tensor, noise: &Tensor, timesteps: &[usize]) -> Result<Tensor> {
        match self.config.prediction_type {
            Prediction::Epsilon => Ok(noise.clone()),
            Prediction::VPrediction => self.mixed(noise, &latents.neg()?, timesteps),
        }
    }

    /// The steps of DDIM (eta 0) at the timesteps that the configuration's spacing gives, as in diffusers, no timestep
    /// twice.
    ///
    /// # Errors
    /// If `steps` is 0 or more than there are timesteps.
    pub fn ddim(&self, steps: usize) -> Result<Vec<DdimStep>> {
        let count = self.timesteps();
        if steps == 0 || steps > count {
            candle_core::bail!("{steps} sampling steps: choose 1 to {count}");
        }
        let ratio = count / steps;
        // with as many steps as timesteps there is no room for an offset
        let offset = self.config.steps_offset.min(count - 1 - (steps - 1) * ratio);
        let timestep = |i: usize| match self.config.timestep_spacing {
            Spacing::Leading => i * ratio + offset,
            Spacing::Trailing => {
                let from_last = (steps - 1 - i) as f64 * (count as f64 / steps as f64);
                (count as f64 - from_last).round_ties_even() as usize - 1
            }
            Spacing::Linspace => ((count - 1) as f64 / (steps.max(2) - 1) as f64 * i as f64).round_ties_even() as usize,
        };
        let last = if self.config.set_alpha_to_one { 1. } else { self.alphas_cumprod[0] };
        let step = |i: usize| {
            let timestep = timestep(i);
            let alpha_previous = timestep.checked_sub(ratio).map_or(last, |t| self.alphas_cumprod[t]);
            DdimStep {
                timestep,
                alpha: self.alphas_cumprod[timestep],
                alpha_previous,
                prediction: self.config.prediction_type,
                bound: self.config.clip_sample.then_some(self.config.clip_sample_range),
            }
        };
        Ok((0..steps).rev().map(step).collect())
    }
}

impl DdimStep {
    /// The latents one step earlier, given what the denoiser predicted of `latents`.
    pub fn apply(&self, latents: &Tensor, predicted: &Tensor) -> Result<Tensor> {
        let (signal, rest) = (self.alpha.sqrt(), (1. - self.alpha).sqrt());
        let (clean, noise) = match self.prediction {
            Prediction::Epsilon => (((latents - (predicted * rest)?)? / signal)?, predicted.clone()),
            Prediction::VPrediction => {
                (((latents * signal)? - (predicted * rest)?)?, ((predicted * signal)? + (latents * rest)?)?)
            }
        };
        let clean = match self.bound {
            Some(bound) => clean.clamp(-bound, bound)?,
            None => clean,
        };
        (clean * self.alpha_previous.sqrt())? + (noise * (1. - self.alpha_previous).sqrt())?
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
        let steps = scheduler.ddim(50)?;
        assert_eq!((steps[0].timestep, steps[49].timestep), (981, 1));
        assert_eq!(steps[49].alpha_previous, scheduler.alphas_cumprod[0]);
        assert_eq!(steps[48].alpha_previous, steps[49].alpha);
        assert!(scheduler.ddim(0).is_err() && scheduler.ddim(1001).is_err() && scheduler.ddim(1000).is_ok());
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
            let visited: Vec<usize> = scheduler.ddim(steps)?.iter().map(|step| step.timestep).collect();
            assert!(visited.is_sorted_by(|a, b| a > b), "{spacing} {steps}: {visited:?}");
            assert_eq!(visited.iter().enumerate().map(|(i, t)| (i + 1) * t).sum::<usize>(), weighted, "{spacing}");
            assert_eq!([visited[0], visited[1.min(steps - 1)], visited[steps - 1]], ends, "{spacing} {steps}");
        }
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
            let step = scheduler.ddim(steps)?[i];
            close(&step.apply(&latents, &noise)?, stepped)?;
            close(&scheduler.add_noise(&latents, &noise, &[step.timestep])?, noised)?;
        }
        // the same class's `get_velocity` at timestep 781
        let scheduler = Scheduler::from_json(r#"{"prediction_type": "v_prediction"}"#)?;
        close(&scheduler.target(&latents, &noise, &[781])?, [-0.645_361, 1.326_769, -1.643_37, -0.539_176])?;
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
