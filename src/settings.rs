//! All settings of a training, and the layers that they come from.

use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::method::MethodName;
use crate::method::eqdiff::Recipe;
use crate::method::eqdiff::fdte::Fdte;
use crate::method::eqdiff::mgdp::{Guidance, Mgdp};
use crate::method::eqdiff::rra::Rra;

/// Every setting.
const DEFAULTS: &str = include_str!("../configs/eqdiff.toml");

/// The presets, by name, as layers over the defaults and the base's own settings.
pub const PRESETS: [(&str, &str); 11] = [
    ("eqdiff", ""),
    ("paper", include_str!("../configs/paper.toml")),
    ("a", include_str!("../configs/a.toml")),
    ("b", include_str!("../configs/b.toml")),
    ("c", include_str!("../configs/c.toml")),
    ("d", include_str!("../configs/d.toml")),
    ("e", include_str!("../configs/e.toml")),
    ("f", include_str!("../configs/f.toml")),
    ("custom-diffusion", include_str!("../configs/custom-diffusion.toml")),
    ("dreambooth", include_str!("../configs/dreambooth.toml")),
    ("ti", include_str!("../configs/ti.toml")),
];

/// Everything that a training depends on beside the base and the subject. `configs/eqdiff.toml` has a
/// comment on each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The optimiser's settings and the run's.
    pub training: Training,
    /// Frequency-aware decoupled textual embedding.
    pub fdte: Fdte,
    /// Mask-guided diffusion process.
    pub mgdp: Mgdp,
    /// Residual reference attention.
    pub rra: Rra,
    /// Prior preservation.
    pub prior: Prior,
    /// The released code's cross-attention loss.
    pub cross_attention: CrossAttention,
    /// DreamBooth.
    #[serde(default)]
    pub dreambooth: DreamBooth,
    /// How pictures are drawn.
    pub sampling: Sampling,
}

/// The optimiser's settings and the run's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // each is explained in configs/eqdiff.toml
pub struct Training {
    #[serde(default)]
    pub method: MethodName,
    pub steps: usize,
    pub batch_size: usize,
    pub learning_rate: f64,
    pub weight_decay: f64,
    pub max_grad_norm: f64,
    pub side: usize,
    pub seed: u64,
    pub checkpoint_every: usize,
    pub preview_every: usize,
}

/// Prior preservation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prior {
    /// Number of class images, 0 for training without prior preservation.
    pub class_images: usize,
    /// Sampling steps of the class images that the base draws.
    pub class_steps: usize,
    /// Weight of the class images' loss.
    pub weight: f64,
    /// What class images are drawn from and captioned with; `{}` is the class word.
    #[serde(default = "class_word")]
    pub prompt: String,
    /// The sampler of class images.
    #[serde(default)]
    pub sampler: SamplerName,
    /// Their guidance scale, 0: as in `sampling`.
    #[serde(default)]
    pub guidance: f64,
}

fn class_word() -> String {
    CLASS_WORD.into()
}

/// What stands for the class word in [`Prior::prompt`].
const CLASS_WORD: &str = "{}";

impl Prior {
    /// What class images of `class` are drawn from and captioned with.
    pub fn prompt_of(&self, class: &str) -> String {
        self.prompt.replace(CLASS_WORD, class)
    }
}

/// The released code's cross-attention loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrossAttention {
    /// Its weight.
    pub loss_weight: f64,
}

/// DreamBooth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DreamBooth {
    /// The ordinary word that stands for the subject.
    pub identifier: String,
    /// Whether the text encoder is trained too.
    pub text_encoder: bool,
}

impl Default for DreamBooth {
    fn default() -> Self {
        Self { identifier: "sks".into(), text_encoder: false }
    }
}

/// How pictures are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// The way from noise to latents; adapters from before there was a choice do not name it.
    #[serde(default)]
    pub sampler: SamplerName,
    /// Its steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// How much of the guided prediction is brought to the spread of the unguided one.
    #[serde(default)]
    pub guidance_rescale: f64,
    /// Whether DreamMatcher matches pictures to a photo.
    #[serde(default)]
    pub dreammatcher: bool,
    /// Weight of its semantic matching guidance, 0 for none.
    #[serde(default)]
    pub matching_guidance: f64,
}

/// The samplers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerName {
    /// DDIM without noise, as the method was published
    #[default]
    Ddim,
    /// DDIM with as much fresh noise as its variance allows (eta 1)
    Ddpm,
    /// DPM-Solver++ of second order, many steps in one
    #[serde(rename = "dpmpp-2m")]
    #[value(name = "dpmpp-2m")]
    Dpmpp2m,
    /// The same at Karras' noise levels
    #[serde(rename = "dpmpp-2m-karras")]
    #[value(name = "dpmpp-2m-karras")]
    Dpmpp2mKarras,
    /// Euler's method
    Euler,
    /// Euler's method with fresh noise at every step
    EulerA,
    /// Linear multistep of fourth order, between timesteps
    Lms,
    /// UniPC of second order
    Unipc,
}

