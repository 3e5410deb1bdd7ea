//! A training that can be interrupted: variables, moments and the loss curve on disk.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};

use super::AdamW;
use crate::adapter::{all_tensors, check_values, serialised};
use crate::files::Set;

const STATE: &str = "training.safetensors";
const VARIABLE: &str = "variable.";
const MOMENTS: [&str; 2] = ["first_moment.", "second_moment."];
const STEPS: &str = "steps";

/// What was saved.
pub struct State {
    /// Steps taken.
    pub steps: usize,
    /// The trained tensors by name.
    pub variables: BTreeMap<String, Tensor>,
    /// Both moments by name.
    pub moments: BTreeMap<String, [Tensor; 2]>,
}

/// Adds the optimiser's state to the files of a checkpoint.
///
/// # Errors
/// If it cannot be written.
pub fn save(set: &mut Set, optimiser: &AdamW) -> Result<()> {
    let mut tensors = BTreeMap::new();
    for (name, variable) in optimiser.variables() {
        tensors.insert(format!("{VARIABLE}{name}"), variable.as_tensor().clone());
    }
    for (name, moments) in optimiser.moments() {
        for (prefix, moment) in MOMENTS.iter().zip(moments) {
            tensors.insert(format!("{prefix}{name}"), moment.clone());
        }
    }
    tensors.insert(STEPS.into(), Tensor::new(optimiser.steps() as u32, &Device::Cpu)?);
    set.add(STATE, &serialised(&tensors, &[])?)
}

/// Reads the state that [`save`] wrote.
///
/// # Errors
/// If there is none, or it is damaged.
pub fn load(folder: &Path, device: &Device) -> Result<State> {
    let path = folder.join(STATE);
    if !path.is_file() {
        bail!("nothing to resume: there is no {}", path.display());
    }
    let mut tensors = all_tensors(&path, device)?;
    let steps = tensors.remove(STEPS).with_context(|| format!("{} has no number of steps", path.display()))?;
    let mut state = State {
        steps: steps.to_scalar::<u32>().with_context(|| format!("{STEPS} in {}", path.display()))? as usize,
        variables: BTreeMap::new(),
        moments: BTreeMap::new(),
    };
    for (name, tensor) in &tensors {
        if let Some(name) = name.strip_prefix(VARIABLE) {
            let moment = |prefix: &str| {
                let key = format!("{prefix}{name}");
                let moment = tensors.get(&key).with_context(|| format!("{key} is missing in {}", path.display()))?;
                check_values(&key, moment).with_context(|| format!("{} is damaged", path.display()))?;
                anyhow::Ok(moment.clone())
            };
            check_values(name, tensor).with_context(|| format!("{} is damaged", path.display()))?;
            state.moments.insert(name.to_string(), [moment(MOMENTS[0])?, moment(MOMENTS[1])?]);
            state.variables.insert(name.to_string(), tensor.clone());
        }
    }
    Ok(state)
}
