//! Recorded tensors, and the comparison with ours.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;

use crate::ops::Precision;
use crate::weights::Weights;

/// Activations and pictures: relative L2 distance.
pub(super) const ACTIVATION: f64 = 1e-4;
/// Losses: relative distance.
pub(super) const LOSS: f64 = 1e-5;
/// Gradients, and parameters after a step: relative L2 distance.
pub(super) const GRADIENT: f64 = 1e-3;
/// Metrics: absolute distance.
pub(super) const METRIC: f64 = 1e-4;

/// All of these, where products have 10 bits of mantissa.
pub(super) const TF32: f64 = 5e-3;
/// All of these, where weights are kept in half precision.
pub(super) const HALF: f64 = 2e-2;

/// What no bound is narrower than in a precision.
#[derive(Clone, Copy)]
pub(super) struct Least {
    /// Of results.
    pub(super) result: f64,
    /// Of fusion masks: clamped to 0 nearly everywhere in some layers, so that a distance is relative to next to nothing.
    pub(super) mask: f64,
    /// Of gradients: through all layers, and where large terms cancel.
    pub(super) gradient: f64,
    /// Of variables after a first step, which takes each value of a gradient, however small, for its sign alone.
    pub(super) step: f64,
}

impl Least {
    /// That of a device.
    pub(super) fn of(device: &Device, precision: Precision) -> Self {
        let (result, mask, gradient, step) = match precision {
            Precision::F32 => (0., 0., 0., 0.),
            Precision::Tf32 => (TF32, TF32, 5e-2, 0.5),
            Precision::Bf16 if device.is_cuda() => (HALF, 0.2, 0.2, 0.5),
            Precision::F16 | Precision::Bf16 => (HALF, HALF, HALF, HALF),
        };
        Self { result, mask, gradient, step }
    }
}

/// One comparison.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was compared, e.g. `step: grad s_low`.
    pub name: String,
    /// How far ours is from the recorded value.
    pub error: f64,
    /// How far it may be.
    pub bound: f64,
}

impl Check {
    /// Whether ours is close enough; an error that is not a number is not.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}

/// Collects the checks of one case after another.
pub(super) struct Checks<'a> {
    show: &'a mut dyn FnMut(&Check),
    least: Least,
}

impl<'a> Checks<'a> {
    /// No bound is narrower than the `least`.
    pub(super) fn new(show: &'a mut dyn FnMut(&Check), least: Least) -> Self {
        Self { show, least }
    }

    /// The bound of fusion masks.
    pub(super) fn of_masks(&self) -> f64 {
        ACTIVATION.max(self.least.mask)
    }

    /// The bound of gradients.
    pub(super) fn of_gradients(&self) -> f64 {
        GRADIENT.max(self.least.gradient)
    }

    /// The bound of variables after a step.
    pub(super) fn of_steps(&self) -> f64 {
        GRADIENT.max(self.least.step)
    }

    /// The relative L2 distance of tensors of as many numbers; infinite for others.
    pub(super) fn tensors(&mut self, name: String, ours: &Tensor, recorded: &Tensor, bound: f64) -> Result<()> {
        let flat = |t: &Tensor| -> Result<Vec<f64>> {
            Ok(t.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
        };
        let as_many = ours.elem_count() == recorded.elem_count();
        let error = if as_many { distance(&flat(ours)?, &flat(recorded)?) } else { f64::INFINITY };
        self.check(name, error, bound);
        Ok(())
    }

    /// The relative distance of two numbers.
    pub(super) fn number(&mut self, name: String, ours: f64, recorded: f64, bound: f64) {
        self.check(name, distance(&[ours], &[recorded]), bound);
    }

    pub(super) fn check(&mut self, name: String, error: f64, bound: f64) {
        (self.show)(&Check { name, error, bound: bound.max(self.least.result) });
    }
}

/// |a - b| / |b|, or |a - b| where b is all zero.
pub(super) fn distance(a: &[f64], b: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    let gap = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    let size = norm(&mut b.iter().copied());
    if size > 0. { gap / size } else { gap }
}

/// The tensors and the settings of a recorded case.
pub(super) struct Case {
    tensors: Weights,
    settings: String,
    name: String,
}

impl Case {
    /// # Errors
    /// If a file is missing or damaged.
    pub(super) fn open(folder: &Path, name: &str, device: &Device) -> Result<Self> {
        let tensors = Weights::open(&folder.join(format!("{name}.safetensors")), device)?;
        let path = folder.join(format!("{name}.json"));
        let settings = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { tensors, settings, name: path.display().to_string() })
    }

    /// The settings that the case was recorded with.
    ///
    /// # Errors
    /// If they have another form.
    pub(super) fn settings<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_str(&self.settings).with_context(|| format!("{} does not fit", self.name))
    }

    /// A tensor, floats in f32.
    ///
    /// # Errors
    /// If it is missing.
    pub(super) fn get(&self, name: &str) -> Result<Tensor> {
        Ok(self.tensors.any(name)?)
    }

    /// A tensor's values as numbers.
    ///
    /// # Errors
    /// If it is missing.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<f64>> {
        Ok(self.get(name)?.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?)
    }

    /// A scalar.
    ///
    /// # Errors
    /// If it is missing.
    pub(super) fn number(&self, name: &str) -> Result<f64> {
        self.numbers(name)?.first().copied().with_context(|| format!("{name} of {} is empty", self.name))
    }

    /// Whether a tensor was recorded.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tensors.shape(name).is_some()
    }

    /// The rest of the names that start with `prefix`.
    pub(super) fn below(&self, prefix: &str) -> Vec<String> {
        self.tensors.names().iter().filter_map(|name| name.strip_prefix(prefix)).map(str::to_string).collect()
    }
}
