//! Reading the photos of a subject.

use std::path::Path;

use anyhow::{Context, Result, bail};
use image::DynamicImage;
use image::imageops::FilterType;

use super::masks::{self, MaskFinder};
use super::store::Store;
use super::{LARGEST_SIDE, Photo, SMALLEST_SIDE};
use crate::images::{decode, is_picture};

/// All photos of a subject with their masks.
pub fn read_all(store: &Store, masks_folder: Option<&Path>) -> Result<Vec<Photo>> {
    let pictures: Vec<_> = store.files(Path::new("")).into_iter().filter(|f| is_picture(f)).collect();
    let photos: Vec<_> = pictures.iter().filter(|f| !masks::is_mask_label(f)).collect();
    let top = store.path(Path::new(""));
    if photos.is_empty() {
        bail!("there are no photos (png, jpg) in {}", top.display());
    }
    let finder = MaskFinder::new(store, masks_folder)?;
    photos.into_iter().map(|file| read(store, file, &finder)).collect()
}

fn read(store: &Store, file: &Path, finder: &MaskFinder) -> Result<Photo> {
    let path = store.path(file);
    let decoded = decode(&store.read(file)?).with_context(|| format!("cannot read the photo {}", path.display()))?;
    let (width, height) = (decoded.image.width(), decoded.image.height());
    if width.min(height) < SMALLEST_SIDE {
        bail!(
            "the photo {} is {width}x{height} pixels: at least {SMALLEST_SIDE} on each side are needed",
            path.display()
        );
    }
    let (mask, mask_source) = finder.mask(store, file, &decoded)?;
    let (image, mask) = reduced(decoded.image, mask);
    if mask.iter().all(|&v| v == 0) {
        bail!("the mask of {} ({mask_source}) is all black: white marks the subject", path.display());
    }
    // transparent parts lie on white, as viewers show them
    let mut rgba = image.to_rgba8();
    for pixel in rgba.pixels_mut() {
        let alpha = pixel.0[3] as u32;
        for value in &mut pixel.0[..3] {
            *value = ((*value as u32 * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        }
    }
    let image = DynamicImage::ImageRgba8(rgba).to_rgb8();
    Ok(Photo { path, image, mask, file_size: (width, height), mask_source })
}

fn reduced(image: DynamicImage, mask: image::GrayImage) -> (DynamicImage, image::GrayImage) {
    let (width, height) = (image.width(), image.height());
    let shorter = width.min(height);
    if shorter <= LARGEST_SIDE {
        return (image, mask);
    }
    let scale = |n: u32| (n as u64 * LARGEST_SIDE as u64 / shorter as u64).max(1) as u32;
    let (width, height) = (scale(width), scale(height));
    let mask = image::imageops::resize(&mask, width, height, FilterType::Nearest);
    (image.resize_exact(width, height, FilterType::CatmullRom), mask)
}
