//! Samplers: how latents come from noise, given what the denoiser predicts. A file each.

mod ddim;

use candle_core::{Result, Tensor};

pub use ddim::Ddim;

/// A way from noise to latents.
pub trait Sampler {
    /// The timesteps that the denoiser is asked at, in order.
    fn timesteps(&self) -> &[usize];

    /// The latents after step `i`, given those before it and the noise predicted in them, all [B, 4, h, w].
    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor) -> Result<Tensor>;
}
