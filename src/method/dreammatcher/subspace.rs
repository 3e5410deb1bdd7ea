//! Principal directions of a covariance.

use candle_core::{Device, Result, Tensor};
use rand_distr::{Distribution, StandardNormal};

use crate::rng;

/// Matrices up to this side are taken apart exactly; of larger ones the leading subspace is iterated to.
const EXACT: usize = 128;
/// Times that a subspace is multiplied with the matrix. Two are common where the directions themselves are asked for.
const ITERATIONS: usize = 8;

/// An orthonormal basis [n, dims] of the `dims` leading eigenvectors of the symmetric matrix `values` [n, n].
///
/// # Errors
/// If a product cannot be computed.
pub(super) fn leading(values: Vec<f64>, n: usize, dims: usize) -> Result<Tensor> {
    let basis = if n <= EXACT { exact(values, n, dims) } else { iterated(values, n, dims)? };
    Tensor::from_vec(basis, (n, dims), &Device::Cpu)
}

/// Jacobi's method: rotations in the planes of two axes until nothing is left beside the diagonal.
fn exact(mut a: Vec<f64>, n: usize, dims: usize) -> Vec<f64> {
    let mut vectors = vec![0.; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.);
    let size: f64 = a.iter().map(|x| x * x).sum();
    for _sweep in 0..60 {
        let beside: f64 = (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum();
        if beside <= 1e-30 * size {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0. {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2. * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.).sqrt());
                let cos = 1. / (t * t + 1.).sqrt();
                let sin = t * cos;
                let turn = |m: &mut [f64], at: [usize; 2]| {
                    let (x, y) = (m[at[0]], m[at[1]]);
                    (m[at[0]], m[at[1]]) = (cos * x - sin * y, sin * x + cos * y);
                };
                (0..n).for_each(|k| turn(&mut a, [k * n + p, k * n + q]));
                (0..n).for_each(|k| turn(&mut a, [p * n + k, q * n + k]));
                (0..n).for_each(|k| turn(&mut vectors, [k * n + p, k * n + q]));
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    (0..n)
        .flat_map(|row| order[..dims].iter().map(move |&column| (row, column)))
        .map(|(i, j)| vectors[i * n + j])
        .collect()
}

/// Orthogonal iteration from a random start that is always the same.
fn iterated(values: Vec<f64>, n: usize, dims: usize) -> Result<Vec<f64>> {
    let matrix = Tensor::from_vec(values, (n, n), &Device::Cpu)?;
    let start = StandardNormal.sample_iter(rng::stream(0, "principal directions", n as u64)).take(n * dims);
    let mut basis = orthonormal(start.collect(), n, dims);
    for _ in 0..ITERATIONS {
        let grown = matrix.matmul(&Tensor::from_vec(basis, (n, dims), &Device::Cpu)?)?;
        basis = orthonormal(grown.flatten_all()?.to_vec1()?, n, dims);
    }
    Ok(basis)
}

/// The columns of [n, dims] made orthonormal, each against those before it, twice for the digits' sake.
fn orthonormal(columns: Vec<f64>, n: usize, dims: usize) -> Vec<f64> {
    let mut rows: Vec<Vec<f64>> = (0..dims).map(|j| (0..n).map(|i| columns[i * dims + j]).collect()).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for j in 0..dims {
        let (done, rest) = rows.split_at_mut(j);
        let row = &mut rest[0];
        for _ in 0..2 {
            for other in done.iter() {
                let along = dot(row, other);
                row.iter_mut().zip(other).for_each(|(x, y)| *x -= along * y);
            }
        }
        let length = dot(row, row).sqrt();
        // where the matrix has no more directions, nothing is lost without one
        row.iter_mut().for_each(|x| *x = if length > 0. { *x / length } else { 0. });
    }
    (0..n).flat_map(|i| rows.iter().map(move |row| row[i])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_lead_to_one_subspace() -> Result<()> {
        let (n, dims) = (40, 7);
        // eigenvalues 0.5^i in random directions
        let random: Vec<f64> = StandardNormal.sample_iter(rng::stream(0, "test", 0)).take(n * n).collect();
        let directions = Tensor::from_vec(orthonormal(random, n, n), (n, n), &Device::Cpu)?;
        let powers = Tensor::from_vec((0..n as i32).map(|i| 0.5f64.powi(i)).collect::<Vec<_>>(), (1, n), &Device::Cpu)?;
        let matrix = directions.broadcast_mul(&powers)?.matmul(&directions.t()?)?.flatten_all()?.to_vec1::<f64>()?;
        let truth = directions.narrow(1, 0, dims)?.contiguous()?;
        for basis in [exact(matrix.clone(), n, dims), iterated(matrix, n, dims)?] {
            let basis = Tensor::from_vec(basis, (n, dims), &Device::Cpu)?;
            // all of the truth lies within
            let inside = basis.t()?.contiguous()?.matmul(&truth)?.sqr()?.sum_all()?.to_scalar::<f64>()?;
            assert!((inside - dims as f64).abs() < 1e-4, "{inside}");
        }
        Ok(())
    }
}
