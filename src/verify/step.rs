//! One training step: prediction, losses, fusion masks, every gradient, and the optimiser's step.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{Tensor, Var};
use serde::Deserialize;

use super::case::{Case, Checks, LOSS};
use super::training::{Prompts, RecordedAdamW, predicted, watched};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::images::Mask;
use crate::method::eqdiff::losses::{Batch, LossSettings, ReferenceBatch, training_losses};
use crate::method::eqdiff::mgdp::{Average, Guidance};
use crate::method::eqdiff::rra::Extent;
use crate::method::eqdiff::{Band, Customisation};
use crate::model::tokenizer::Tokens;
use crate::ops::Keep;

#[derive(Deserialize)]
struct StepSettings {
    dilate_iterations: usize,
    time_gap: usize,
    prior_weight: f64,
    reference_weight: f64,
    cross_weight: f64,
    #[serde(default = "yes")]
    area_normalised: bool,
    #[serde(default = "yes")]
    inside_only: bool,
    #[serde(flatten)]
    prompts: Prompts,
    adamw: RecordedAdamW,
}

fn yes() -> bool {
    true
}

pub(super) fn step(folder: &Path, name: &str, base: &Base, keep: Keep, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, name, &base.device)?;
    let settings: StepSettings = case.settings()?;
    let batch = batch(&case, base, &settings, name, checks)?;
    let variables = variables(&case, base)?;
    let weights = Customisation::from_tensors(&base.unet, &watched(&variables))?;
    let step = training_losses(
        base,
        &Texts::new(base),
        &weights,
        &batch,
        &LossSettings {
            guidance: Guidance::MaskGuided,
            dilations: settings.dilate_iterations,
            average: if settings.area_normalised { Average::Area } else { Average::Picture },
            time_gap: settings.time_gap,
            prior_weight: settings.prior_weight,
            reference_weight: settings.reference_weight,
            reference_extent: if settings.inside_only { Extent::Subject } else { Extent::Everywhere },
            cross_weight: settings.cross_weight,
            keep,
        },
    )?;
    predicted(&case, &step.predicted, name, checks)?;
    case.losses(&step.losses, LOSS, name, checks)?;
    for (layer, mask) in &step.fusion_masks {
        let recorded = case.get(&format!("out.fusion_mask.{layer}"))?;
        let bound = checks.of_masks();
        checks.tensors(format!("{name}: fusion mask {layer}"), mask, &recorded, bound)?;
    }
    case.optimised(&variables, &step.losses.total, &settings.adamw, &[], name, checks)
}

/// The trained variables as recorded before the step; those that the case leaves out are the base's.
fn variables(case: &Case, base: &Base) -> Result<BTreeMap<String, Var>> {
    let low = case.get("in.s_low")?;
    let initial = Customisation::initial(&base.unet, &low, true, true)?;
    let value = |name: &str, initial: &Tensor| -> Result<Var> {
        let recorded = format!("in.{name}");
        let value = if case.has(&recorded) { case.get(&recorded)? } else { initial.clone() };
        Ok(Var::from_tensor(&value.reshape(initial.shape())?)?)
    };
    initial.iter().map(|(name, initial)| Ok((name.clone(), value(name, initial)?))).collect()
}

fn batch(case: &Case, base: &Base, settings: &StepSettings, name: &str, checks: &mut Checks) -> Result<Batch> {
    let masks = |name: &str| -> Result<Vec<Mask>> {
        let values: Vec<f32> = case.numbers(name)?.iter().map(|&x| x as f32).collect();
        let count = case.get(name)?.dim(0)?;
        let side = (values.len() / count.max(1)).isqrt();
        let mask = |values: &[f32]| Mask { values: values.to_vec(), height: side, width: side };
        Ok(values.chunks(side * side).map(mask).collect())
    };
    let plain = |ids: Vec<u32>| Tokens { ids, ..Tokens::default() };
    let prompts = case.prompts(base, &settings.prompts, name, checks)?;
    Ok(Batch {
        latents: case.get("in.latents")?,
        noise: case.get("in.noise")?,
        timesteps: case.integers("in.timesteps")?,
        prompts,
        is_prior: case.integers("in.is_prior")?.iter().map(|&x| x != 0).collect(),
        bands: case.integers("in.band")?.iter().map(|&band| Band::ALL[band.min(2)]).collect(),
        masks: masks("in.mask")?,
        reference: Some(ReferenceBatch {
            latents: case.get("in.reference_latents")?,
            prompts: case.ids("in.reference_input_ids")?.into_iter().map(plain).collect(),
            masks: masks("in.reference_mask")?,
        }),
    })
}
