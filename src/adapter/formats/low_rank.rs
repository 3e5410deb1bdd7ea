//! Matrices as products of narrow ones: the singular value decomposition, as far as its first values go.
//!
//! A random range is found and sharpened by power iterations (Halko, Martinsson and Tropp 2011, algorithm 4.4); what the
//! matrix is within it is decomposed by one-sided Jacobi rotations. All in f64.

use candle_core::{DType, Device, Result, Tensor};

use crate::rng;

/// Directions beyond the rank, so that those within are found well.
const SPARE: usize = 10;
/// Power iterations: each multiplies the gap between singular values by itself.
const ITERATIONS: usize = 6;
/// Sweeps of rotations; a few are enough, since each makes the next one's work quadratically smaller.
const SWEEPS: usize = 30;
/// Rows whose cosine is smaller count as orthogonal.
const ORTHOGONAL: f64 = 1e-13;

/// Two factors of a matrix.
pub(super) struct LowRank {
    /// [m, r].
    pub(super) up: Tensor,
    /// [r, n].
    pub(super) down: Tensor,
}

/// The factors of `matrix` [m, n] with r = `rank`, whose product is nearest to it. Both carry the root of the singular
/// values, so that neither is large; beyond the matrix's lesser side they are zero.
///
/// # Errors
/// If the matrix is not one of floats.
pub(super) fn low_rank(matrix: &Tensor, rank: usize) -> Result<LowRank> {
    let a = matrix.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
    let (m, n) = a.dims2()?;
    let there = rank.min(m).min(n);
    let width = (there + SPARE).min(m).min(n);
    let start = rng::normal((width, n), &mut rng::stream(0, "low rank", 0), &Device::Cpu)?.to_dtype(DType::F64)?;
    let transposed = a.t()?.contiguous()?;
    let mut range = orthonormal(&start.matmul(&transposed)?)?;
    for _ in 0..ITERATIONS {
        range = orthonormal(&orthonormal(&range.matmul(&a)?)?.matmul(&transposed)?)?;
    }
    let mut left = range.to_vec2::<f64>()?;
    let mut right = range.matmul(&a)?.to_vec2::<f64>()?;
    rotate(&mut left, &mut right);
    let mut values: Vec<(f64, usize)> = right.iter().map(|row| dot(row, row).sqrt()).zip(0..).collect();
    values.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut up, mut down) = (Vec::with_capacity(rank * m), Vec::with_capacity(rank * n));
    for &(value, i) in &values[..there] {
        let root = value.sqrt();
        up.extend(left[i].iter().map(|x| x * root));
        down.extend(right[i].iter().map(|x| if root > 0. { x / root } else { 0. }));
    }
    up.resize(rank * m, 0.);
    down.resize(rank * n, 0.);
    let up = Tensor::from_vec(up, (rank, m), &Device::Cpu)?.t()?.contiguous()?;
    let down = Tensor::from_vec(down, (rank, n), &Device::Cpu)?;
    Ok(LowRank { up: up.to_dtype(DType::F32)?, down: down.to_dtype(DType::F32)? })
}

/// Makes the rows of `right` orthogonal by rotations of pairs, and rotates those of `left` along.
fn rotate(left: &mut [Vec<f64>], right: &mut [Vec<f64>]) {
    for _ in 0..SWEEPS {
        let mut turned = false;
        for i in 0..right.len() {
            for j in i + 1..right.len() {
                let (a, b, c) = (dot(&right[i], &right[i]), dot(&right[j], &right[j]), dot(&right[i], &right[j]));
                if c.abs() <= ORTHOGONAL * (a * b).sqrt() {
                    continue;
                }
                turned = true;
                let zeta = (b - a) / (2. * c);
                let tangent = zeta.signum() / (zeta.abs() + (1. + zeta * zeta).sqrt());
                let cosine = 1. / (1. + tangent * tangent).sqrt();
                for rows in [&mut *left, &mut *right] {
                    let (before, after) = rows.split_at_mut(j);
                    for (x, y) in before[i].iter_mut().zip(&mut after[0]) {
                        (*x, *y) = (cosine * (*x - tangent * *y), cosine * (*y + tangent * *x));
                    }
                }
            }
        }
        if !turned {
            return;
        }
    }
}

/// Orthonormal rows that span those of `rows` (Gram and Schmidt, twice); rows that add nothing become zero.
fn orthonormal(rows: &Tensor) -> Result<Tensor> {
    let shape = rows.dims2()?;
    let mut rows = rows.to_vec2::<f64>()?;
    for i in 0..rows.len() {
        let (done, rest) = rows.split_at_mut(i);
        let row = &mut rest[0];
        let whole = dot(row, row).sqrt();
        for _ in 0..2 {
            for other in done.iter() {
                let share = dot(other, row);
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= share * y);
            }
        }
        let left = dot(row, row).sqrt();
        let scale = if left > 1e-12 * whole { 1. / left } else { 0. };
        row.iter_mut().for_each(|x| *x *= scale);
    }
    Tensor::from_vec(rows.concat(), shape, &Device::Cpu)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(matrix: &Tensor, rank: usize) -> Result<f32> {
        let LowRank { up, down } = low_rank(matrix, rank)?;
        assert_eq!([up.dim(1)?, down.dim(0)?], [rank; 2]);
        (up.matmul(&down)? - matrix)?.sqr()?.sum_all()?.sqrt()?.to_scalar()
    }

    /// A matrix with those singular values.
    fn matrix(values: &[f64], m: usize, n: usize) -> Result<Tensor> {
        let side = |rows: usize, length: usize, index| {
            let normal = rng::normal((rows, length), &mut rng::stream(1, "test", index), &Device::Cpu)?;
            orthonormal(&normal.to_dtype(DType::F64)?)
        };
        let k = values.len();
        let (left, right) = (side(k, m, 0)?, side(k, n, 1)?);
        let scale = Tensor::from_slice(values, (k, 1), &Device::Cpu)?;
        left.t()?.matmul(&right.broadcast_mul(&scale)?)?.to_dtype(DType::F32)
    }

    #[test]
    fn nothing_nearer_has_that_rank() -> Result<()> {
        // slowly falling, with equal ones among them
        let values: Vec<f64> = (0..20).map(|i| 0.8f64.powi(i / 2)).collect();
        for (m, n) in [(40, 24), (24, 40)] {
            let matrix = matrix(&values, m, n)?;
            for rank in [1, 4, 8, 20, 24, 99] {
                let best = values.iter().skip(rank).map(|x| x * x).sum::<f64>().sqrt();
                let gap = f64::from(gap(&matrix, rank)?);
                assert!(gap <= best * 1.0001 + 1e-5, "{m}x{n} rank {rank}: {gap} instead of {best}");
            }
        }
        Ok(())
    }

    #[test]
    fn nothing_comes_of_nothing() -> Result<()> {
        assert_eq!(gap(&Tensor::zeros((5, 7), DType::F32, &Device::Cpu)?, 3)?, 0.);
        Ok(())
    }
}
