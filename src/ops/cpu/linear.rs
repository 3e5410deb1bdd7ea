//! Linear maps as products of rows and packed weights.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::product::epilogue::Epilogue;
use super::product::panels::{Panels, Strides};
use super::product::product;
use super::product::rows::{Beside, Matrix};
use super::room::room;
use super::simd::{Kernel, Vector, map, run};
use super::slices::{from_slices, with_slices};
use crate::ops::weight::Precision;

/// Maps `x` [..., in] to [..., out], of the shape `shape`, and adds `residual`. `weight` is W^T.
pub(crate) fn forward(
    x: &Tensor,
    weight: &Panels,
    bias: Option<&Tensor>,
    residual: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    let none = Tensor::zeros(0, x.dtype(), x.device())?;
    let inputs = [x, residual.unwrap_or(&none), bias.unwrap_or(&none)];
    from_slices(inputs, shape, |[x, residual, bias]| {
        rows_times(x, weight, Epilogue { bias, residual, ..Epilogue::default() })
    })
}

/// The gradient of the input, of the shape `shape`, from that of the result, and `residual` added to it.
pub(crate) fn backward(dy: &Tensor, weight: &Panels, residual: Option<&Tensor>, shape: &[usize]) -> Result<Tensor> {
    forward(dy, &turned(weight), None, residual, shape)
}

/// The right-hand side of the input gradient, in the precision of the map.
pub(crate) fn turned(weight: &Panels) -> Panels {
    let turned = weight.transposed();
    if weight.has_pairs() { turned.kept_for_products(Precision::Bf16) } else { turned }
}

/// What `f` makes of the values of `x` and a bias, which may be empty.
pub(super) fn with_bias<T>(x: &Tensor, bias: Option<&Tensor>, f: impl FnOnce(&[f32], &[f32]) -> T) -> Result<T> {
    match bias {
        Some(bias) => with_slices([x, bias], |[x, bias]| f(x, bias)),
        None => with_slices([x], |[x]| f(x, &[])),
    }
}

/// Rows `x` times a packed matrix.
pub(super) fn rows_times(x: &[f32], right: &Panels, epilogue: Epilogue) -> Vec<f32> {
    // SAFETY: the product writes all of it
    let mut y = unsafe { room(x.len() / right.k() * right.n()) };
    rows_times_into(&mut y, x, right, epilogue);
    y
}

/// The same into `y`.
pub(super) fn rows_times_into(y: &mut [f32], x: &[f32], right: &Panels, epilogue: Epilogue) {
    product(y, &Matrix::new(x, right.k()), right, epilogue);
}

/// W^T of a map that is trained, from W [out, in].
pub(crate) fn pack(weight: &Tensor) -> Result<Panels> {
    let (to, from) = weight.dims2()?;
    with_slices([weight], |[weight]| Panels::pack(weight, from, to, Strides { row: 1, column: from }))
}

/// Maps the matrices `parts` [..., in / N] side by side to [..., out].
pub(crate) fn beside<const N: usize>(
    parts: [&Tensor; N],
    weight: &Panels,
    bias: Option<&Tensor>,
    shape: &[usize],
) -> Result<Tensor> {
    let width = weight.k() / N;
    let none = Tensor::zeros(0, parts[0].dtype(), parts[0].device())?;
    with_slices([bias.unwrap_or(&none)], |[bias]| {
        from_slices(parts, shape, |parts| {
            // SAFETY: the product writes all of it
            let mut y = unsafe { room(parts[0].len() / width * weight.n()) };
            product(&mut y, &Beside { parts, width }, weight, Epilogue { bias, ..Epilogue::default() });
            y
        })
    })?
}

/// The gradient of part `i` of [`beside`], `like` it, from that of the result; `weight` is W [out, in].
pub(crate) fn beside_backward(dy: &Tensor, weight: &Tensor, i: usize, like: &Tensor) -> Result<Tensor> {
    let (to, from) = weight.dims2()?;
    let width = like.dim(D::Minus1)?;
    let strides = Strides { row: from, column: 1 };
    from_slices([dy, weight], like.shape(), |[dy, weight]| {
        rows_times(dy, &Panels::pack(&weight[i * width..], to, width, strides), Epilogue::default())
    })
}

/// dy^T x [out, in] of `x` [..., in] and `dy` [..., out].
pub(crate) fn weight_gradient(x: &Tensor, dy: &Tensor) -> Result<Tensor> {
    let (from, to) = (x.dim(D::Minus1)?, dy.dim(D::Minus1)?);
    let rows = x.elem_count() / from;
    let turned = dy.reshape((rows, to))?.t()?.contiguous()?;
    from_slices([x, &turned], (to, from), |[x, turned]| {
        rows_times(turned, &Panels::pack(x, rows, from, Strides { row: from, column: 1 }), Epilogue::default())
    })
}

/// Values that a task of column sums adds up.
const COLUMN_VALUES: usize = 16 << 10;

/// The sums `[n]` of the columns of `x` [..., n].
pub(crate) fn column_sums(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    from_slices([x], width, |[x]| {
        let rows = width * COLUMN_VALUES.div_ceil(width);
        let sums_of = |x: &[f32]| {
            let mut sums = vec![0f32; width];
            run(Columns { x, sums: &mut sums });
            sums
        };
        let parts: Vec<Vec<f32>> = x.par_chunks(rows).map(sums_of).collect();
        (0..width).map(|i| parts.iter().map(|part| f64::from(part[i])).sum::<f64>() as f32).collect()
    })
}

/// Adds rows to sums.
struct Columns<'a> {
    x: &'a [f32],
    sums: &'a mut [f32],
}

impl Kernel for Columns<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        for row in self.x.chunks_exact(self.sums.len()) {
            map!(V; sum in self.sums, x in row => sum.add(x));
        }
    }
}
