//! Reading the photos of a subject.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use image::RgbImage;

use super::crop::around;
use super::fit::{Shape, is_inside_out};
use super::masks::{Found, MaskFinder};
use super::store::Store;
use super::{Crop, LARGEST_SIDE, Photo, Request, SMALLEST_SIDE, WIDEST};
use crate::images::{self, none_in, shown};

/// All photos of a subject with their masks, and what the user should know.
pub(super) fn read_all(store: &Store, request: &Request) -> Result<(Vec<Photo>, Vec<String>)> {
    let listing = store.pictures()?;
    if listing.pictures.is_empty() {
        bail!("{}", none_in(&store.path(Path::new("")), "photos", &listing));
    }
    let finder = MaskFinder::new(store, request.masks)?;
    let mut warnings = listing.warnings();
    let read = |file: &PathBuf| read(store, file, &finder, request, &mut warnings);
    let photos = listing.pictures.iter().map(read).collect::<Result<_>>()?;
    Ok((photos, warnings))
}

/// One photo, and what the user should know.
pub(super) fn read_one(store: &Store, file: &Path) -> Result<(Photo, Vec<String>)> {
    let mut warnings = Vec::new();
    let photo = read(store, file, &MaskFinder::new(store, None)?, &Request::default(), &mut warnings)?;
    Ok((photo, warnings))
}

fn read(
    store: &Store,
    file: &Path,
    finder: &MaskFinder,
    request: &Request,
    warnings: &mut Vec<String>,
) -> Result<Photo> {
    let path = store.path(file);
    let name = shown(&path);
    let images::Read { image, alpha, orientation, stored, warnings: of_photo } = store.picture(file)?;
    let size = image.dimensions();
    let (width, height) = size;
    if width.min(height) < SMALLEST_SIDE {
        bail!("the photo {name} is {width}x{height} pixels: at least {SMALLEST_SIDE} on each side are needed");
    }
    warnings.extend(of_photo.iter().map(|warning| format!("the photo {name}: {warning}")));
    let (width, height) = reduced(size);
    // the large copy goes before the mask comes
    let image = kept(image, width, height);
    let shape = Shape { path: &path, size, stored, orientation, image: &image };
    let Found { mut mask, source, warnings: of_mask } = finder.mask(store, file, &shape, alpha)?;
    warnings.extend(of_mask);
    if mask.dimensions() != (width, height) {
        mask = images::resized_mask(&mask, width, height);
    }
    if request.invert_masks {
        mask.iter_mut().for_each(|value| *value = 255 - *value);
    }
    if mask.iter().all(|&v| v == 0) {
        let inverted = if request.invert_masks { " once inverted" } else { "" };
        bail!("the mask of {name} ({source}) is all black{inverted}: white marks the subject");
    }
    if is_inside_out(&mask) {
        warnings.push(match request.invert_masks {
            false => format!(
                "most of the border of {name} is subject, as its mask says: if the mask is white where the subject \
                 is not, give --invert-masks"
            ),
            true => format!("most of the border of {name} is subject once its mask is inverted: leave --invert-masks?"),
        });
    }
    let mut photo = Photo { path, image, mask, file_size: size, mask_source: source };
    if request.crop == Crop::Subject {
        around(&mut photo);
    }
    let (width, height) = photo.image.dimensions();
    if width.max(height) as f64 > WIDEST * width.min(height) as f64 {
        let remedy = if request.crop == Crop::None { ": --crop subject cuts a square around the subject" } else { "" };
        warnings.push(format!("the photo {name} is {width}x{height}, and is squeezed into a square{remedy}"));
    }
    Ok(photo)
}

/// The size at which a photo is kept.
fn reduced((width, height): (u32, u32)) -> (u32, u32) {
    let shorter = width.min(height);
    if shorter <= LARGEST_SIDE {
        return (width, height);
    }
    let scale = |n: u32| (n as u64 * LARGEST_SIDE as u64 / shorter as u64).max(1) as u32;
    (scale(width), scale(height))
}

fn kept(image: RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) { image } else { images::resized(&image, width, height) }
}
