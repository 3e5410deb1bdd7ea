//! Attention in blocks (Dao, "FlashAttention-2", 2023).
//!
//! A block of scores is turned to weights with the greatest score seen so far and used at once; of the
//! softmax, only the logarithm of each query's sum is kept.

mod backward;
mod forward;

use candle_core::{Result, Tensor};

use super::slices::with_slices;
use crate::ops::attention::Sizes;

/// What the backward pass needs beside the inputs and the result.
pub(crate) struct Kept {
    /// The logarithm of the softmax's sum [batch, heads, queries].
    log_sums: Vec<f32>,
    /// Each head's attention to the column [batch, heads, queries], if there is one.
    columns: Vec<f32>,
}

/// The result [batch, queries, width], with the column's attention as last channel if there is one.
pub(crate) fn forward(sizes: Sizes, [q, k, v]: [&Tensor; 3], column: Option<&Tensor>) -> Result<(Tensor, Kept)> {
    let none = Tensor::zeros(0, q.dtype(), q.device())?;
    let inputs = [q, k, v, column.unwrap_or(&none)];
    let (y, kept) = with_slices(inputs, |[q, k, v, column]| sizes.forward(q, k, v, column))?;
    let channels = sizes.width + column.is_some() as usize;
    Ok((Tensor::from_vec(y, (sizes.batch, sizes.queries, channels), q.device())?, kept))
}

/// Gradients of q, k and v, from the result `y` and its gradient.
pub(crate) fn backward(
    sizes: Sizes,
    inputs: [&Tensor; 3],
    column: Option<&Tensor>,
    kept: &Kept,
    [y, dy]: [&Tensor; 2],
) -> Result<[Tensor; 3]> {
    let [q, k, v] = inputs;
    let none = Tensor::zeros(0, q.dtype(), q.device())?;
    let inputs = [q, k, v, column.unwrap_or(&none), y, dy];
    let [dq, dk, dv] = with_slices(inputs, |[q, k, v, column, y, dy]| sizes.backward([q, k, v], column, kept, y, dy))?;
    let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
    Ok([tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?])
}

/// The rows of sample `b` of `data`, from the first column of head `h` on.
fn head_rows<'a>(sizes: &Sizes, data: &'a [f32], rows: usize, (b, h): (usize, usize)) -> &'a [f32] {
    &data[b * rows * sizes.width + h * sizes.head()..]
}
