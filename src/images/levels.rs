//! What the values of a mask file mean: white on black, soft edges, colours, labels, or an alpha channel.

use std::path::Path;

use anyhow::{Context, Result, bail};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, Luma};

use super::decode::decode_bytes;
use super::read::turned;
use super::shown;
use super::stored::Stored;

/// Colours whose channels differ by less are gray.
const SATURATED: u16 = 64;

/// Palette entries darker than this are background.
const DARKEST: u16 = 16;

/// So many values are labels at most; more are shades.
const LABELS: usize = 32;

/// A mask file, as it says itself.
pub struct Levels {
    /// 255 where the subject is, else 0; upright by the file's own orientation.
    pub mask: GrayImage,
    /// Whether the file itself says how it is turned.
    pub is_turned: bool,
    /// How the values were understood, if not as white on black.
    pub meaning: Option<&'static str>,
    /// What the user should know, but can live with.
    pub warnings: Vec<String>,
}

/// Reads a mask file's content. In this order:
///
/// 1. Where opacity varies and what is visible has one colour or many, opacity is the mask; where what is
///    visible is black and white, what is transparent counts as black.
/// 2. Gray values from half of white on are the subject, and so are saturated colours: each colour of a
///    palette, else those of at least half of the brightest one's brightness.
/// 3. Where that leaves nothing, few different values are labels: all but 0 are the subject.
///
/// # Errors
/// If the file is damaged, of another format or too large; the message names it.
pub fn read_mask(bytes: &[u8], name: &Path) -> Result<Levels> {
    meant(bytes, name).with_context(|| format!("cannot read the mask {}", shown(name)))
}

fn meant(bytes: &[u8], name: &Path) -> Result<Levels> {
    let Stored { image, orientation, indexed, mut warnings, .. } = decode_bytes(bytes, name)?;
    let (levels, meaning) = levels(&image, indexed, &mut warnings)?;
    let mask = turned(DynamicImage::ImageLuma8(levels), orientation).into_luma8();
    Ok(Levels { mask, is_turned: orientation != Orientation::NoTransforms, meaning, warnings })
}

/// The channels of one pixel, from 0 to 65535, or as they are in a file of 16 bits that uses 8.
type Pixel = [u16; 4];

fn levels(
    image: &DynamicImage,
    indexed: bool,
    warnings: &mut Vec<String>,
) -> Result<(GrayImage, Option<&'static str>)> {
    let (width, height) = (image.width(), image.height());
    let shift = narrow(image);
    let pixel = |x: u32, y: u32| channels(image, x, y, shift);
    let all = || (0..height).flat_map(move |y| (0..width).map(move |x| (x, y)));
    let made = |is_subject: &dyn Fn(Pixel) -> bool| {
        GrayImage::from_fn(width, height, |x, y| Luma([if is_subject(pixel(x, y)) { 255 } else { 0 }]))
    };
    if image.color().has_alpha() && all().any(|(x, y)| pixel(x, y)[3] != pixel(0, 0)[3]) {
        let seen = all().map(|(x, y)| pixel(x, y)).filter(|p| p[3] >= 128);
        let (mut dark, mut bright, mut others) = (0, 0, 0);
        for p in seen {
            let count = if p[..3].iter().all(|&v| v < 64) {
                &mut dark
            } else if p[..3].iter().all(|&v| v >= 192) {
                &mut bright
            } else {
                &mut others
            };
            *count += 1;
        }
        // strokes of white and black on nothing: the colours tell; one colour or a cut-out: opacity does
        if dark > 0 && bright > 0 && others <= (dark + bright) / 10 {
            return Ok((made(&|p| p[3] >= 128 && luma(p) >= 128), Some("white on black or nothing")));
        }
        return Ok((made(&|p| p[3] >= 128), Some("alpha channel")));
    }
    let brightest = all().map(|(x, y)| pixel(x, y)).filter(|&p| spread(p) >= SATURATED || indexed && coloured(p));
    let brightest = brightest.map(brightness).max().unwrap_or(0);
    let is_subject = |p: Pixel| {
        if indexed && coloured(p) {
            return brightness(p) >= DARKEST;
        }
        if spread(p) >= SATURATED { 2 * brightness(p) > brightest } else { luma(p) >= 128 }
    };
    let mask = made(&is_subject);
    if mask.iter().any(|&v| v > 0) {
        return Ok((mask, (brightest > 0).then_some("colours")));
    }
    let mut values: Vec<u16> = Vec::new();
    for (x, y) in all() {
        let value = brightness(pixel(x, y));
        if let Err(place) = values.binary_search(&value) {
            if values.len() == LABELS {
                bail!(
                    "no value of it is half white or more, and {LABELS} and more are darker: white marks the subject"
                );
            }
            values.insert(place, value);
        }
    }
    let highest = values.last().copied().unwrap_or(0);
    if highest == 0 || values[0] != 0 {
        return Ok((mask, None));
    }
    if values.len() > 2 {
        let listed = values[1..].iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
        warnings.push(format!("it holds the labels {listed}: all of them are taken for the subject"));
    }
    Ok((made(&|p| brightness(p) > 0), Some("labels from 0")))
}

