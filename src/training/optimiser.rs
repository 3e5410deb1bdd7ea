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
    /// How many times the learning rate a variable is trained with, where that is not 1.
    multipliers: BTreeMap<String, f64>,
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
        Ok(Self { settings, variables, moments, multipliers: BTreeMap::new(), steps })
    }

    /// The same with as many times the learning rate for each variable as `multiplier` says of its name.
    pub fn multiplied(self, multiplier: impl Fn(&str) -> f64) -> Self {
        Self { multipliers: self.variables.keys().map(|name| (name.clone(), multiplier(name))).collect(), ..self }
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
            let multiplier = self.multipliers.get(name).copied().unwrap_or(1.);
            trained.push(adamw::Trained { value, grad, moments, multiplier });
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn a_multiplier_is_of_one_variable_alone() -> Result<()> {
        let settings = |learning_rate| AdamWSettings {
            learning_rate,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.1,
            max_grad_norm: f64::INFINITY,
        };
        let stepped = |learning_rate, multiplier: fn(&str) -> f64| -> Result<Vec<Vec<f32>>> {
            let variable = || Var::new(&[1f32, -2., 3.], &Device::Cpu);
            let variables = BTreeMap::from([("a".to_string(), variable()?), ("b".to_string(), variable()?)]);
            let mut optimiser =
                AdamW::new(variables.clone(), settings(learning_rate), 0, BTreeMap::new())?.multiplied(multiplier);
            for _ in 0..3 {
                let loss = (variables["a"].sqr()?.sum_all()? + variables["b"].sqr()?.sum_all()?)?;
                optimiser.step(&loss.backward()?, &[])?;
            }
            variables.values().map(|variable| variable.to_vec1()).collect()
        };
        let plain = stepped(1e-2, |_| 1.)?;
        let faster = stepped(5e-2, |_| 1.)?;
        let mixed = stepped(1e-2, |name| if name == "b" { 5. } else { 1. })?;
        assert_eq!(mixed[0], plain[0]);
        assert_eq!(mixed[1], faster[1]);
        Ok(())
    }
}
