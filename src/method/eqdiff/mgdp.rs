//! MGDP, the mask-guided diffusion process: only the subject is noised, only the subject counts in the
//! loss (equations 6 and 7).

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// What the subject's mask is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guidance {
    /// Nothing: the plain denoising loss.
    Off,
    /// The loss alone (masked diffusion loss).
    LossOnly,
    /// The noise and the loss.
    #[default]
    MaskGuided,
}

/// What the masked error is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Average {
    /// The mask's area, as in the released code: a small subject counts as much as a large one.
    #[default]
    Area,
    /// The picture's: the plain mean of equation 7.
    Picture,
}

/// Settings of MGDP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mgdp {
    /// What the mask is used for.
    pub mask: Guidance,
    /// Dilations of the mask at 64x64 latents; other sides scale it, at least one.
    pub dilations: usize,
    /// What the masked error is divided by.
    #[serde(default)]
    pub average: Average,
}

impl Mgdp {
    /// Number of dilations at a latent side.
    pub fn dilations_at(&self, side: usize) -> usize {
        if self.dilations == 0 { 0 } else { ((self.dilations * side) as f64 / 64.).round().max(1.) as usize }
    }
}

/// z'_t = M z_t + (1 - M) z_0, all [B, 4, h, w] but M [B, 1, h, w].
///
/// # Errors
/// If shapes do not fit.
pub fn masked_noise(mask: &Tensor, noisy: &Tensor, clean: &Tensor) -> Result<Tensor> {
    clean + (noisy - clean)?.broadcast_mul(mask)?
}

/// The squared error [B, 4, h, w] of each sample inside its mask [B, 1, h, w], averaged: `[B]`. The mask has one channel
/// and the error four, so divided by the mask's area it is four times a mean. An empty mask has no loss.
///
/// # Errors
/// If shapes do not fit.
pub fn masked_loss(error: &Tensor, mask: &Tensor, average: Average) -> Result<Tensor> {
    let inside = error.broadcast_mul(mask)?;
    match average {
        Average::Area => inside.sum((1, 2, 3))? / mask.sum((1, 2, 3))?.maximum(1f32)?, // masks are 0 or 1
        Average::Picture => inside.mean((1, 2, 3)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_mask_divides_by_nothing() -> Result<()> {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu);
        let (error, mask) = ((zeros(&[2, 4, 2, 2])? + 3.)?, zeros(&[2, 1, 2, 2])?);
        let loss = |mask: &Tensor, average| masked_loss(&error, mask, average)?.to_vec1::<f32>();
        assert_eq!([loss(&mask, Average::Area)?, loss(&mask, Average::Picture)?], [[0.; 2]; 2]);
        let full = (mask + 1.)?;
        assert_eq!([loss(&full, Average::Area)?, loss(&full, Average::Picture)?], [[12.; 2], [3.; 2]]);
        Ok(())
    }

    #[test]
    fn dilations_scale_with_the_latents() {
        let mgdp = Mgdp { mask: Guidance::MaskGuided, dilations: 5, average: Average::Area };
        assert_eq!([4, 16, 64, 128].map(|side| mgdp.dilations_at(side)), [1, 1, 5, 10]);
    }
}
