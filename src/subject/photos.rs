//! Reading the photos of a subject.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::RgbImage;

use super::caption::caption;
use super::crop::around;
use super::fit::{Shape, is_inside_out};
use super::masks::{Found, MaskFinder};
use super::store::Store;
use super::{Crop, LARGEST_SIDE, Made, MaskMaker, Photo, Request, SMALLEST_SIDE, WEAK, WIDEST};
use crate::images::{self, none_in, shown};

/// A photo whose mask may have to be made.
struct Opened {
    path: PathBuf,
    /// Upright, perhaps reduced.
    image: RgbImage,
    /// Width and height of the file, upright.
    size: (u32, u32),
    mask: Option<Found>,
    caption: Option<String>,
}

/// All photos of a subject with their masks, and what the user should know. Masks that are not found are made, if there
/// is somebody to make them for a class, or white where the request says so.
pub(super) fn read_all(
    store: &Store,
    request: &Request,
    class: &str,
    maker: Option<&mut dyn MaskMaker>,
) -> Result<(Vec<Photo>, Vec<String>)> {
    let listing = store.pictures()?;
    if listing.pictures.is_empty() {
        bail!("{}", none_in(&store.path(Path::new("")), "photos", &listing));
    }
    let finder = MaskFinder::new(store, request.masks)?;
    let mut warnings = listing.warnings();
    let only_found = maker.is_none() && !request.whole;
    let open = |file: &PathBuf| {
        let opened = open(store, file, class, &finder, &mut warnings)?;
        if only_found && opened.mask.is_none() {
            return Err(finder.missing(store, file));
        }
        Ok(opened)
    };
    let mut opened = listing.pictures.iter().map(open).collect::<Result<Vec<_>>>()?;
    if let Some(maker) = maker {
        make_missing(&mut opened, maker, class)?;
    }
    if request.whole {
        for Opened { image, mask, .. } in &mut opened {
            mask.get_or_insert_with(|| Found::whole(image));
        }
    }
    let photos = opened.into_iter().map(|opened| finished(opened, request, &mut warnings)).collect::<Result<_>>()?;
    Ok((photos, warnings))
}

/// One photo, and what the user should know.
pub(super) fn read_one(store: &Store, file: &Path, class: &str) -> Result<(Photo, Vec<String>)> {
    let (finder, mut warnings) = (MaskFinder::new(store, None)?, Vec::new());
    let opened = open(store, file, class, &finder, &mut warnings)?;
    if opened.mask.is_none() {
        return Err(finder.missing(store, file));
    }
    let photo = finished(opened, &Request::default(), &mut warnings)?;
    Ok((photo, warnings))
}

/// Makes the masks that were not found, from all of their photos together.
fn make_missing(opened: &mut [Opened], maker: &mut dyn MaskMaker, class: &str) -> Result<()> {
    let bare: Vec<&RgbImage> = opened.iter().filter(|o| o.mask.is_none()).map(|o| &o.image).collect();
    if bare.is_empty() {
        return Ok(());
    }
    let made = maker.masks(&bare, class).context("cannot make masks")?;
    for (opened, Made { mask, confidence }) in opened.iter_mut().filter(|o| o.mask.is_none()).zip(made) {
        let sure = format!("{:.0} % sure", 100. * confidence);
        let warnings = match confidence < WEAK {
            true => vec![format!("the mask made of {} is only {sure}: look at it, or draw one", shown(&opened.path))],
            false => Vec::new(),
        };
        opened.mask = Some(Found { mask, source: format!("made, {sure}"), warnings });
    }
    Ok(())
}

fn open(store: &Store, file: &Path, class: &str, finder: &MaskFinder, warnings: &mut Vec<String>) -> Result<Opened> {
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
    let mask = finder.mask(store, file, &shape, alpha)?;
    Ok(Opened { caption: caption(store, file, class)?, path, image, size, mask })
}

fn finished(opened: Opened, request: &Request, warnings: &mut Vec<String>) -> Result<Photo> {
    let Opened { path, image, size, mask, caption } = opened;
    let (name, (width, height)) = (shown(&path), image.dimensions());
    let Found { mut mask, source, warnings: of_mask } = mask.with_context(|| format!("no mask for {name}"))?;
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
    let mut photo = Photo { path, image, mask, file_size: size, mask_source: source, caption };
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
