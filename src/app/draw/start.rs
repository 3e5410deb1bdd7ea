//! What drawing starts from: given noise, or a picture, and where that is drawn anew.

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use image::{GrayImage, RgbImage};

use super::super::{Observer, Usage};
use super::request::Request;
use crate::adapter::load_tensors;
use crate::base::Base;
use crate::images::{self, resized, resized_mask, shown};
use crate::sampling::{Start, latent_size};

/// What is gone of the picture where nothing else is asked for: enough to become another picture of the same layout.
const STRENGTH: f64 = 0.75;

/// The picture and the mask that a request names, at the size that is drawn.
pub(super) struct Source {
    picture: RgbImage,
    anew: Option<GrayImage>,
    strength: f64,
}

impl Source {
    /// Reads them; none if drawing starts from noise.
    ///
    /// # Errors
    /// [`Usage`] if they make no sense, else if one cannot be read; the message names it.
    pub(super) fn read(
        request: &Request,
        base: &Base,
        side: usize,
        observer: &mut dyn Observer,
    ) -> Result<Option<Self>> {
        let Some(path) = &request.from else { return Ok(None) };
        let strength = request.strength.unwrap_or(if request.anew.is_some() { 1. } else { STRENGTH });
        if !(strength > 0. && strength <= 1.) {
            bail!(Usage("--strength: give a number above 0, up to 1".into()));
        }
        let read = images::read(path)?;
        read.warnings.iter().for_each(|warning| observer.warn(&format!("{}: {warning}", shown(path))));
        let (own, picture) = (read.image.dimensions(), read.image);
        let size = request.size.unwrap_or_else(|| size_like(own, side, base.unit()));
        latent_size(base, size).map_err(|e| Usage(format!("--size: {e}")))?;
        let (width, height) = (size.0 as u32, size.1 as u32);
        let anew = match &request.anew {
            None => None,
            Some(mask) => {
                let bytes = std::fs::read(mask).with_context(|| format!("cannot read {}", shown(mask)))?;
                let levels = images::read_mask(&bytes, mask)?;
                levels.warnings.iter().for_each(|warning| observer.warn(&format!("{}: {warning}", shown(mask))));
                let found = levels.mask.dimensions();
                if !alike(found, own) {
                    let text = format!(
                        "--mask {}: it is {}x{} but the picture {} is {}x{}",
                        shown(mask),
                        found.0,
                        found.1,
                        shown(path),
                        own.0,
                        own.1
                    );
                    bail!(Usage(text));
                }
                if levels.mask.iter().all(|&level| level < 128) {
                    bail!(Usage(format!("--mask {}: it is all black: white is where is drawn", shown(mask))));
                }
                Some(resized_mask(&levels.mask, width, height))
            }
        };
        Ok(Some(Self { picture: resized(&picture, width, height), anew, strength }))
    }

    /// Width and height that are drawn.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.picture.width() as usize, self.picture.height() as usize)
    }

    /// As drawing takes it.
    pub(super) fn start(&self) -> Start<'_> {
        Start { picture: &self.picture, strength: self.strength, anew: self.anew.as_ref() }
    }
}

/// Whether two sizes are of one shape, up to the rounding of a reduced copy.
fn alike(a: (u32, u32), b: (u32, u32)) -> bool {
    let ratio = |(width, height): (u32, u32)| f64::from(width) / f64::from(height.max(1));
    (ratio(a) / ratio(b) - 1.).abs() < 0.02
}

/// The size that is drawn for a picture: its shape, the base's side on the shorter one, in whole units.
fn size_like((width, height): (u32, u32), side: usize, unit: usize) -> (usize, usize) {
    let shorter = width.min(height).max(1) as f64;
    let long = |n: u32| ((f64::from(n) * side as f64 / shorter / unit as f64).round() as usize).max(1) * unit;
    (long(width), long(height))
}

/// The noise in a file, which must be one tensor [1, 4, height, width].
///
/// # Errors
/// If it is not.
pub(super) fn init_latents(path: &Path, base: &Base, (width, height): (usize, usize)) -> Result<Tensor> {
    let tensors = load_tensors(path, &base.device)?;
    let (Some((name, latents)), 1) = (tensors.iter().next(), tensors.len()) else {
        bail!("{} must hold exactly one tensor, it has {}", path.display(), tensors.len());
    };
    if latents.dims() != [1, 4, height, width] {
        let shape = latents.dims();
        bail!("{name} in {} has shape {shape:?}, expected [1, 4, {height}, {width}]", path.display());
    }
    let finite = latents.sum_all()?.to_scalar::<f32>().with_context(|| format!("{name} in {}", path.display()))?;
    if !finite.is_finite() {
        bail!("{name} in {} is not finite", path.display());
    }
    Ok(latents.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_keep_their_shape() {
        assert_eq!(size_like((1024, 1024), 512, 64), (512, 512));
        assert_eq!(size_like((1600, 1200), 512, 64), (704, 512));
        assert_eq!(size_like((30, 90), 128, 64), (128, 384));
        assert!(alike((1600, 1200), (400, 301)) && !alike((1600, 1200), (1200, 1600)));
    }
}
