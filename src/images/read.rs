//! The one way in which pictures are read: upright, in sRGB, on white.

use std::path::Path;

use anyhow::{Context, Result};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};

use super::decode::{decode, decode_bytes};
use super::stored::{LARGEST, Stored};
use super::{icc, shown};

/// A picture from a file.
pub struct Read {
    /// Upright, in sRGB, transparent parts laid on white as viewers show them.
    pub image: RgbImage,
    /// Its alpha channel, upright, where it has one.
    pub alpha: Option<GrayImage>,
    /// How the file's pixels were turned.
    pub orientation: Orientation,
    /// Width and height of the file's pixels as they are stored.
    pub stored: (u32, u32),
    /// What the user should know, but can live with.
    pub warnings: Vec<String>,
}

/// Reads a picture file: PNG, JPEG, WebP, TIFF, BMP or the first frame of a GIF, whatever its name says.
///
/// # Errors
/// If there is no such file, or it is damaged, cut short, of another format, or takes more than 512 MiB;
/// the message names it.
pub fn read(path: &Path) -> Result<Read> {
    decode(path).map(finished)
}

/// Reads a file's content; the message gives it that name.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: &[u8], name: &Path) -> Result<Read> {
    decode_bytes(bytes, name).map(finished).with_context(|| format!("cannot read the picture {}", shown(name)))
}

/// The picture of [`read`] alone.
///
/// # Errors
/// As [`read`].
pub fn open(path: &Path) -> Result<RgbImage> {
    Ok(read(path)?.image)
}

fn finished(stored: Stored) -> Read {
    let Stored { image, orientation, profile, mut warnings, .. } = stored;
    let size = (image.width(), image.height());
    let (image, alpha) = on_white(image, profile.as_deref(), &mut warnings);
    let image = turned(DynamicImage::ImageRgb8(image), orientation).into_rgb8();
    let alpha = alpha.map(|alpha| turned(DynamicImage::ImageLuma8(alpha), orientation).into_luma8());
    Read { image, alpha, orientation, stored: size, warnings }
}

/// Three bytes a pixel, and the alpha channel if there is one; where the form allows it in the same memory.
fn on_white(image: DynamicImage, profile: Option<&[u8]>, warnings: &mut Vec<String>) -> (RgbImage, Option<GrayImage>) {
    let (width, height) = (image.width(), image.height());
    let gray = matches!(image, DynamicImage::ImageLuma8(_) | DynamicImage::ImageLuma16(_));
    let gray = gray || matches!(image, DynamicImage::ImageLumaA8(_) | DynamicImage::ImageLumaA16(_));
    let has_alpha = image.color().has_alpha();
    let (mut values, channels) = match image {
        DynamicImage::ImageRgb8(image) => (image.into_raw(), 3),
        DynamicImage::ImageRgba8(image) => (image.into_raw(), 4),
        other if has_alpha => (other.to_rgba8().into_raw(), 4),
        other => (other.to_rgb8().into_raw(), 3),
    };
    if let Some(profile) = profile {
        if gray && icc::is_gray(profile) {
            let table = icc::gray_to_srgb(profile, warnings);
            for pixel in values.chunks_exact_mut(channels) {
                pixel[..3].iter_mut().for_each(|value| *value = table[*value as usize]);
            }
        } else {
            icc::rgb_to_srgb(&mut values, width as usize, channels, profile, warnings);
        }
    }
    let alpha = (channels == 4).then(|| {
        let alpha: Vec<u8> = values.chunks_exact(4).map(|pixel| pixel[3]).collect();
        for i in 0..alpha.len() {
            let opacity = alpha[i] as u32;
            for channel in 0..3 {
                let value = values[4 * i + channel] as u32;
                values[3 * i + channel] = ((value * opacity + 255 * (255 - opacity) + 127) / 255) as u8;
            }
        }
        values.truncate(3 * alpha.len());
        GrayImage::from_raw(width, height, alpha).unwrap_or_default()
    });
    (RgbImage::from_raw(width, height, values).unwrap_or_default(), alpha)
}

/// Stands a picture upright.
pub(super) fn turned(mut image: DynamicImage, orientation: Orientation) -> DynamicImage {
    use Orientation::*;
    // flips and half turns need no second copy, a quarter turn does
    let rest = match orientation {
        Rotate90 => FlipHorizontal,
        Rotate270 => FlipVertical,
        Rotate90FlipH => NoTransforms,
        Rotate270FlipH => Rotate180,
        other => {
            image.apply_orientation(other);
            return image;
        }
    };
    match image {
        DynamicImage::ImageRgb8(rgb) if 2 * rgb.as_raw().len() as u64 > LARGEST => {
            image = DynamicImage::ImageRgb8(transposed(rgb));
            image.apply_orientation(rest);
        }
        _ => image.apply_orientation(orientation),
    }
    image
}

/// Rows become columns in the same memory: each pixel moves to where another is that moves on in turn. Slow, as
/// it jumps about, but the largest photos fit once only.
fn transposed(image: RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let (columns, rows) = (width as usize, height as usize);
    let mut values = image.into_raw();
    let mut moved = vec![0u64; (rows * columns).div_ceil(64)];
    let pixel = |values: &[u8], i: usize| [values[3 * i], values[3 * i + 1], values[3 * i + 2]];
    for start in 0..rows * columns {
        if moved[start / 64] >> (start % 64) & 1 == 1 {
            continue;
        }
        let (mut place, mut carried) = (start, pixel(&values, start));
        loop {
            place = place % columns * rows + place / columns;
            let next = pixel(&values, place);
            values[3 * place..3 * place + 3].copy_from_slice(&carried);
            moved[place / 64] |= 1 << (place % 64);
            carried = next;
            if place == start {
                break;
            }
        }
    }
    RgbImage::from_raw(height, width, values).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn turning_in_place_is_turning() {
        let image = RgbImage::from_fn(13, 7, |x, y| Rgb([x as u8, y as u8, 9]));
        let mut expected = DynamicImage::ImageRgb8(image.clone());
        expected.apply_orientation(Orientation::Rotate90FlipH);
        assert_eq!(transposed(image.clone()), expected.into_rgb8());
        for (turn, rest) in [
            (Orientation::Rotate90, Orientation::FlipHorizontal),
            (Orientation::Rotate270, Orientation::FlipVertical),
            (Orientation::Rotate270FlipH, Orientation::Rotate180),
        ] {
            let mut in_place = DynamicImage::ImageRgb8(transposed(image.clone()));
            in_place.apply_orientation(rest);
            assert_eq!(in_place, turned(DynamicImage::ImageRgb8(image.clone()), turn), "{turn:?}");
        }
    }
}
