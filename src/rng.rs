//! Random numbers that depend on a seed and a purpose alone: not on the device, the number of threads
//! or what was drawn before. A resumed training draws what an uninterrupted one would have drawn.

use candle_core::{Device, Result, Shape, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use sha2::{Digest, Sha256};

/// The generator of one purpose, e.g. of training step 17.
pub fn stream(seed: u64, purpose: &str, index: u64) -> ChaCha8Rng {
    let digest = Sha256::new_with_prefix(seed.to_le_bytes()).chain_update(index.to_le_bytes()).chain_update(purpose);
    ChaCha8Rng::from_seed(digest.finalize().into())
}

/// Standard normal numbers in f32.
///
/// # Errors
/// If the device has no room.
pub fn normal(shape: impl Into<Shape>, rng: &mut ChaCha8Rng, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let values: Vec<f32> = StandardNormal.sample_iter(rng).take(shape.elem_count()).collect();
    Tensor::from_vec(values, shape, device)
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn streams_are_reproducible_and_apart() -> Result<()> {
        let draw = |seed, purpose, index| stream(seed, purpose, index).random::<u64>();
        assert_eq!(draw(1, "a", 2), draw(1, "a", 2));
        assert_ne!(draw(1, "a", 2), draw(1, "b", 2));
        assert_ne!(draw(1, "a", 2), draw(1, "a", 3));
        assert_ne!(draw(1, "a", 2), draw(2, "a", 2));
        let noise = normal(20_000, &mut stream(0, "n", 0), &Device::Cpu)?;
        let (mean, square) = (noise.mean_all()?.to_scalar::<f32>()?, noise.sqr()?.mean_all()?.to_scalar::<f32>()?);
        assert!(mean.abs() < 0.03 && (square - 1.).abs() < 0.05, "{mean} {square}");
        Ok(())
    }
}