impl SamplerName {
    /// What AUTOMATIC1111 calls it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ddim => "DDIM",
            Self::Ddpm => "DDPM",
            Self::Dpmpp2m => "DPM++ 2M",
            Self::Dpmpp2mKarras => "DPM++ 2M Karras",
            Self::Euler => "Euler",
            Self::EulerA => "Euler a",
            Self::Lms => "LMS",
            Self::Unipc => "UniPC",
        }
    }
}

/// Layers of settings, each over the ones before.
pub struct Layers {
    table: Table,
}

impl Layers {
    /// Starts with the defaults.
    ///
    /// # Errors
    /// If `configs/eqdiff.toml` is broken.
    pub fn new() -> Result<Self> {
        Ok(Self { table: DEFAULTS.parse().context("configs/eqdiff.toml")? })
    }

    /// Starts with settings that are known.
    ///
    /// # Errors
    /// Never; the library that writes TOML could.
    pub fn of(settings: &Settings) -> Result<Self> {
        Ok(Self { table: Table::try_from(settings).context("cannot list the settings")? })
    }

    /// What further layers over these have changed: names, new values and those of before.
    pub fn changes(&self, further: &Self) -> Vec<(String, String, String)> {
        let (before, after) = (entries(&self.table), entries(&further.table));
        let changed = before.into_iter().zip(after).filter(|(before, after)| before.1 != after.1);
        changed.map(|((name, before), (_, after))| (name, after, before)).collect()
    }

    /// Lays TOML text over what is there; `origin` names it in errors.
    ///
    /// # Errors
    /// If it is no TOML, or holds a setting that does not exist.
    pub fn over(mut self, toml: &str, origin: &str) -> Result<Self> {
        let layer: Table = toml.parse().with_context(|| format!("{origin} is not valid TOML"))?;
        merge(&mut self.table, layer, "").with_context(|| origin.to_string())?;
        Ok(self)
    }

    /// Lays a preset over what is there.
    ///
    /// # Errors
    /// If there is no such preset.
    pub fn preset(self, name: &str) -> Result<Self> {
        match PRESETS.iter().find(|(preset, _)| *preset == name.to_lowercase()) {
            Some((preset, toml)) => self.over(toml, &format!("configs/{preset}.toml")),
            None => bail!("unknown preset {name:?}: one of {}", PRESETS.map(|(name, _)| name).join(", ")),
        }
    }

    /// Lays a file over what is there.
    ///
    /// # Errors
    /// If it cannot be read, or as [`over`](Self::over).
    pub fn file(self, path: &Path) -> Result<Self> {
        let toml = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.over(&toml, &path.display().to_string())
    }

    /// The settings that result.
    ///
    /// # Errors
    /// If a value has the wrong type or makes no sense.
    pub fn settings(self) -> Result<Settings> {
        let settings: Settings = self.table.try_into()?;
        settings.check()?;
        Ok(settings)
    }
}

/// All settings by their full names, in order.
fn entries(table: &Table) -> Vec<(String, String)> {
    let section = |(name, value): (&String, &toml::Value)| -> Vec<(String, String)> {
        let settings = value.as_table().into_iter().flatten();
        // 1 and 1.0 are one number
        let text =
            |value: &toml::Value| value.as_integer().map_or_else(|| value.to_string(), |n| (n as f64).to_string());
        let number = |value: &toml::Value| value.as_float().map_or_else(|| text(value), |x| x.to_string());
        settings.map(|(key, value)| (format!("{name}.{key}"), number(value))).collect()
    };
    table.iter().flat_map(section).collect()
}

fn merge(below: &mut Table, above: Table, path: &str) -> Result<()> {
    for (key, value) in above {
        let name = format!("{path}{key}");
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => merge(below, above, &format!("{name}."))?,
            (Some(below), above) => *below = above,
            (None, _) => bail!("there is no setting {name} (configs/eqdiff.toml has all)"),
        }
    }
    Ok(())
}

impl Settings {
    /// The guidance that class images are drawn with.
    pub fn class_guidance(&self) -> f64 {
        if self.prior.guidance > 0. { self.prior.guidance } else { self.sampling.guidance }
    }

    /// Whether a training looks at the subject's masks.
    pub fn uses_masks(&self) -> bool {
        self.training.method == MethodName::Eqdiff && (self.mgdp.mask != Guidance::Off || self.sees_attention())
    }

    /// Whether a loss looks at maps of attention.
    pub fn sees_attention(&self) -> bool {
        self.rra.enabled && self.rra.loss_weight > 0. || self.cross_attention.loss_weight > 0.
    }

