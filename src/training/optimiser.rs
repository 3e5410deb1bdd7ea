//! AdamW with clipping of the common gradient norm, and a state that can be saved.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};

use crate::ops::adamw;
pub use crate::ops::adamw::Settings as AdamWSettings;

/// The trained variables by name, with their moments.
pub struct AdamW {
    settings: AdamWSettings,
    variables: BTreeMap<String, Var>,
    moments: BTreeMap<String, [Tensor; 2]>,
    steps: usize,
}

impl AdamW {
    /// Trains `variables` from step `steps` on; `moments` of a saved run, or zero where missing.
    ///
    /// # Errors
    /// If a saved moment has not its variable's shape.
    pub fn new(
        variables: BTreeMap<String, Var>,
        settings: AdamWSettings,
        steps: usize,
        mut saved: BTreeMap<String, [Tensor; 2]>,
    ) -> Result<Self> {
        let mut moments = BTreeMap::new();
        for (name, variable) in &variables {
            let pair = match saved.remove(name) {
                Some(pair) => pair,
                None => [variable.zeros_like()?, variable.zeros_like()?],
            };
            if pair.iter().any(|m| m.shape() != variable.shape()) {
                candle_core::bail!("the saved moments of {name} have not its shape {:?}", variable.shape());
            }
            moments.insert(name.clone(), pair);
        }
        Ok(Self { settings, variables, moments, steps })
    }

    /// One step along the gradients: their norm before clipping, and the values of `losses`, all read from the device
    /// together. If the norm is not finite, nothing was changed.
    ///
    /// # Errors
    /// If a variable has no gradient: training would silently leave it behind.
    pub fn step(&mut self, grads: &GradStore, losses: &[&Tensor]) -> Result<(f64, Vec<f64>)> {
        let mut trained = Vec::with_capacity(self.variables.len());
        for ((name, value), moments) in self.variables.iter().zip(self.moments.values_mut()) {
            let Some(grad) = grads.get(value) else { candle_core::bail!("{name} received no gradient") };
            trained.push(adamw::Trained { value, grad, moments });
        }
        let norm = adamw::step(&mut trained, &self.settings, self.steps + 1)?;
        let mut all = read(&norm, losses)?.into_iter();
        let norm = all.next().unwrap_or(f64::NAN);
        self.steps += norm.is_finite() as usize;
        Ok((norm, all.collect()))
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The trained variables.
    pub fn variables(&self) -> &BTreeMap<String, Var> {
        &self.variables
    }

    /// First and second moments.
    pub fn moments(&self) -> &BTreeMap<String, [Tensor; 2]> {
        &self.moments
    }
}

/// The values of `norm`, `[1]` in f64, and of `losses`, one number each: in one copy from a device that is far away.
fn read(norm: &Tensor, losses: &[&Tensor]) -> Result<Vec<f64>> {
    if norm.device().is_cuda() {
        let mut all = vec![norm.clone()];
        for loss in losses {
            all.push(loss.detach().reshape(1)?.to_dtype(DType::F64)?);
        }
        return Tensor::cat(&all, 0)?.to_vec1();
    }
    let losses = losses.iter().map(|loss| loss.to_scalar::<f32>().map(f64::from));
    norm.to_vec1()?.into_iter().map(Ok).chain(losses).collect()
}
