//! Textual Inversion and Custom Diffusion: a step of each, the placements of photos, and sampling with eta 1.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{IndexOp, Tensor, Var};
use serde::Deserialize;

use super::super::case::{ACTIVATION, Case, Checks};
use super::super::training::{Prompts, RecordedAdamW, predicted, watched};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::method::custom_diffusion::Placement;
use crate::method::denoising::with_concept;
use crate::method::eqdiff::{ConceptEmbedding, Customisation};
use crate::method::textual_inversion::TEMPLATES;
use crate::model::Plain;
use crate::ops::Keep;
use crate::sampling::guided;
use crate::sampling::samplers::{Ddim, Past, Sampler};

/// What the vector is called in the records.
const EMBEDDING: &str = "embedding";

#[derive(Deserialize)]
struct StepSettings {
    #[serde(flatten)]
    prompts: Prompts,
    adamw: RecordedAdamW,
    #[serde(default)]
    prior_weight: f64,
}

#[derive(Deserialize)]
struct Templates {
    templates: Vec<String>,
}

pub(super) fn textual_inversion(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    let name = "textual_inversion";
    let case = Case::open(folder, name, &base.device)?;
    let Templates { templates } = case.settings()?;
    checks.check(format!("{name}: templates"), (templates != TEMPLATES) as u8 as f64, 0.);
    step(&case, name, base, (BTreeMap::new(), Keep::INPUTS), checks)
}

pub(super) fn custom_diffusion(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    let name = "custom_diffusion";
    let case = Case::open(folder, name, &base.device)?;
    let mut initial = Customisation::initial(&base.unet, &case.get("in.embedding")?, false, false)?;
    initial.remove(ConceptEmbedding::LOW);
    step(&case, name, base, (initial, Keep::ALL), checks)?;
    placements(&case, name, base, checks)
}

/// A step that trains the vector and the `others`, with one of the ways to keep what the gradient needs.
fn step(
    case: &Case,
    name: &str,
    base: &Base,
    (others, keep): (BTreeMap<String, Tensor>, Keep),
    checks: &mut Checks,
) -> Result<()> {
    let StepSettings { prompts, adamw, prior_weight } = case.settings()?;
    let batch = case.batch(base, &prompts, name, checks)?;
    let mut variables = BTreeMap::from([(EMBEDDING.to_string(), Var::from_tensor(&case.get("in.embedding")?)?)]);
    for (key, value) in others {
        variables.insert(key, Var::from_tensor(&value)?);
    }
    let mut tensors = watched(&variables);
    if let Some(vector) = tensors.remove(EMBEDDING) {
        tensors.insert(ConceptEmbedding::LOW.to_string(), vector);
    }
    let learned = Customisation::from_tensors(&base.unet, &tensors)?;
    let step = with_concept(base, &Texts::new(base), &learned, &batch, prior_weight, keep)?;
    predicted(case, &step.predicted, name, checks)?;
    case.losses(&step.losses, ACTIVATION, name, checks)?;
    case.optimised(&variables, &step.losses.total, &adamw, &[], name, checks)
}

#[derive(Deserialize)]
struct PlacementSettings {
    size: usize,
    scales: Vec<[usize; 3]>,
    placements: Vec<RecordedPlacement>,
}

#[derive(Deserialize)]
struct RecordedPlacement {
    resize: usize,
    rows: [usize; 2],
    columns: [usize; 2],
    captions: Vec<String>,
}

fn placements(case: &Case, name: &str, base: &Base, checks: &mut Checks) -> Result<()> {
    let PlacementSettings { size, scales, placements } = case.settings()?;
    for (i, ([scale, row, column], recorded)) in scales.into_iter().zip(placements).enumerate() {
        let ours = Placement::new(size, scale, [row, column]);
        let same = (ours.resize, ours.rows, ours.columns) == (recorded.resize, recorded.rows, recorded.columns)
            && ours.captions == recorded.captions;
        checks.check(format!("{name}: placement {i}"), !same as u8 as f64, 0.);
        let mask = case.get(&format!("out.placement.{i}.mask"))?;
        let factor = size / mask.dim(0)?;
        checks.tensors(format!("{name}: mask {i}"), &ours.valid(factor).tensor(&base.device)?, &mask, 0.)?;
    }
    Ok(())
}

#[derive(Deserialize)]
struct SampleSettings {
    prompts: SamplePrompts,
    steps: usize,
    guidance: f64,
}

#[derive(Deserialize)]
struct SamplePrompts {
    negative: String,
    prompt: String,
}

/// The base alone, with given noise at every step.
pub(super) fn custom_diffusion_sample(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    let name = "custom_diffusion_sample";
    let case = Case::open(folder, name, &base.device)?;
    let SampleSettings { prompts, steps, guidance } = case.settings()?;
    let texts = Texts::new(base);
    let tokens = |text: &str| base.tokenizer.encode(text, "\u{10ffff}");
    let text = texts.plain_batch(&[tokens(&prompts.negative)?, tokens(&prompts.prompt)?])?;
    let sampler = Ddim::ancestral(&base.scheduler, steps)?;
    let (mut latents, noise) = (case.get("in.init_latents")?, case.get("in.step_noise")?);
    for (i, &timestep) in sampler.timesteps().iter().enumerate() {
        let predicted = base.unet.forward(&latents, &[timestep], &text, &mut Plain)?;
        latents = sampler.step(i, &latents, &guided(&predicted, guidance)?, &mut Past::default())?;
        latents = (latents + (noise.i(i)? * sampler.noise(i))?)?;
    }
    checks.tensors(format!("{name}: latents"), &latents, &case.get("out.latents")?, ACTIVATION)
}
