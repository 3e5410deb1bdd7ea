//! The end of reference attention: two features mixed by a mask that was computed beside one of them.

use candle_core::{D, Result, Tensor};

use super::activation::clamp_unit;
use super::gradient::with_backward3;
use super::place::{Place, place};
use super::{cpu, cuda};

/// With [feature, mask] = `fused` [B, N, d + 1]: `x` + m feature + (1 - m) `own` [B, N, d], and m [B, N, 1], the mask
/// clamped to [0, 1]. The clamp's gradient is 1 on the closed interval (see [`clamp_unit`]).
///
/// # Errors
/// If shapes do not fit.
pub fn blend(fused: &Tensor, own: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (batch, length, width) = own.dims3()?;
    if fused.dims() != [batch, length, width + 1] || x.dims() != own.dims() {
        candle_core::bail!("{:?} to blend with {:?}, and {:?}", fused.dims(), own.dims(), x.dims());
    }
    match place(own) {
        Place::Cpu => {
            let kept = [fused.detach(), own.detach()];
            let (y, mask) = cpu::blend::forward(&kept[0], &kept[1], &x.detach())?;
            let y = with_backward3([fused, own, x], y, move |_, dy| {
                let (d_fused, d_own) = cpu::blend::backward(&kept[0], &kept[1], dy)?;
                Ok([Some(d_fused), Some(d_own), Some(dy.clone())])
            })?;
            Ok((y, mask))
        }
        Place::Cuda => {
            let kept = [fused.detach(), own.detach()];
            let (y, mask) = cuda::blend::forward(&kept[0], &kept[1], &x.detach())?;
            let y = with_backward3([fused, own, x], y, move |_, dy| {
                let (d_fused, d_own) = cuda::blend::backward(&kept[0], &kept[1], dy)?;
                Ok([Some(d_fused), Some(d_own), Some(dy.clone())])
            })?;
            Ok((y, mask))
        }
        Place::Composed => composed(fused, own, x),
    }
}

fn composed(fused: &Tensor, own: &Tensor, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let width = own.dim(D::Minus1)?;
    let mask = clamp_unit(&fused.narrow(D::Minus1, width, 1)?)?;
    let feature = fused.narrow(D::Minus1, 0, width)?;
    Ok(((x + (own + (feature - own)?.broadcast_mul(&mask)?)?)?, mask.detach()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Draw, assert_alike, assert_close, at_every_level};
    use super::*;

    #[test]
    fn kernel_equals_composed_operations() {
        at_every_level(|| {
            let draw = Draw::new("blend");
            let (batch, length, width) = (2, 21, 19);
            let fused = draw.variable(&[batch, length, width + 1], 0.7)?;
            let (own, x) = (draw.variable(&[batch, length, width], 0.7)?, draw.variable(&[batch, length, width], 0.7)?);
            let (fast, mask) = blend(&fused, &own, &x)?;
            let (slow, slow_mask) = composed(&fused, &own, &x)?;
            assert_close(&mask, &slow_mask, 1e-6, "mask")?;
            let shares = mask.mean_all()?.to_scalar::<f32>()?;
            assert!((0.1..0.9).contains(&shares), "both ends and the middle of the clamp are tested");
            assert_alike([&fast, &slow], &[&fused, &own, &x], &draw, 1e-5, "blend")
        });
    }
}
