//! The arithmetic of one AdamW step on one variable.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::cpu::slices::{on_cpu, with_slices};

/// The constants of one step.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The gradient is multiplied by this.
    pub clip: f64,
    /// Decay rates of the two moments.
    pub betas: (f64, f64),
    /// 1 - beta^t of both.
    pub corrections: (f64, f64),
    /// Learning rate.
    pub learning_rate: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// The value is multiplied by this first.
    pub decay: f64,
}

/// Values per task of the CPU kernels.
const CHUNK: usize = 1 << 14;

/// The sum of the squares of `x`, in f64.
pub fn sum_of_squares(x: &Tensor) -> Result<f64> {
    if !on_cpu(x) {
        return Ok(x.sqr()?.sum_all()?.to_scalar::<f32>()? as f64);
    }
    with_slices([x], |[x]| {
        // sums of fixed chunks, added in order: the same whatever the number of threads
        let sums: Vec<f64> = x.par_chunks(CHUNK).map(|x| x.iter().map(|&x| x as f64 * x as f64).sum()).collect();
        sums.iter().sum()
    })
}

impl Update {
    /// New value and moments of a variable.
    pub fn apply(&self, value: &Tensor, grad: &Tensor, moments: &[Tensor; 2]) -> Result<[Tensor; 3]> {
        let [first, second] = moments;
        if !on_cpu(value) {
            let grad = (grad * self.clip)?;
            let first = ((first * self.betas.0)? + (&grad * (1. - self.betas.0))?)?;
            let second = ((second * self.betas.1)? + (grad.sqr()? * (1. - self.betas.1))?)?;
            let scale = ((&second / self.corrections.1)?.sqrt()? + self.eps)?;
            let change = ((&first * (self.learning_rate / self.corrections.0))? / scale)?;
            return Ok([((value.detach() * self.decay)? - change)?, first, second]);
        }
        let (betas, rate) = ((self.betas.0 as f32, self.betas.1 as f32), self.learning_rate / self.corrections.0);
        let (first_share, second_share) = ((1. - self.betas.0) as f32, (1. - self.betas.1) as f32);
        let (clip, rate, decay, eps) = (self.clip as f32, rate as f32, self.decay as f32, self.eps as f32);
        let root = self.corrections.1.sqrt() as f32;
        let outputs = with_slices([value, grad, first, second], |[value, grad, first, second]| {
            let (mut value, mut first, mut second) = (value.to_vec(), first.to_vec(), second.to_vec());
            let chunks = value.par_chunks_mut(CHUNK).zip(first.par_chunks_mut(CHUNK));
            chunks.zip(second.par_chunks_mut(CHUNK).zip(grad.par_chunks(CHUNK))).for_each(
                |((value, first), (second, grad))| {
                    for (((w, m), v), g) in value.iter_mut().zip(first).zip(second).zip(grad) {
                        let g = g * clip;
                        *m = *m * betas.0 + g * first_share;
                        *v = *v * betas.1 + g * g * second_share;
                        *w = *w * decay - rate * *m / (v.sqrt() / root + eps);
                    }
                },
            );
            [value, first, second]
        })?;
        let [value_out, first_out, second_out] = outputs;
        let tensor = |data: Vec<f32>| Tensor::from_vec(data, value.shape(), value.device());
        Ok([tensor(value_out)?, tensor(first_out)?, tensor(second_out)?])
    }
}
