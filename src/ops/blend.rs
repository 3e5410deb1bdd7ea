//! The end of reference attention: two features mixed by a mask that was computed beside one of them.

use candle_core::{D, Result, Tensor};
use rayon::prelude::*;

use super::activation::clamp_unit;
use super::cpu::product::panels::buffer;
use super::cpu::simd::{Kernel, Vector, map, run, total};
use super::cpu::slices::{on_cpu, with_slices};
use super::gradient::with_backward3;

/// Rows that a task takes at least.
const LEAST_ROWS: usize = 16;

/// With [feature, mask] = `fused` [B, N, d + 1]: `x` + m feature + (1 - m) `own` [B, N, d], and m [B, N, 1], the mask
/// clamped to [0, 1]. The clamp's gradient is 1 on the closed interval (see [`clamp_unit`]).
pub fn blend(fused: &Tensor, own: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (batch, length, width) = own.dims3()?;
    if fused.dims() != [batch, length, width + 1] || x.dims() != own.dims() {
        candle_core::bail!("{:?} to blend with {:?}, and {:?}", fused.dims(), own.dims(), x.dims());
    }
    if !on_cpu(own) {
        let mask = clamp_unit(&fused.narrow(D::Minus1, width, 1)?)?;
        let feature = fused.narrow(D::Minus1, 0, width)?;
        return Ok(((x + (own + (feature - own)?.broadcast_mul(&mask)?)?)?, mask.detach()));
    }
    let kept = [fused.detach(), own.detach()];
    let (y, mask) = with_slices([&kept[0], &kept[1], &x.detach()], |[fused, own, x]| {
        let (mut y, mut mask) = (buffer(own.len()), buffer(batch * length));
        let rows = y.par_chunks_mut(width).zip(&mut mask).with_min_len(LEAST_ROWS);
        let given = fused.par_chunks(width + 1).zip(own.par_chunks(width)).zip(x.par_chunks(width));
        rows.zip(given).for_each(|((y, mask), ((fused, own), x))| {
            *mask = fused[width].clamp(0., 1.);
            run(Blend { fused, own, x, mask: *mask, y });
        });
        (y, mask)
    })?;
    let y = Tensor::from_vec(y, own.shape(), own.device())?;
    let mask = Tensor::from_vec(mask, (batch, length, 1), own.device())?;

    let y = with_backward3([fused, own, x], y, move |_, dy| {
        let (d_fused, d_own) = with_slices([&kept[0], &kept[1], dy], |[fused, own, dy]| {
            let (mut d_fused, mut d_own) = (buffer(fused.len()), buffer(own.len()));
            let rows = d_fused.par_chunks_mut(width + 1).zip(d_own.par_chunks_mut(width)).with_min_len(LEAST_ROWS);
            let given = fused.par_chunks(width + 1).zip(own.par_chunks(width)).zip(dy.par_chunks(width));
            rows.zip(given).for_each(|((d_fused, d_own), ((fused, own), dy))| {
                run(BlendBackward { fused, own, dy, d_fused, d_own });
            });
            (d_fused, d_own)
        })?;
        let d_fused = Tensor::from_vec(d_fused, kept[0].shape(), dy.device())?;
        Ok([Some(d_fused), Some(Tensor::from_vec(d_own, dy.shape(), dy.device())?), Some(dy.clone())])
    })?;
    Ok((y, mask))
}

/// One row.
struct Blend<'a> {
    fused: &'a [f32],
    own: &'a [f32],
    x: &'a [f32],
    mask: f32,
    y: &'a mut [f32],
}

impl Kernel for Blend<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mask = V::splat(self.mask);
        map!(V; _y in self.y, fused in self.fused, own in self.own, x in self.x => {
            x.add(fused.sub(own).fma(mask, own))
        });
    }
}

/// One row's gradients.
struct BlendBackward<'a> {
    fused: &'a [f32],
    own: &'a [f32],
    dy: &'a [f32],
    d_fused: &'a mut [f32],
    d_own: &'a mut [f32],
}

impl Kernel for BlendBackward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { fused, own, dy, d_fused, d_own } = self;
        let width = own.len();
        let raw = fused[width];
        let mask = V::splat(raw.clamp(0., 1.));
        map!(V; _d in &mut d_fused[..width], dy in dy => dy.mul(mask));
        map!(V; _d in d_own, dy in dy => dy.sub(dy.mul(mask)));
        let fused = &fused[..width];
        d_fused[width] = if (0. ..=1.).contains(&raw) {
            total!(V; fused in fused, own in own, dy in dy => fused.sub(own).mul(dy))
        } else {
            0.
        };
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    #[test]
    fn kernel_equals_composed_operations() -> Result<()> {
        let (batch, length, width) = (2, 21, 19);
        let random = |shape: &[usize]| Var::from_tensor(&Tensor::randn(0f32, 0.7, shape, &Device::Cpu)?);
        let fused = random(&[batch, length, width + 1])?;
        let (own, x) = (random(&[batch, length, width])?, random(&[batch, length, width])?);
        let dy = Tensor::randn(0f32, 1., (batch, length, width), &Device::Cpu)?;
        let slow_mask = clamp_unit(&fused.narrow(2, width, 1)?)?;
        let mixed = (fused.narrow(2, 0, width)? - own.as_tensor())?.broadcast_mul(&slow_mask)?;
        let slow = (x.as_tensor() + (own.as_tensor() + mixed)?)?;
        let (fast, mask) = blend(&fused, &own, &x)?;
        let gap = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f32>();
        assert!(gap(&fast, &slow)? < 1e-5 && gap(&mask, &slow_mask)? < 1e-6);
        let shares = mask.sum_all()?.to_scalar::<f32>()? / (batch * length) as f32;
        assert!((0.1..0.9).contains(&shares), "both ends and the middle of the clamp are tested");
        for variable in [&fused, &own, &x] {
            let grad =
                |y: &Tensor| -> Result<Tensor> { Ok((y * &dy)?.sum_all()?.backward()?.get(variable).unwrap().clone()) };
            assert!(gap(&grad(&fast)?, &grad(&slow)?)? < 2e-5);
        }
        Ok(())
    }
}
