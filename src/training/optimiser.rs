//! AdamW with clipping of the common gradient norm, and a state that can be saved.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, Var};

use crate::ops::adamw;

/// The optimiser's constants (PyTorch's names and defaults).
#[derive(Clone, Copy, Debug)]
pub struct AdamWSettings {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// The norm of all gradients together is clipped to this; infinite: it is not.
    pub max_grad_norm: f64,
}

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

    /// One step along the gradients; returns their norm before clipping.
    ///
    /// # Errors
    /// If a variable has no gradient: training would silently leave it behind.
    pub fn step(&mut self, grads: &GradStore) -> Result<f64> {
        let mut square = 0.;
        for (name, variable) in &self.variables {
            let Some(grad) = grads.get(variable) else { candle_core::bail!("{name} received no gradient") };
            square += adamw::sum_of_squares(grad)?;
        }
        let norm = square.sqrt();
        if !norm.is_finite() {
            candle_core::bail!("the gradient is not finite after {} steps: lower the learning rate", self.steps);
        }
        self.steps += 1;
        let AdamWSettings { learning_rate, betas, eps, weight_decay, max_grad_norm } = self.settings;
        let update = adamw::Update {
            clip: (max_grad_norm / (norm + 1e-6)).min(1.),
            betas,
            corrections: (1. - betas.0.powi(self.steps as i32), 1. - betas.1.powi(self.steps as i32)),
            learning_rate,
            eps,
            decay: 1. - learning_rate * weight_decay,
        };
        for (name, variable) in &self.variables {
            let Some(grad) = grads.get(variable) else { continue };
            let Some(pair) = self.moments.get_mut(name) else { continue };
            let [value, first, second] = update.apply(variable.as_tensor(), grad, pair)?;
            variable.set(&value)?;
            *pair = [first, second];
        }
        Ok(norm)
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
