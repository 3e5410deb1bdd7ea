//! ELITE: its published files and a photo, ready to draw.

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use image::RgbImage;

use super::Usage;
use crate::base::{Base, load_vision};
use crate::evaluation::preprocess::Preprocess;
use crate::images::Mask;
use crate::method::elite::{Details, Elite, Files, patches_of};
use crate::model::ClipVision;
use crate::model::elite::{Mapper, VIT_L14};
use crate::subject::Photo;
use crate::weights::Weights;

/// What whoever draws with it is to know.
pub const UNTRIED: &str =
    "ELITE's arithmetic is checked on recorded cases; with its published weights nobody has run it here yet";

/// The subject of a photo as the encoder sees it.
///
/// # Errors
/// [`Usage`] if the weight makes no sense, else if a file is missing, damaged or of another base.
pub fn open(base: &Base, files: &Files, photo: &Photo, offline: bool) -> Result<Elite> {
    files.check().map_err(|error| Usage(format!("--{error}")))?;
    let [global, local] = Files::MAPPERS;
    let global = mapper(base, files, global)?;
    let vision = load_vision(&files.vision, offline, &base.device)
        .with_context(|| format!("cannot load ELITE's vision tower {} (--elite-vision names another)", files.vision))?;
    let features = features(&vision, &photo.image, base)?;
    let word = global.words(&features).context("the vision tower does not suit the mappers")?;
    let local = if files.details == 0. {
        None
    } else {
        let mapper = mapper(base, files, local)?;
        let object = self::features(&vision, &object_of(photo), base)?;
        let side = (object[0].dim(1)? - 1).isqrt();
        let mask = patches_of(&Mask::from_gray(&photo.mask), side, &base.device)?;
        let patches = mapper.details(&object, &mask)?;
        Some(Details { mapper, patches, weight: files.details })
    };
    Ok(Elite { global, word: word.narrow(1, 0, 1)?.flatten_all()?, local })
}

/// A mapper. The published files are pickles of plain tensors: they are read without running what else a pickle may hold.
fn mapper(base: &Base, files: &Files, name: &str) -> Result<Mapper> {
    let Some(file) = files.mapper(name) else {
        bail!("there is no {name}.pt or {name}.safetensors in {}: ELITE's authors publish it", files.mappers.display());
    };
    let weights = Weights::open_or_unpickle(&file, &base.device)?;
    Ok(Mapper::load(&weights, &base.unet, base.text.config.hidden_size)?)
}

fn features(vision: &ClipVision, image: &RgbImage, base: &Base) -> Result<Vec<Tensor>> {
    let pixels = Preprocess::clip(vision.config.image_size).squashed(image)?.to_device(&base.device)?;
    Ok(vision.hidden_states(&pixels, &VIT_L14)?)
}

/// The photo with black around the subject.
fn object_of(photo: &Photo) -> RgbImage {
    let mut image = photo.image.clone();
    for (pixel, mask) in image.pixels_mut().zip(photo.mask.pixels()) {
        if mask.0[0] == 0 {
            pixel.0 = [0; 3];
        }
    }
    image
}
