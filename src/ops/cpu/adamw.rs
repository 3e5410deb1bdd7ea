//! AdamW over the values of one variable.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::slices::with_slices;
use crate::ops::adamw::Update;

/// Values per task.
const CHUNK: usize = 1 << 14;

/// The sum of the squares of `x`.
pub(crate) fn sum_of_squares(x: &Tensor) -> Result<f64> {
    with_slices([x], |[x]| {
        // sums of fixed chunks, added in order: the same whatever the number of threads
        let sums: Vec<f64> = x.par_chunks(CHUNK).map(|x| x.iter().map(|&x| x as f64 * x as f64).sum()).collect();
        sums.iter().sum()
    })
}

/// New value and moments of a variable.
pub(crate) fn update(
    update: &Update,
    value: &Tensor,
    grad: &Tensor,
    [first, second]: &[Tensor; 2],
) -> Result<[Tensor; 3]> {
    let Update { clip, betas, corrections, learning_rate, eps, decay } = *update;
    let (first_share, second_share) = ((1. - betas.0) as f32, (1. - betas.1) as f32);
    let (betas, rate) = ((betas.0 as f32, betas.1 as f32), (learning_rate / corrections.0) as f32);
    let (clip, decay, eps, root) = (clip as f32, decay as f32, eps as f32, corrections.1.sqrt() as f32);
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
