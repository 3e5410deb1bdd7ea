//! What the cases of training steps share: prompts, the samples, gradients and the optimiser's step.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor, Var};
use serde::Deserialize;

use super::case::{ACTIVATION, Case, Checks, GRADIENT, distance};
use crate::base::Base;
use crate::method::Losses;
use crate::method::denoising::Batch;
use crate::model::tokenizer::Tokens;
use crate::training::AdamW;
use crate::training::optimiser::AdamWSettings;

/// The optimiser's settings as they are recorded.
#[derive(Deserialize)]
pub(super) struct RecordedAdamW {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    max_grad_norm: Option<f64>,
}

/// A gradient whose norm is a smaller share of the largest one's is not looked at by itself.
const NOTICEABLE: f64 = 1e-4;

/// The prompts of a training step.
#[derive(Deserialize)]
pub(super) struct Prompts {
    prompts: Vec<String>,
    #[serde(default = "nothing")]
    placeholder: String,
}

/// What no prompt holds.
fn nothing() -> String {
    "\u{10ffff}".into()
}

impl Case {
    /// A tensor of whole numbers.
    ///
    /// # Errors
    /// If it is missing.
    pub(super) fn integers(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.numbers(name)?.iter().map(|&x| x as usize).collect())
    }

    /// Rows of token ids [B, L].
    ///
    /// # Errors
    /// If they are missing.
    pub(super) fn ids(&self, name: &str) -> Result<Vec<Vec<u32>>> {
        let length = self.get(name)?.dim(1)?;
        let ids: Vec<u32> = self.integers(name)?.iter().map(|&id| id as u32).collect();
        Ok(ids.chunks(length).map(<[u32]>::to_vec).collect())
    }

    /// The prompts of the samples, compared with what our tokenizer makes of them.
    ///
    /// # Errors
    /// If tensors are missing.
    pub(super) fn prompts(&self, base: &Base, given: &Prompts, name: &str, checks: &mut Checks) -> Result<Vec<Tokens>> {
        let rows = self.ids("in.input_ids")?.into_iter().zip(self.integers("in.placeholder_index")?);
        let placed = |(ids, place)| Tokens {
            ids,
            placeholder: if place > 0 { vec![place] } else { Vec::new() },
            ..Tokens::default()
        };
        let prompts: Vec<Tokens> = rows.map(placed).collect();
        for (prompt, recorded) in given.prompts.iter().zip(&prompts) {
            let ours = base.tokenizer.encode(prompt, &given.placeholder)?;
            // the id under the placeholder is arbitrary
            let differ = |(i, (a, b)): (usize, (&u32, &u32))| a != b && !recorded.placeholder.contains(&i);
            let wrong = ours.ids.iter().zip(&recorded.ids).enumerate().filter(|&x| differ(x)).count();
            let misplaced = (ours.placeholder != recorded.placeholder) as usize;
            checks.check(format!("{name}: tokens of {prompt:?}"), (wrong + misplaced) as f64, 0.);
        }
        Ok(prompts)
    }

    /// The samples of a step whose losses are those of [`denoising`](crate::method::denoising).
    ///
    /// # Errors
    /// If tensors are missing.
    pub(super) fn batch(&self, base: &Base, given: &Prompts, name: &str, checks: &mut Checks) -> Result<Batch> {
        let prompts = self.prompts(base, given, name, checks)?;
        let is_prior = match self.has("in.is_prior") {
            true => self.integers("in.is_prior")?.iter().map(|&x| x != 0).collect(),
            false => vec![false; prompts.len()],
        };
        Ok(Batch {
            latents: self.get("in.latents")?,
            noise: self.get("in.noise")?,
            timesteps: self.integers("in.timesteps")?,
            prompts,
            is_prior,
            valid: if self.has("in.mask") { Some(self.get("in.mask")?) } else { None },
        })
    }

    /// Compares the losses, total first.
    ///
    /// # Errors
    /// If one is missing.
    pub(super) fn losses(&self, losses: &Losses, bound: f64, name: &str, checks: &mut Checks) -> Result<()> {
        let total = ("total", losses.total.clone());
        for (term, value) in [&total].into_iter().chain(&losses.terms) {
            // a single term is not recorded beside its total
            let recorded = if self.has(&format!("out.{term}")) { term } else { "total" };
            let ours = value.to_device(&Device::Cpu)?.to_scalar::<f32>()? as f64;
            checks.number(format!("{name}: loss {term}"), ours, self.number(&format!("out.{recorded}"))?, bound);
        }
        Ok(())
    }

    /// Compares gradients of `total` and what one step of the optimiser makes of the variables, which have the names of the
    /// records. With the order of `all`, the norms of those that are not recorded in full.
    ///
    /// # Errors
    /// If something is missing.
    pub(super) fn optimised(
        &self,
        variables: &BTreeMap<String, Var>,
        total: &Tensor,
        recorded: &RecordedAdamW,
        all: &[String],
        name: &str,
        checks: &mut Checks,
    ) -> Result<()> {
        let grads = total.backward()?;
        let (mut grad_norms, mut after_norms) = (Vec::new(), Vec::new());
        let full = |kind: &str, variable: &str| {
            Some(format!("{kind}.{variable}")).filter(|key| all.is_empty() || self.has(key))
        };
        let grad = |variable: &str| -> Result<&Tensor> {
            let value = variables.get(variable).with_context(|| format!("{variable} is not trained"))?;
            grads.get(value).with_context(|| format!("{variable} received no gradient"))
        };
        let mut recorded_in_full = variables.keys().filter_map(|v| Some((v, full("grad", v)?)));
        recorded_in_full.try_for_each(|(variable, key)| {
            let bound = checks.of_gradients();
            checks.tensors(format!("{name}: grad {variable}"), grad(variable)?, &self.get(&key)?, bound)
        })?;
        for variable in all {
            grad_norms.push(norm_of(grad(variable)?)?);
        }
        let adamw = AdamWSettings {
            learning_rate: recorded.lr,
            betas: (recorded.betas[0], recorded.betas[1]),
            eps: recorded.eps,
            weight_decay: recorded.weight_decay,
            max_grad_norm: recorded.max_grad_norm.unwrap_or(f64::INFINITY),
        };
        let (norm, _) = AdamW::new(variables.clone(), adamw, 0, BTreeMap::new())?.step(&grads, &[])?;
        if recorded.max_grad_norm.is_some() {
            checks.number(format!("{name}: gradient norm"), norm, self.number("out.grad_norm")?, GRADIENT);
        }
        for (variable, value) in variables {
            if let Some(key) = full("out.after", variable) {
                let bound = checks.of_steps();
                checks.tensors(format!("{name}: after {variable}"), value, &self.get(&key)?, bound)?;
            }
        }
        for variable in all {
            after_norms.push(norm_of(&variables[variable])?);
        }
        if all.is_empty() {
            return Ok(());
        }
        let of_grads = self.numbers("out.grad_norms")?;
        // some gradients are nothing but rounding: the bias of keys moves all scores alike
        let least = NOTICEABLE * of_grads.iter().fold(0f64, |most, &x| most.max(x));
        for (kind, ours) in [("grad_norms", grad_norms), ("after_norms", after_norms)] {
            let recorded = self.numbers(&format!("out.{kind}"))?;
            checks.check(format!("{name}: {kind} of {}", all.len()), distance(&ours, &recorded), GRADIENT);
            let pairs = ours.iter().zip(&recorded).zip(&of_grads).zip(all);
            let pairs = pairs.filter(|((_, grad), _)| **grad >= least);
            let worst = pairs.map(|(((a, b), _), variable)| (distance(&[*a], &[*b]), variable));
            if let Some((error, variable)) = worst.max_by(|a, b| a.0.total_cmp(&b.0)) {
                checks.check(format!("{name}: {kind}, of {variable} the furthest off"), error, GRADIENT);
            }
        }
        Ok(())
    }
}

fn norm_of(x: &Tensor) -> Result<f64> {
    Ok(x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?.sqrt())
}

/// Variables, and the tensors that layers see of them.
pub(super) fn watched(variables: &BTreeMap<String, Var>) -> BTreeMap<String, Tensor> {
    variables.iter().map(|(name, variable)| (name.clone(), variable.as_tensor().clone())).collect()
}

/// Compares what was predicted.
pub(super) fn predicted(case: &Case, ours: &Tensor, name: &str, checks: &mut Checks) -> Result<()> {
    checks.tensors(format!("{name}: predicted"), ours, &case.get("out.predicted")?, ACTIVATION)
}
