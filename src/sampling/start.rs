//! Drawing that starts from a picture instead of noise alone: image to image (SDEdit, Meng et al. 2022), and inpainting.

use anyhow::Result;
use candle_core::Tensor;
use image::{GrayImage, RgbImage, imageops};

use super::samplers::Sampler;
use crate::base::Base;
use crate::images::{self, Mask, resized_mask};
use crate::model::scheduler::Level;

/// A picture that drawing starts from.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The picture, of the size that is drawn.
    pub picture: &'a RgbImage,
    /// How much of the way from noise is gone: 1 leaves nothing of the picture, 0 everything.
    pub strength: f64,
    /// Where it is drawn anew (255), of the picture's size; everything else stays. None: everywhere.
    pub anew: Option<&'a GrayImage>,
}

impl Start<'_> {
    /// The first of `steps` steps that is taken, counted as diffusers does; there may be none.
    pub fn first(&self, steps: usize) -> usize {
        steps - ((steps as f64 * self.strength) as usize).min(steps)
    }

    /// As the denoiser takes it.
    ///
    /// # Errors
    /// If the picture cannot be encoded.
    pub(super) fn inside(&self, base: &Base) -> Result<Inside> {
        let posterior = base.vae.encode(&images::to_tensor(self.picture, &base.device)?)?;
        let clean = (&posterior.mean * base.vae.config.scaling_factor)?;
        let (_, _, height, width) = clean.dims4()?;
        let anew = self.anew.map(|mask| Mask::from_gray(&resized_mask(mask, width as u32, height as u32)));
        let covers = anew.is_some() && self.strength >= 1.;
        Ok(Inside { clean, anew: anew.map(|mask| mask.tensor(&base.device)).transpose()?, covers })
    }

    /// `drawn` with what stays of the picture, its own pixels; the seam is as soft as `width` pixels.
    pub(super) fn laid_over(&self, drawn: RgbImage, width: usize) -> RgbImage {
        let Some(anew) = self.anew else { return drawn };
        let soft = imageops::blur(anew, width as f32 / 2.);
        let mut laid = self.picture.clone();
        for ((own, new), (level, seam)) in laid.pixels_mut().zip(drawn.pixels()).zip(anew.iter().zip(soft.iter())) {
            // outside the mask nothing changes
            let share = if *level > 127 { u32::from(*seam) } else { 0 };
            for (own, new) in own.0.iter_mut().zip(new.0) {
                *own = ((u32::from(*own) * (255 - share) + u32::from(new) * share + 127) / 255) as u8;
            }
        }
        laid
    }
}

/// The latents of a picture that drawing starts from.
pub struct Inside {
    /// Scaled, without noise [1, 4, h, w].
    pub clean: Tensor,
    /// 1 where they are drawn anew [1, 1, h, w]; none: everywhere.
    pub anew: Option<Tensor>,
    /// Whether nothing of what is drawn over shall shine through.
    pub covers: bool,
}

impl Inside {
    /// What drawing starts from at step `first`, given noise: diffusers' pipelines do the same.
    pub(super) fn noisy(&self, noise: &Tensor, sampler: &dyn Sampler, first: usize) -> Result<Tensor> {
        Ok(match sampler.timesteps().len() - first {
            0 => self.clean.clone(),
            _ if self.covers => begun(noise, sampler)?,
            _ => sampler.level(first).mixed(&self.clean, noise)?,
        })
    }

    /// `latents` after step `i`, with those of the picture at their level where it stays.
    pub(super) fn kept(&self, latents: Tensor, noise: &Tensor, sampler: &dyn Sampler, i: usize) -> Result<Tensor> {
        let Some(anew) = &self.anew else { return Ok(latents) };
        let is_last = i + 1 == sampler.timesteps().len();
        let level = if is_last { Level::CLEAN } else { sampler.level(i + 1) };
        let own = level.mixed(&self.clean, noise)?;
        Ok((latents.broadcast_mul(anew)? + own.broadcast_mul(&(1. - anew)?)?)?)
    }
}

/// Noise at the level that a sampler starts from.
pub(super) fn begun(noise: &Tensor, sampler: &dyn Sampler) -> Result<Tensor> {
    let share = sampler.first();
    Ok(if share == 1. { noise.clone() } else { (noise * share)? })
}

/// Noise between that of a picture and another, on the sphere on which normal noise lies: the first where `share` is 0,
/// the other where it is 1.
///
/// # Errors
/// If shapes do not fit.
pub fn between(one: &Tensor, other: &Tensor, share: f64) -> candle_core::Result<Tensor> {
    let product = |a: &Tensor, b: &Tensor| (a * b)?.sum_all()?.to_scalar::<f32>().map(f64::from);
    let cosine = product(one, other)? / (product(one, one)? * product(other, other)?).sqrt();
    let angle = cosine.clamp(-1., 1.).acos();
    if angle.sin().abs() < 1e-4 {
        return (one * (1. - share))? + (other * share)?;
    }
    let [a, b] = [1. - share, share].map(|share| (share * angle).sin() / angle.sin());
    (one * a)? + (other * b)?
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use image::{Luma, Rgb};

    use super::*;
    use crate::rng;

    #[test]
    fn steps_are_counted_as_in_diffusers() {
        let picture = RgbImage::new(1, 1);
        for (strength, steps, first) in
            [(1., 50, 0), (0.8, 50, 10), (0.75, 25, 7), (0.3, 4, 3), (0.1, 4, 4), (0., 4, 4)]
        {
            assert_eq!(Start { picture: &picture, strength, anew: None }.first(steps), first, "{strength} of {steps}");
        }
    }

    #[test]
    fn pixels_outside_the_mask_stay() {
        let picture = RgbImage::from_fn(16, 8, |x, y| Rgb([x as u8, y as u8, 7]));
        let mask = GrayImage::from_fn(16, 8, |x, _| Luma([if x < 8 { 255 } else { 0 }]));
        let start = Start { picture: &picture, strength: 1., anew: Some(&mask) };
        let laid = start.laid_over(RgbImage::from_pixel(16, 8, Rgb([200; 3])), 2);
        assert!((8..16).all(|x| (0..8).all(|y| laid.get_pixel(x, y) == picture.get_pixel(x, y))));
        assert_eq!(laid.get_pixel(1, 4).0, [200; 3]);
        assert!((50..200).contains(&laid.get_pixel(7, 4).0[0]), "{:?}", laid.get_pixel(7, 4));
        let whole = Start { anew: None, ..start }.laid_over(picture.clone(), 2);
        assert_eq!(whole, picture);
    }

    #[test]
    fn noise_between_noises_is_noise() -> candle_core::Result<()> {
        let draw = |index| rng::normal((1, 4, 32, 32), &mut rng::stream(0, "between", index), &Device::Cpu);
        let (one, other) = (draw(0)?, draw(1)?);
        for share in [0., 0.3, 0.5, 1.] {
            let mixed = between(&one, &other, share)?;
            let spread = mixed.sqr()?.mean_all()?.to_scalar::<f32>()?;
            assert!((spread - 1.).abs() < 0.05, "{share}: {spread}");
        }
        let gap = |a: &Tensor, b: &Tensor| (a - b)?.abs()?.max_all()?.to_scalar::<f32>();
        assert!(gap(&between(&one, &other, 0.)?, &one)? < 1e-5 && gap(&between(&one, &other, 1.)?, &other)? < 1e-5);
        Ok(())
    }
}
