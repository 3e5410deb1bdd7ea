//! ELITE on random weights: the vision tower's states, a step of each mapping, and sampling with and without details.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{Tensor, Var};
use serde::Deserialize;

use super::super::case::{ACTIVATION, Case, Checks};
use super::super::training::{Prompts, RecordedAdamW, predicted, watched};
use crate::base::texts::Texts;
use crate::base::{Base, ids_tensor, load_vision};
use crate::images::Mask;
use crate::method::Losses;
use crate::method::denoising;
use crate::method::elite::{Details, Elite, EliteAttention, patches_of};
use crate::model::ClipVision;
use crate::model::elite::Mapper;
use crate::sampling::samplers::{Lms, Sampler};
use crate::sampling::{Draft, Plan, denoise};
use crate::weights::Weights;

#[derive(Deserialize)]
struct StepSettings {
    #[serde(flatten)]
    prompts: Prompts,
    adamw: RecordedAdamW,
    tensors: Vec<String>,
    taps: Vec<usize>,
}

/// What the cases share.
struct Models<'a> {
    base: &'a Base,
    vision: ClipVision,
    global: Weights,
    local: Weights,
}

impl Models<'_> {
    fn mapper(&self, weights: &Weights) -> Result<Mapper> {
        Ok(Mapper::load(weights, &self.base.unet, self.base.text.config.hidden_size)?)
    }

    /// A mapper of variables.
    fn trained(&self, weights: &Weights) -> Result<(Mapper, BTreeMap<String, Var>)> {
        let mut variables = BTreeMap::new();
        for name in weights.names() {
            variables.insert(name.clone(), Var::from_tensor(&weights.any(&name)?)?);
        }
        Ok((self.mapper(&weights.clone().replaced(watched(&variables)))?, variables))
    }
}

pub(super) fn elite(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    let open = |name: &str| Weights::open(&folder.join(format!("elite-{name}.safetensors")), &base.device);
    let vision = load_vision(&folder.join("elite-vision").display().to_string(), true, &base.device)?;
    let models = Models { base, vision, global: open("global")?, local: open("local")? };
    let of_photo = global_step(folder, &models, checks)?;
    local_step(folder, &models, &of_photo, checks)?;
    sample(folder, &models, checks)
}

/// Gives the features of the photos.
fn global_step(folder: &Path, models: &Models, checks: &mut Checks) -> Result<Vec<Tensor>> {
    let (name, base) = ("elite", models.base);
    let case = Case::open(folder, name, &base.device)?;
    let settings: StepSettings = case.settings()?;
    let features = models.vision.hidden_states(&case.get("in.pixels")?, &settings.taps)?;
    for (i, ours) in features.iter().enumerate() {
        checks.tensors(format!("{name}: feature {i}"), ours, &case.get(&format!("out.features.{i}"))?, ACTIVATION)?;
    }
    let (mapper, variables) = models.trained(&models.global)?;
    let batch = case.batch(base, &settings.prompts, name, checks)?;
    let words = mapper.words(&features)?;
    checks.tensors(format!("{name}: words"), &words, &case.get("out.words")?, ACTIVATION)?;
    let text = with_words(base, &batch, &words)?;
    checks.tensors(format!("{name}: text"), &text, &case.get("out.text")?, ACTIVATION)?;
    let mut attention = EliteAttention::new(&mapper, None, &[]);
    let step = denoising::losses(base, &base.unet, &batch, &text, &mut attention, 0.)?;
    predicted(&case, &step.predicted, name, checks)?;
    let losses = regularised(step.losses, words.abs()?.mean_all()?, 0.01)?;
    case.losses(&losses, ACTIVATION, name, checks)?;
    case.optimised(&variables, &losses.total, &settings.adamw, &settings.tensors, name, checks)?;
    Ok(features)
}

/// States of prompts whose placeholder stands for several words.
fn with_words(base: &Base, batch: &denoising::Batch, words: &Tensor) -> Result<Tensor> {
    let ids: Vec<&[u32]> = batch.prompts.iter().map(|tokens| tokens.ids.as_slice()).collect();
    let places: Vec<usize> = batch.prompts.iter().filter_map(|tokens| tokens.placeholder.first().copied()).collect();
    Ok(base.text.with_words(&ids_tensor(&ids, &base.device)?, &places, words)?)
}

/// The losses with one that keeps values small.
fn regularised(losses: Losses, regular: Tensor, weight: f64) -> Result<Losses> {
    let total = (losses.total + (&regular * weight)?)?;
    Ok(Losses { total, terms: [losses.terms, vec![("regular", regular)]].concat() })
}

