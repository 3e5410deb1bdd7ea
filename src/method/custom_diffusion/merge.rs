//! Several customisations in one: Custom Diffusion's closed form (Kumari et al. 2023, section 3.3), which keeps what each
//! does to the words of its own subject, and otherwise stays as near to the base as it can.

use candle_core::{DType, Device, Result, Tensor, bail};

/// Of the trace of the regularising states' products, so much is added to its diagonal: there may be fewer states than
/// values in one.
const RIDGE: f64 = 1e-4;

/// What regularises: the inverse of the products of the states [m, d] of many captions.
pub struct Regularised {
    /// Rows of the lower triangle L, of which L L^T is the matrix.
    factor: Vec<Vec<f64>>,
}

impl Regularised {
    /// That of the states [m, d] of words of many captions.
    ///
    /// # Errors
    /// If they are no matrix, or all zero.
    pub fn of(states: &Tensor) -> Result<Self> {
        let states = states.to_device(&Device::Cpu)?.to_dtype(DType::F64)?;
        let mut products = states.t()?.matmul(&states)?.to_vec2::<f64>()?;
        let width = products.len();
        let ridge = RIDGE * (0..width).map(|i| products[i][i]).sum::<f64>() / width.max(1) as f64;
        (0..width).for_each(|i| products[i][i] += ridge);
        Ok(Self { factor: cholesky(products)? })
    }

    /// `weight` [o, d] changed as little as can be on the states of other captions, so that it makes `wanted` [n, o] of
    /// `states` [n, d].
    ///
    /// # Errors
    /// If shapes do not fit, or the states depend on each other.
    pub fn merged(&self, weight: &Tensor, states: &Tensor, wanted: &Tensor) -> Result<Tensor> {
        let on_cpu = |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64);
        let (w, c, v) = (on_cpu(weight)?, on_cpu(states)?, on_cpu(wanted)?);
        let rows = c.to_vec2::<f64>()?.iter().map(|row| solved(&self.factor, row)).collect::<Vec<_>>();
        let (count, width) = c.dims2()?;
        // d = C (C_reg^T C_reg)^-1, whose product with C^T is symmetric
        let d = Tensor::from_vec(rows.concat(), (count, width), &Device::Cpu)?;
        let mut products = d.matmul(&c.t()?)?.to_vec2::<f64>()?;
        let ridge = 1e-9 * (0..count).map(|i| products[i][i]).sum::<f64>() / count.max(1) as f64;
        (0..count).for_each(|i| products[i][i] += ridge);
        let factor = cholesky(products)?;
        // what is missing of the wanted values, for each output
        let missing = (v - c.matmul(&w.t()?)?)?.t()?.to_vec2::<f64>()?;
        let shares: Vec<f64> = missing.iter().flat_map(|row| solved(&factor, row)).collect();
        let shares = Tensor::from_vec(shares, (w.dim(0)?, count), &Device::Cpu)?;
        (w + shares.matmul(&d)?)?.to_dtype(weight.dtype())?.to_device(weight.device())
    }
}

/// The lower triangle L of a symmetric positive matrix L L^T.
fn cholesky(matrix: Vec<Vec<f64>>) -> Result<Vec<Vec<f64>>> {
    let mut factor: Vec<Vec<f64>> = Vec::with_capacity(matrix.len());
    for (i, row) in matrix.iter().enumerate() {
        let mut own = Vec::with_capacity(i + 1);
        for j in 0..=i {
            let above = if j < i { &factor[j] } else { &own };
            let left = row[j] - own.iter().zip(above).take(j).map(|(a, b)| a * b).sum::<f64>();
            if j < i {
                own.push(left / factor[j][j]);
            } else if left > 0. {
                own.push(left.sqrt());
            } else {
                bail!("the subjects' words cannot be told apart");
            }
        }
        factor.push(own);
    }
    Ok(factor)
}

/// x of L L^T x = `right`.
fn solved(factor: &[Vec<f64>], right: &[f64]) -> Vec<f64> {
    let mut x = Vec::with_capacity(right.len());
    for (row, value) in factor.iter().zip(right) {
        let left = value - row.iter().zip(&x).map(|(a, b)| a * b).sum::<f64>();
        x.push(left / row[x.len()]);
    }
    for i in (0..x.len()).rev() {
        let below: f64 = (i + 1..x.len()).map(|j| factor[j][i] * x[j]).sum();
        x[i] = (x[i] - below) / factor[i][i];
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    fn normal(shape: (usize, usize), index: u64) -> Result<Tensor> {
        rng::normal(shape, &mut rng::stream(5, "merge", index), &Device::Cpu)
    }

    fn gap(a: &Tensor, b: &Tensor) -> Result<f32> {
        (a - b)?.abs()?.max_all()?.to_scalar::<f32>()
    }

    #[test]
    fn wanted_values_are_reached_and_the_rest_hardly_moves() -> Result<()> {
        let (weight, captions, states) = (normal((6, 12), 0)?, normal((200, 12), 1)?, normal((3, 12), 2)?);
        let wanted = normal((3, 6), 3)?;
        let merged = Regularised::of(&captions)?.merged(&weight, &states, &wanted)?;
        assert!(gap(&states.matmul(&merged.t()?)?, &wanted)? < 1e-4);
        // no other change that reaches them moves the captions less: the constraint's own direction is the cheapest
        let moved = |merged: &Tensor| -> Result<f32> {
            captions.matmul(&(merged - &weight)?.t()?)?.sqr()?.sum_all()?.to_scalar::<f32>()
        };
        let own = moved(&merged)?;
        // along the null space of the states
        let products = states.matmul(&states.t()?)?.to_vec2::<f32>()?;
        let factor = cholesky(products.iter().map(|row| row.iter().map(|&x| x.into()).collect()).collect())?;
        for index in 10..16 {
            let change = normal((6, 12), index)?;
            let on_states = change.matmul(&states.t()?)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
            let shares: Vec<f32> =
                on_states.iter().flat_map(|row| solved(&factor, row)).map(|share| share as f32).collect();
            let back = Tensor::from_vec(shares, (6, 3), &Device::Cpu)?.matmul(&states)?;
            let other = (&merged + ((change - back)? * 0.05)?)?;
            assert!(gap(&states.matmul(&other.t()?)?, &wanted)? < 1e-3);
            assert!(moved(&other)? > own, "{index}");
        }
        Ok(())
    }

    #[test]
    fn nothing_to_reach_changes_nothing() -> Result<()> {
        let (weight, captions, states) = (normal((5, 8), 0)?, normal((40, 8), 1)?, normal((2, 8), 2)?);
        let wanted = states.matmul(&weight.t()?)?;
        assert!(gap(&Regularised::of(&captions)?.merged(&weight, &states, &wanted)?, &weight)? < 1e-5);
        assert!(Regularised::of(&Tensor::zeros((3, 4), DType::F32, &Device::Cpu)?).is_err());
        Ok(())
    }
}
