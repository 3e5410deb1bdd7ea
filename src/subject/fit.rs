//! Whether a mask and its photo belong together: their shapes, which way up, and inside or outside.

use std::path::Path;

use anyhow::{Result, bail};
use image::imageops::{self, FilterType};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};

use crate::images::{self, Levels, shown};

/// Sides may differ by so much of themselves: masks are made at other sizes than photos.
const TOLERANCE: f64 = 0.02;

/// One reading of a mask has to agree with the photo so much better than the other to be preferred surely.
const CLEARLY: f64 = 1.1;

/// Edges are compared at this length of the longer side.
const COMPARED: u32 = 256;

/// What is known of a photo when its mask is looked for.
pub(super) struct Shape<'a> {
    /// Where it came from.
    pub path: &'a Path,
    /// Width and height, upright.
    pub size: (u32, u32),
    /// Width and height of the pixels in the file.
    pub stored: (u32, u32),
    /// How those were turned.
    pub orientation: Orientation,
    /// The upright photo, perhaps reduced.
    pub image: &'a RgbImage,
}

/// The mask as large as the upright photo. A mask that was drawn on the stored pixels of a turned photo is
/// turned like it; where sizes do not tell, the edges of the photo do.
pub(super) fn fitted(levels: Levels, path: &Path, shape: &Shape, warnings: &mut Vec<String>) -> Result<GrayImage> {
    let Levels { mask, is_turned, .. } = levels;
    let (width, height) = shape.size;
    let (own, photo) = (shown(path), shown(shape.path));
    let upright = alike(mask.dimensions(), shape.size);
    let stored = shape.orientation != Orientation::NoTransforms && !is_turned && alike(mask.dimensions(), shape.stored);
    let turn = || {
        let mut turned = DynamicImage::ImageLuma8(mask.clone());
        turned.apply_orientation(shape.orientation);
        turned.into_luma8()
    };
    let mask = match (upright, stored) {
        (false, false) => {
            let (w, h) = mask.dimensions();
            let hint = if alike((h, w), shape.size) { ", or turned by a quarter?" } else { "?" };
            bail!(
                "the mask {own} is {w}x{h} but its photo {photo} is {width}x{height}: is it another photo's mask{hint}"
            )
        }
        (true, false) => mask,
        (false, true) => turn(),
        (true, true) if mask.dimensions() == shape.size && shape.size != shape.stored => mask,
        (true, true) if mask.dimensions() == shape.stored && shape.size != shape.stored => turn(),
        (true, true) => {
            let turned = turn();
            let (plain, other) = (agreement(&mask, shape.image), agreement(&turned, shape.image));
            if turned == mask {
                mask
            } else if other > CLEARLY * plain {
                warnings.push(format!(
                    "the mask {own} was turned as the EXIF orientation of {photo} says: so its border meets the \
                     photo's edges"
                ));
                turned
            } else {
                if plain <= CLEARLY * other {
                    warnings.push(format!(
                        "the mask {own} may be upright or turned like the stored pixels of {photo}: taken as upright"
                    ));
                }
                mask
            }
        }
    };
    if mask.dimensions() == shape.size {
        return Ok(mask);
    }
    Ok(images::resized_mask(&mask, width, height))
}

fn alike(a: (u32, u32), b: (u32, u32)) -> bool {
    let ratio = |(width, height): (u32, u32)| width as f64 / height as f64;
    (ratio(a) / ratio(b) - 1.).abs() <= TOLERANCE
}

/// How much the photo changes across the border of the mask, on average.
fn agreement(mask: &GrayImage, image: &RgbImage) -> f64 {
    let longer = image.width().max(image.height());
    let small = |side: u32| (side * COMPARED.min(longer) / longer).max(2);
    let (width, height) = (small(image.width()), small(image.height()));
    let image = imageops::resize(image, width, height, FilterType::Triangle);
    let mask = imageops::resize(mask, width, height, FilterType::Nearest);
    let (mut change, mut count) = (0, 0u32);
    for y in 0..height {
        for x in 0..width {
            for (other_x, other_y) in [(x + 1, y), (x, y + 1)] {
                if other_x == width || other_y == height || mask.get_pixel(x, y) == mask.get_pixel(other_x, other_y) {
                    continue;
                }
                let (a, b) = (image.get_pixel(x, y).0, image.get_pixel(other_x, other_y).0);
                change += a.iter().zip(b).map(|(a, b)| a.abs_diff(b) as u32).sum::<u32>();
                count += 1;
            }
        }
    }
    change as f64 / count.max(1) as f64
}

/// Whether most of the picture's border is subject, as it is where black and white are exchanged.
pub(super) fn is_inside_out(mask: &GrayImage) -> bool {
    let (width, height) = mask.dimensions();
    let rows = (0..width).flat_map(|x| [(x, 0), (x, height - 1)]);
    let columns = (0..height).flat_map(|y| [(0, y), (width - 1, y)]);
    let white = rows.chain(columns).filter(|&(x, y)| mask.get_pixel(x, y).0[0] > 0).count();
    let is_full = mask.iter().all(|&value| value > 0);
    !is_full && white > (width + height) as usize
}

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    #[test]
    fn edges_tell_which_way_up_a_mask_is() {
        let subject = |x: u32, y: u32| x < 20 && y < 40;
        let image = RgbImage::from_fn(64, 64, |x, y| Rgb(if subject(x, y) { [200, 40, 40] } else { [60, 90, 120] }));
        let mask = GrayImage::from_fn(64, 64, |x, y| Luma([if subject(x, y) { 255 } else { 0 }]));
        let path = Path::new("a");
        for orientation in [Orientation::Rotate90, Orientation::Rotate180, Orientation::FlipHorizontal] {
            let shape = Shape { path, size: (64, 64), stored: (64, 64), orientation, image: &image };
            let fit = |mask: &GrayImage, is_turned: bool| {
                let mut warnings = Vec::new();
                let levels = Levels { mask: mask.clone(), is_turned, meaning: None, warnings: Vec::new() };
                (fitted(levels, path, &shape, &mut warnings).expect("a mask"), warnings)
            };
            assert_eq!(fit(&mask, false), (mask.clone(), Vec::new()));
            let mut stored = DynamicImage::ImageLuma8(mask.clone());
            let back = if orientation == Orientation::Rotate90 { Orientation::Rotate270 } else { orientation };
            stored.apply_orientation(back);
            let (found, warnings) = fit(&stored.into_luma8(), false);
            assert_eq!(found, mask, "{orientation:?}");
            assert!(warnings[0].contains("EXIF"), "{warnings:?}");
            // its own orientation was applied: there is nothing to choose
            assert_eq!(fit(&mask, true), (mask.clone(), Vec::new()));
        }
    }

    #[test]
    fn most_of_the_border_tells_inside_from_outside() {
        let mask = |f: fn(u32, u32) -> bool| GrayImage::from_fn(20, 10, |x, y| Luma([if f(x, y) { 255 } else { 0 }]));
        assert!(is_inside_out(&mask(|x, y| !(5..15).contains(&x) || y < 3)));
        assert!(!is_inside_out(&mask(|x, y| (5..15).contains(&x) && y > 3)));
        assert!(!is_inside_out(&mask(|x, _| x < 5)));
        assert!(!is_inside_out(&mask(|_, _| true)) && !is_inside_out(&mask(|_, _| false)));
    }
}