    /// What Equilibrated Diffusion is given of them for a subject of that class.
    pub fn recipe(&self, class: &str) -> Recipe {
        Recipe {
            fdte: self.fdte.clone(),
            mgdp: self.mgdp.clone(),
            rra: self.rra.clone(),
            class_prompt: self.prior.prompt_of(class),
            prior_weight: self.prior.weight,
            cross_weight: self.cross_attention.loss_weight,
            batch_size: self.training.batch_size,
            seed: self.training.seed,
        }
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// If one does not; the message names the setting.
    pub fn check(&self) -> Result<()> {
        let Settings { training, fdte, mgdp, rra, sampling, prior, cross_attention, dreambooth: _ } = self;
        let positive = |value: f64, name: &str| {
            if value > 0. && value.is_finite() { Ok(()) } else { bail!("{name} = {value}: it must be positive") }
        };
        let not_negative = |value: f64, name: &str| {
            if value >= 0. && value.is_finite() { Ok(()) } else { bail!("{name} = {value}: it must not be negative") }
        };
        positive(training.batch_size as f64, "training.batch_size")?;
        positive(training.steps as f64, "training.steps")?;
        positive(training.learning_rate, "training.learning_rate")?;
        if training.max_grad_norm != f64::INFINITY {
            positive(training.max_grad_norm, "training.max_grad_norm")?;
        }
        not_negative(training.weight_decay, "training.weight_decay")?;
        for p in fdte.probabilities {
            not_negative(p, "fdte.probabilities")?;
        }
        positive(fdte.probabilities.iter().sum(), "the sum of fdte.probabilities")?;
        for (value, name) in
            [(fdte.low_cutoff, "low_cutoff"), (fdte.high_cutoff, "high_cutoff"), (fdte.cutoff, "cutoff")]
        {
            positive(value, &format!("fdte.{name}"))?;
            if value > 1e6 {
                bail!("fdte.{name} = {value}: at most 1000000, beyond any picture's frequencies");
            }
        }
        not_negative(rra.loss_weight, "rra.loss_weight")?;
        positive(rra.learning_rate_multiplier, "rra.learning_rate_multiplier")?;
        not_negative(prior.weight, "prior.weight")?;
        not_negative(prior.guidance, "prior.guidance")?;
        not_negative(cross_attention.loss_weight, "cross_attention.loss_weight")?;
        positive(rra.references_per_photo as f64, "rra.references_per_photo")?;
        // whatever is beyond these is a slip of the hand, or meant to fill a machine's memory
        for (value, most, name) in [
            (training.steps, 100_000_000, "training.steps"),
            (training.batch_size, 1024, "training.batch_size"),
            (training.side, 8192, "training.side"),
            (rra.references_per_photo, 10_000, "rra.references_per_photo"),
            (rra.time_gap, 1_000_000, "rra.time_gap"),
            (mgdp.dilations, 1000, "mgdp.dilations"),
            (prior.class_images, 1_000_000, "prior.class_images"),
            (prior.class_steps, 1_000_000, "prior.class_steps"),
            (sampling.steps, 1_000_000, "sampling.steps"),
        ] {
            if value > most {
                bail!("{name} = {value}: at most {most}");
            }
        }
        if training.method == MethodName::TextualInversion && prior.class_images > 0 {
            bail!("prior.class_images = {}: Textual Inversion has no prior preservation", prior.class_images);
        }
        if prior.prompt.trim().is_empty() {
            bail!("prior.prompt is empty: {CLASS_WORD:?} is the class word");
        }
        if prior.class_images > 0 {
            positive(prior.class_steps as f64, "prior.class_steps")?;
        }
        positive(sampling.steps as f64, "sampling.steps")?;
        if !(0. ..=1.).contains(&sampling.guidance_rescale) {
            bail!("sampling.guidance_rescale = {}: it must be from 0 to 1", sampling.guidance_rescale);
        }
        not_negative(sampling.matching_guidance, "sampling.matching_guidance")?;
        not_negative(sampling.guidance, "sampling.guidance")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_unknown_settings_are_errors() -> Result<()> {
        let layers = Layers::new()?.over("[training]\nsteps = 7", "base")?.preset("A")?;
        let settings = layers.over("[training]\nseed = 5\n[fdte]\nenabled = true", "file")?.settings()?;
        assert_eq!((settings.training.steps, settings.training.seed, settings.training.batch_size), (7, 5, 2));
        assert!(settings.fdte.enabled && !settings.rra.enabled);
        let default = Layers::new()?.over("[training]\nsteps = 7", "base")?.preset("eqdiff")?.settings()?;
        assert_eq!(default.training.steps, 7);
        let error = Layers::new()?.over("[training]\nstep = 7", "my.toml").err().map(|e| format!("{e:#}"));
        assert!(error.is_some_and(|e| e.contains("my.toml") && e.contains("training.step")));
        for wrong in ["[training]\nlearning_rate = -1.0", "[fdte]\nlow_cutoff = 1e300", "[fdte]\ncutoff = 0.0"] {
            assert!(Layers::new()?.over(wrong, "x")?.settings().is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn samplers_are_named_the_same_everywhere() -> Result<()> {
        for name in SamplerName::value_variants() {
            let value = name.to_possible_value().context("no value")?;
            let layers = Layers::new()?.over(&format!("[sampling]\nsampler = {:?}", value.get_name()), "x")?;
            assert_eq!(layers.settings()?.sampling.sampler, *name);
        }
        assert!(Layers::new()?.over("[sampling]\nguidance_rescale = 2", "x")?.settings().is_err());
        Ok(())
    }

    #[test]
    fn every_preset_is_valid() -> Result<()> {
        for (name, _) in PRESETS {
            Layers::new()?.preset(name)?.settings()?;
        }
        Ok(())
    }
}
