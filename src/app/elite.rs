//! ELITE: its published files and a photo, ready to draw.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use image::RgbImage;

use super::Usage;
use crate::base::{Base, load_vision};
use crate::evaluation::preprocess::Preprocess;
use crate::images::Mask;
use crate::method::elite::{Details, Elite, patches_of};
use crate::model::ClipVision;
use crate::model::elite::{Mapper, VIT_L14};
use crate::subject::Photo;
use crate::weights::Weights;

/// The vision tower that the published mappers were trained with.
pub const VISION: &str = "openai/clip-vit-large-patch14";

/// Where ELITE's files are.
#[derive(Clone, Debug)]
pub struct Files {
    /// The folder of `global_mapper` and `local_mapper`, as published (`.pt`) or as safetensors.
    pub mappers: PathBuf,
    /// The vision tower: a repository of the hub, or a directory.
    pub vision: String,
    /// Weight of the local mapping's details; 0: without it.
    pub details: f64,
}

/// The subject of a photo as the encoder sees it.
///
/// # Errors
/// [`Usage`] if the weight makes no sense, else if a file is missing, damaged or of another base.
pub fn open(base: &Base, files: &Files, photo: &Photo, offline: bool) -> Result<Elite> {
    if !(files.details.is_finite() && files.details >= 0.) {
        bail!(Usage("--details: give 0 or more".into()));
    }
    let vision = load_vision(&files.vision, offline, &base.device)
        .with_context(|| format!("cannot load the vision tower {} (--elite-vision)", files.vision))?;
    let global = mapper(base, &files.mappers, "global_mapper")?;
    let features = features(&vision, &photo.image, base)?;
    let word = global.words(&features).context("the vision tower does not suit the mappers")?;
    let local = if files.details == 0. {
        None
    } else {
        let mapper = mapper(base, &files.mappers, "local_mapper")?;
        let object = self::features(&vision, &object_of(photo), base)?;
        let side = (object[0].dim(1)? - 1).isqrt();
        let mask = patches_of(&Mask::from_gray(&photo.mask), side, &base.device)?;
        let patches = mapper.details(&object, &mask)?;
        Some(Details { mapper, patches, weight: files.details })
    };
    Ok(Elite { global, word: word.narrow(1, 0, 1)?.flatten_all()?, local })
}

/// A mapper of that name in `folder`. The published files are pickles of plain tensors: they are read without running what
/// else a pickle may hold.
fn mapper(base: &Base, folder: &Path, name: &str) -> Result<Mapper> {
    let [safe, pickled] = ["safetensors", "pt"].map(|ending| folder.join(format!("{name}.{ending}")));
    let Some(file) = [&safe, &pickled].into_iter().find(|file| file.is_file()) else {
        bail!("there is neither {} nor {}: ELITE's authors publish them", pickled.display(), safe.display());
    };
    let weights = Weights::open_or_unpickle(file, &base.device)?;
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