/// By how many bits the values have to be narrowed to come to 8.
fn narrow(image: &DynamicImage) -> u32 {
    let wide = |values: &[u16]| if values.iter().any(|&v| v > 255) { 8 } else { 0 };
    match image {
        DynamicImage::ImageLuma16(image) => wide(image.as_raw()),
        DynamicImage::ImageRgb16(image) => wide(image.as_raw()),
        // opacity is written in full even where the values are small
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) => 8,
        _ => 0,
    }
}

fn channels(image: &DynamicImage, x: u32, y: u32, shift: u32) -> Pixel {
    let narrow = |value: u16| value >> shift;
    match image {
        DynamicImage::ImageLuma8(image) => gray(image.get_pixel(x, y).0[0] as u16, 255),
        DynamicImage::ImageLumaA8(image) => {
            let [value, alpha] = image.get_pixel(x, y).0;
            gray(value as u16, alpha as u16)
        }
        DynamicImage::ImageRgb8(image) => {
            let [r, g, b] = image.get_pixel(x, y).0.map(u16::from);
            [r, g, b, 255]
        }
        DynamicImage::ImageRgba8(image) => image.get_pixel(x, y).0.map(u16::from),
        DynamicImage::ImageLuma16(image) => gray(narrow(image.get_pixel(x, y).0[0]), 255),
        DynamicImage::ImageLumaA16(image) => {
            let [value, alpha] = image.get_pixel(x, y).0.map(narrow);
            gray(value, alpha)
        }
        DynamicImage::ImageRgb16(image) => {
            let [r, g, b] = image.get_pixel(x, y).0.map(narrow);
            [r, g, b, 255]
        }
        DynamicImage::ImageRgba16(image) => image.get_pixel(x, y).0.map(narrow),
        other => image::GenericImageView::get_pixel(other, x, y).0.map(u16::from),
    }
}

fn gray(value: u16, alpha: u16) -> Pixel {
    [value, value, value, alpha]
}

fn brightness([r, g, b, _]: Pixel) -> u16 {
    r.max(g).max(b)
}

fn spread([r, g, b, a]: Pixel) -> u16 {
    brightness([r, g, b, a]) - r.min(g).min(b)
}

/// Whether a palette's entry is a colour rather than a shade.
fn coloured(pixel: Pixel) -> bool {
    2 * spread(pixel) >= brightness(pixel).max(1)
}

