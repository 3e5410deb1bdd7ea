//! DreamBooth: a step of the whole UNet, and one of the text encoder too.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::Var;
use serde::Deserialize;

use super::super::case::{ACTIVATION, Case, Checks};
use super::super::training::{Prompts, RecordedAdamW, predicted, watched};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::method::dreambooth::{Tuned, initial};

#[derive(Deserialize)]
struct StepSettings {
    #[serde(flatten)]
    prompts: Prompts,
    adamw: RecordedAdamW,
    prior_weight: f64,
    /// Names of all that is trained, in the order of the norms.
    tensors: Vec<String>,
}

pub(super) fn dreambooth(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    step(folder, "dreambooth", false, base, checks)?;
    step(folder, "dreambooth_text", true, base, checks)
}

fn step(folder: &Path, name: &str, text_encoder: bool, base: &Base, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, name, &base.device)?;
    let StepSettings { prompts, adamw, prior_weight, tensors } = case.settings()?;
    let batch = case.batch(base, &prompts, name, checks)?;
    let mut variables = BTreeMap::new();
    for (name, tensor) in initial(base, text_encoder)? {
        variables.insert(name, Var::from_tensor(&tensor)?);
    }
    let learned = Tuned::from_tensors(base, "sks", &watched(&variables))?;
    let step = learned.losses(base, &Texts::new(base), &batch, prior_weight)?;
    predicted(&case, &step.predicted, name, checks)?;
    case.losses(&step.losses, ACTIVATION, name, checks)?;
    let recorded = |(name, variable)| (as_recorded(name), variable);
    let variables = variables.into_iter().map(recorded).collect();
    case.optimised(&variables, &step.losses.total, &adamw, &tensors, name, checks)
}

/// A name of an adapter as the records have it.
fn as_recorded(name: String) -> String {
    match name.strip_prefix("text_encoder.") {
        Some(name) => format!("text.{name}"),
        None => format!("unet.{name}"),
    }
}
