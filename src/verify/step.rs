//! One training step: prediction, losses, fusion masks, every gradient, and the optimiser's step.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use serde::Deserialize;

use super::case::{ACTIVATION, Case, Checks, GRADIENT, LOSS};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::images::Mask;
use crate::method::eqdiff::losses::{Batch, LossSettings, ReferenceBatch, training_losses};
use crate::method::eqdiff::mgdp::{Average, Guidance};
use crate::method::eqdiff::rra::Extent;
use crate::method::eqdiff::{Band, Customisation};
use crate::model::tokenizer::Tokens;
use crate::ops::Keep;
use crate::training::AdamW;
use crate::training::optimiser::AdamWSettings;

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
    prompts: Vec<String>,
    placeholder: String,
    adamw: RecordedAdamW,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
struct RecordedAdamW {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    max_grad_norm: f64,
}

pub(super) fn step(folder: &Path, name: &str, base: &Base, keep: Keep, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, name, &base.device)?;
    let settings: StepSettings = case.settings()?;
    let batch = batch(&case, base, &settings, name, checks)?;
    let variables = variables(&case, base)?;
    let tensors: BTreeMap<_, _> = variables.iter().map(|(n, v)| (n.clone(), v.as_tensor().clone())).collect();
    let weights = Customisation::from_tensors(&base.unet, &tensors)?;
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
    let losses = &step.losses;
    checks.tensors(format!("{name}: predicted"), &step.predicted, &case.get("out.predicted")?, ACTIVATION)?;
    let total = ("total", losses.total.clone());
    for (term, value) in losses.terms.iter().chain([&total]) {
        let ours = value.to_device(&Device::Cpu)?.to_scalar::<f32>()? as f64;
        checks.number(format!("{name}: loss {term}"), ours, case.number(&format!("out.{term}"))?, LOSS);
    }
    for (layer, mask) in &step.fusion_masks {
        let recorded = case.get(&format!("out.fusion_mask.{layer}"))?;
        checks.tensors(format!("{name}: fusion mask {layer}"), mask, &recorded, ACTIVATION)?;
    }
    let grads = losses.total.backward()?;
    for (variable, value) in &variables {
        let grad = grads.get(value).with_context(|| format!("{variable} received no gradient"))?;
        checks.tensors(format!("{name}: grad {variable}"), grad, &case.get(&format!("grad.{variable}"))?, GRADIENT)?;
    }
    let recorded = settings.adamw;
    let adamw = AdamWSettings {
        learning_rate: recorded.lr,
        betas: (recorded.betas[0], recorded.betas[1]),
        eps: recorded.eps,
        weight_decay: recorded.weight_decay,
        max_grad_norm: recorded.max_grad_norm,
    };
    let (norm, _) = AdamW::new(variables.clone(), adamw, 0, BTreeMap::new())?.step(&grads, &[])?;
    checks.number(format!("{name}: gradient norm"), norm, case.number("out.grad_norm")?, GRADIENT);
    for (variable, value) in &variables {
        let recorded = case.get(&format!("out.after.{variable}"))?;
        checks.tensors(format!("{name}: after {variable}"), value, &recorded, GRADIENT)?;
    }
    Ok(())
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
    let integers = |name: &str| -> Result<Vec<usize>> { Ok(case.numbers(name)?.iter().map(|&x| x as usize).collect()) };
    let rows = |name: &str| -> Result<Vec<Vec<u32>>> {
        let length = case.get(name)?.dim(1)?;
        let ids: Vec<u32> = integers(name)?.iter().map(|&id| id as u32).collect();
        Ok(ids.chunks(length).map(<[u32]>::to_vec).collect())
    };
    let masks = |name: &str| -> Result<Vec<Mask>> {
        let values: Vec<f32> = case.numbers(name)?.iter().map(|&x| x as f32).collect();
        let count = case.get(name)?.dim(0)?;
        let side = (values.len() / count.max(1)).isqrt();
        let mask = |values: &[f32]| Mask { values: values.to_vec(), height: side, width: side };
        Ok(values.chunks(side * side).map(mask).collect())
    };
    let plain = |ids: Vec<u32>| Tokens { ids, ..Tokens::default() };
    let places = integers("in.placeholder_index")?;
    let prompts: Vec<Tokens> = rows("in.input_ids")?
        .into_iter()
        .zip(&places)
        .map(|(ids, &place)| Tokens { placeholder: if place > 0 { vec![place] } else { Vec::new() }, ..plain(ids) })
        .collect();
    for (prompt, recorded) in settings.prompts.iter().zip(&prompts) {
        let ours = base.tokenizer.encode(prompt, &settings.placeholder)?;
        // the id under the placeholder is arbitrary
        let differ = |(i, (a, b)): (usize, (&u32, &u32))| a != b && !recorded.placeholder.contains(&i);
        let wrong = ours.ids.iter().zip(&recorded.ids).enumerate().filter(|&x| differ(x)).count();
        let misplaced = (ours.placeholder != recorded.placeholder) as usize;
        checks.check(format!("{name}: tokens of {prompt:?}"), (wrong + misplaced) as f64, 0.);
    }
    Ok(Batch {
        latents: case.get("in.latents")?,
        noise: case.get("in.noise")?,
        timesteps: integers("in.timesteps")?,
        prompts,
        is_prior: integers("in.is_prior")?.iter().map(|&x| x != 0).collect(),
        bands: integers("in.band")?.iter().map(|&band| Band::ALL[band.min(2)]).collect(),
        masks: masks("in.mask")?,
        reference: Some(ReferenceBatch {
            latents: case.get("in.reference_latents")?,
            prompts: rows("in.reference_input_ids")?.into_iter().map(plain).collect(),
            masks: masks("in.reference_mask")?,
        }),
    })
}