/// As `image` weighs the channels.
fn luma([r, g, b, _]: Pixel) -> u16 {
    ((2126 * r as u32 + 7152 * g as u32 + 722 * b as u32) / 10000) as u16
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{GrayAlphaImage, ImageBuffer, ImageFormat, LumaA, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;

    /// The subject of all masks here.
    fn inside(x: u32, y: u32) -> bool {
        (6..14).contains(&x) && (3..9).contains(&y)
    }

    fn meaning(image: impl Into<DynamicImage>) -> Levels {
        let mut bytes = Cursor::new(Vec::new());
        image.into().write_to(&mut bytes, ImageFormat::Png).expect("an encoded mask");
        read_mask(&bytes.into_inner(), Path::new("m.png")).expect("a mask")
    }

    fn is_subject(levels: &Levels) -> bool {
        levels.mask.enumerate_pixels().all(|(x, y, level)| level.0[0] == if inside(x, y) { 255 } else { 0 })
    }

    #[test]
    fn gray_levels_from_half_of_white_on_are_the_subject() {
        for (outside, own) in [(0, 255), (127, 128), (20, 230), (0, 1), (0, 3), (0, 100)] {
            let levels = meaning(GrayImage::from_fn(20, 12, |x, y| Luma([if inside(x, y) { own } else { outside }])));
            assert!(is_subject(&levels) && levels.warnings.is_empty(), "{own} on {outside}");
        }
        for (outside, own) in [(0, 65535), (0, 1), (0, 255), (3000, 40000)] {
            let pixel = |x, y| Luma([if inside(x, y) { own } else { outside }]);
            assert!(is_subject(&meaning(ImageBuffer::<Luma<u16>, _>::from_fn(20, 12, pixel))), "{own} on {outside}");
        }
        // soft edges: half of the way
        let soft = meaning(GrayImage::from_fn(256, 1, |x, _| Luma([x as u8])));
        assert!(soft.mask.enumerate_pixels().all(|(x, _, level)| (level.0[0] > 0) == (x >= 128)));
        let black = meaning(GrayImage::new(20, 12));
        assert!(black.mask.iter().all(|&v| v == 0) && black.warnings.is_empty());
        let uniform = meaning(GrayImage::from_pixel(20, 12, Luma([9])));
        assert!(uniform.mask.iter().all(|&v| v == 0));
    }

    #[test]
    fn labels_are_all_subject_and_told_of() {
        let levels =
            meaning(GrayImage::from_fn(20, 12, |x, y| Luma([if inside(x, y) { 1 + (x > 9) as u8 } else { 0 }])));
        assert!(is_subject(&levels));
        assert!(levels.warnings[0].contains("labels 1, 2"), "{:?}", levels.warnings);
        // dark shades are not labels
        let shades = GrayImage::from_fn(20, 12, |x, y| Luma([(x * 6 + y) as u8]));
        let mut bytes = Cursor::new(Vec::new());
        shades.write_to(&mut bytes, ImageFormat::Png).expect("an encoded mask");
        let error = read_mask(&bytes.into_inner(), Path::new("m.png")).err().expect("no mask");
        assert!(format!("{error:#}").contains("m.png"));
    }

    #[test]
    fn colours_on_black_are_the_subject() {
        for colour in [[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 0, 0], [64, 0, 128], [255, 200, 0]] {
            let image = RgbImage::from_fn(20, 12, |x, y| Rgb(if inside(x, y) { colour } else { [0; 3] }));
            assert!(is_subject(&meaning(image)), "{colour:?}");
        }
        // a soft red edge is cut at half, too
        let soft = meaning(RgbImage::from_fn(256, 1, |x, _| Rgb([x as u8, 0, 0])));
        assert!(soft.mask.enumerate_pixels().all(|(x, _, level)| (level.0[0] > 0) == (x >= 128)));
    }

    #[test]
    fn a_palettes_colours_are_labels() {
        let palette = [0, 0, 0, 128, 0, 0, 0, 64, 0, 224, 224, 192];
        let indices: Vec<u8> =
            (0..12).flat_map(|y| (0..20).map(move |x| if inside(x, y) { 1 + (x > 9) as u8 } else { 0 })).collect();
        let mut bytes = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut bytes, 20, 12);
        encoder.set_color(::png::ColorType::Indexed);
        encoder.set_palette(palette.as_slice());
        let mut writer = encoder.write_header().expect("memory");
        writer.write_image_data(&indices).expect("memory");
        writer.finish().expect("memory");
        let levels = read_mask(&bytes, Path::new("m.png")).expect("a mask");
        assert!(is_subject(&levels) && levels.meaning == Some("colours"));
    }

    #[test]
    fn opacity_is_the_mask_where_it_says_more() {
        let alpha = |x, y| if inside(x, y) { 255 } else { 0 };
        for colour in [[0; 3], [255; 3], [255, 0, 0], [128; 3]] {
            let [r, g, b] = colour;
            let image = RgbaImage::from_fn(20, 12, |x, y| Rgba([r, g, b, alpha(x, y)]));
            assert!(is_subject(&meaning(image)), "{colour:?}");
        }
        assert!(is_subject(&meaning(GrayAlphaImage::from_fn(20, 12, |x, y| LumaA([0, alpha(x, y)])))));
        // a cut-out of the photo itself
        assert!(is_subject(&meaning(RgbaImage::from_fn(20, 12, |x, y| Rgba([
            x as u8 * 12,
            y as u8 * 20,
            90,
            alpha(x, y)
        ])))));
        // white strokes on black, the rest erased
        let strokes = RgbaImage::from_fn(20, 12, |x, y| {
            if y == 11 { Rgba([255, 255, 255, 0]) } else { Rgba([alpha(x, y), alpha(x, y), alpha(x, y), 255]) }
        });
        assert!(is_subject(&meaning(strokes)));
        // opaque all over: the values tell
        let opaque = RgbaImage::from_fn(20, 12, |x, y| Rgba([alpha(x, y), alpha(x, y), alpha(x, y), 255]));
        assert!(is_subject(&meaning(opaque)));
    }
}