fn local_step(folder: &Path, models: &Models, of_photo: &[Tensor], checks: &mut Checks) -> Result<()> {
    let (name, base) = ("elite_local_step", models.base);
    let case = Case::open(folder, name, &base.device)?;
    let settings: StepSettings = case.settings()?;
    let object = models.vision.hidden_states(&case.get("in.object_pixels")?, &settings.taps)?;
    let subject = case.get("in.subject")?;
    let (count, height, width) = subject.dims3()?;
    let side = (object[0].dim(1)? - 1).isqrt();
    let mut masks = Vec::new();
    for i in 0..count {
        let values = subject.get(i)?.flatten_all()?.to_vec1::<f32>()?;
        masks.push(patches_of(&Mask { values, height, width }, side, &base.device)?);
    }
    let mask = Tensor::cat(&masks, 0)?;
    checks.tensors(format!("{name}: patches of the mask"), &mask, &case.get("in.patch_mask")?, 0.)?;
    let global = models.mapper(&models.global)?;
    let (mapper, variables) = models.trained(&models.local)?;
    let patches = mapper.details(&object, &mask)?;
    checks.tensors(format!("{name}: details"), &patches, &case.get("out.details")?, ACTIVATION)?;
    let batch = case.batch(base, &settings.prompts, name, checks)?;
    let text = with_words(base, &batch, &global.words(of_photo)?.narrow(1, 0, 1)?)?;
    let places: Vec<usize> = batch.prompts.iter().filter_map(|tokens| tokens.placeholder.first().copied()).collect();
    let details = Details { mapper, patches, weight: 1. };
    let mut attention = EliteAttention::new(&global, Some(&details), &places);
    let step = denoising::losses(base, &base.unet, &batch, &text, &mut attention, 0.)?;
    predicted(&case, &step.predicted, name, checks)?;
    let sizes = attention.values.values().map(|value| value.abs()?.mean_all());
    let regular = Tensor::stack(&sizes.collect::<candle_core::Result<Vec<_>>>()?, 0)?.mean_all()?;
    let losses = regularised(step.losses, regular, 0.0001)?;
    case.losses(&losses, ACTIVATION, name, checks)?;
    case.optimised(&variables, &losses.total, &settings.adamw, &settings.tensors, name, checks)
}

#[derive(Deserialize)]
struct SampleSettings {
    prompt: String,
    placeholder: String,
    steps: usize,
    guidance: f64,
    lambda: f64,
    predicted_at: f64,
    taps: Vec<usize>,
}

fn sample(folder: &Path, models: &Models, checks: &mut Checks) -> Result<()> {
    let (name, base) = ("elite_sample", models.base);
    let case = Case::open(folder, name, &base.device)?;
    let settings: SampleSettings = case.settings()?;
    let sampler = Lms::new(&base.scheduler, settings.steps)?;
    let mut coefficients = Vec::new();
    for i in 0..settings.steps {
        let mut row = sampler.coefficients(i, i + 1);
        row.resize(4, 0.);
        coefficients.extend(row);
    }
    for (what, ours) in
        [("timesteps", sampler.timesteps()), ("sigmas", sampler.sigmas()), ("coefficients", coefficients.as_slice())]
    {
        let error = super::super::case::distance(ours, &case.numbers(&format!("out.{what}"))?);
        checks.check(format!("{name}: {what}"), error, ACTIVATION);
    }
    let features = |pixels: &str| anyhow::Ok(models.vision.hidden_states(&case.get(pixels)?, &settings.taps)?);
    let (global, local) = (models.mapper(&models.global)?, models.mapper(&models.local)?);
    let word = global.words(&features("in.pixels")?)?.narrow(1, 0, 1)?;
    checks.tensors(format!("{name}: word"), &word, &case.get("out.word")?, ACTIVATION)?;
    let patches = local.details(&features("in.object_pixels")?, &case.get("in.patch_mask")?)?;
    checks.tensors(format!("{name}: details"), &patches, &case.get("out.details")?, ACTIVATION)?;
    let mut learned = Elite { global, word: word.flatten_all()?, local: None };
    let texts = Texts::new(base);
    let tokens = base.tokenizer.encode(&settings.prompt, &settings.placeholder)?;
    let text = texts.with_concept(&tokens, &learned.word)?;
    let negative = texts.plain(&base.tokenizer.encode("", &settings.placeholder)?)?;
    checks.tensors(
        format!("{name}: text"),
        &Tensor::cat(&[&negative, &text], 0)?,
        &case.get("out.text")?,
        ACTIVATION,
    )?;
    let words = tokens.placeholder.clone();
    let noise = case.get("in.noise")?;
    for branch in ["global", "local"] {
        if branch == "local" {
            let mapper = models.mapper(&models.local)?;
            learned.local = Some(Details { mapper, patches: patches.clone(), weight: settings.lambda });
        }
        let mut attention = EliteAttention::new(&learned.global, learned.local.as_ref(), &words);
        let ours = base.unet.forward(&noise, &[settings.predicted_at], &text, &mut attention)?;
        let recorded = case.get(&format!("out.{branch}.predicted"))?;
        checks.tensors(format!("{name}: {branch} predicted"), &ours, &recorded, ACTIVATION)?;
        let plan = Plan {
            learned: &learned,
            reference: None,
            negative: negative.clone(),
            sampler: &sampler,
            guidance: settings.guidance,
            guidance_rescale: 0.,
            batch: 1,
            first: 0,
            start: None,
            sketch: None,
        };
        let mut drafts = [Draft { text: text.clone(), latents: noise.clone(), seed: 0, word: words[0] }];
        denoise(base, &plan, &mut drafts, |_| Ok(()))?;
        let recorded = case.get(&format!("out.{branch}.latents"))?;
        checks.tensors(format!("{name}: {branch} latents"), &drafts[0].latents, &recorded, ACTIVATION)?;
    }
    Ok(())
}
