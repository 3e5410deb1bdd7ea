//! JPEG, strictly: a file that is cut short is refused, where most decoders fill it up with gray.

use anyhow::{Context, Result, bail};
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, RgbImage};
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::icc;
use super::jpeg_scan::{Component, Tables};
use super::stored::{Stored, check_size};

/// What the markers of a file say.
struct Outline {
    width: u32,
    height: u32,
    components: Vec<Component>,
    /// Whether all coefficients have to be kept until the last scan.
    kept: bool,
    /// Whether Adobe's marker is there; then the four inks of CMYK are stored inverted.
    adobe: bool,
}

/// Decodes the file's content.
///
/// # Errors
/// If it is cut short, damaged, of a kind that nobody writes, or too large.
pub(super) fn decode(bytes: &[u8]) -> Result<Stored> {
    let outline = outline(bytes)?;
    let (width, height) = (outline.width, outline.height);
    let pixels = width as u64 * height as u64;
    let sampled: u64 = outline.components.iter().map(|c| c.across * c.down).sum();
    let most = |f: fn(&Component) -> u64| outline.components.iter().map(f).max().unwrap_or(1).max(1);
    let coefficients = if outline.kept { 2 * pixels * sampled / (most(|c| c.across) * most(|c| c.down)) } else { 0 };
    let channels = outline.components.len() as u64;
    let expanded = if channels == 1 { 3 } else { 0 };
    check_size(width, height, pixels * (channels + expanded) + coefficients)?;

    let (decoder, values) = strict(bytes).or_else(|error| {
        // stray bytes between the headers cost nothing; what is missing in the scans does
        if error.to_string().contains("[strict-mode]") { scans(bytes, false) } else { Err(error) }
    })?;
    let profile = decoder.icc_profile();
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let mut stored = Stored::of(orientation.unwrap_or(Orientation::NoTransforms), profile);
    let none = "the decoder gave too few values";
    stored.image = match channels {
        1 => DynamicImage::ImageLuma8(GrayImage::from_raw(width, height, values).context(none)?),
        3 => DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, values).context(none)?),
        _ => {
            let mut inks = values;
            let ycck = decoder.input_colorspace() == Some(ColorSpace::YCCK);
            ink(&mut inks, ycck, outline.adobe);
            // the profile of inks ends here: what follows is sRGB
            let values = icc::inks_to_rgb(inks, width as usize, stored.profile.take().as_deref(), &mut stored.warnings);
            DynamicImage::ImageRgb8(RgbImage::from_raw(width, height, values).context(none)?)
        }
    };
    Ok(stored)
}

type Decoder<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

fn strict(bytes: &[u8]) -> Result<(Decoder<'_>, Vec<u8>)> {
    scans(bytes, true)
}

fn scans(bytes: &[u8], strict: bool) -> Result<(Decoder<'_>, Vec<u8>)> {
    let options =
        DecoderOptions::default().set_strict_mode(strict).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let out = match decoder.input_colorspace() {
        Some(space @ (ColorSpace::Luma | ColorSpace::CMYK | ColorSpace::YCCK)) => space,
        Some(ColorSpace::MultiBand(_)) | None => bail!("its colours are of a kind that is not read"),
        Some(_) => ColorSpace::RGB,
    };
    decoder.set_options(options.jpeg_set_out_colorspace(out));
    let mut values = vec![0; decoder.output_buffer_size().context("no size is given")?];
    decoder.decode_into(&mut values)?;
    Ok((decoder, values))
}

/// Brings four stored values to inks from 0 (none) to 255.
fn ink(values: &mut [u8], ycck: bool, inverted: bool) {
    for pixel in values.chunks_exact_mut(4) {
        if ycck {
            let (y, cb, cr) = (pixel[0] as f32, pixel[1] as f32 - 128., pixel[2] as f32 - 128.);
            let byte = |value: f32| value.round().clamp(0., 255.) as u8;
            // as libjpeg has it: the inks are what is missing to white
            pixel[0] = 255 - byte(y + 1.402 * cr);
            pixel[1] = 255 - byte(y - 0.344_136 * cb - 0.714_136 * cr);
            pixel[2] = 255 - byte(y + 1.772 * cb);
        }
        if inverted {
            for value in pixel {
                *value = 255 - *value;
            }
        }
    }
}

/// Walks over the markers up to the end of the picture; thumbnails and what is appended do not count.
fn outline(bytes: &[u8]) -> Result<Outline> {
    const CUT: &str = "it is cut short: the end of the JPEG is missing (copy or download it again)";
    let mut found = Outline { width: 0, height: 0, components: Vec::new(), kept: false, adobe: false };
    let mut tables = Tables::default();
    let mut scanned = false;
    let mut is_baseline = false;
    let mut at = 2;
    loop {
        // a marker is 0xff and a code; more 0xff may stand before it
        let Some(next) = bytes.get(at..).and_then(|rest| rest.windows(2).position(|w| w[0] == 0xff && w[1] != 0xff))
        else {
            bail!(CUT)
        };
        let code = bytes[at + next + 1];
        at += next + 2;
        match code {
            0x00 | 0x01 | 0xd0..=0xd8 => continue,
            0xd9 if scanned => break,
            0xd9 => bail!("there is no picture in it"),
            _ => {}
        }
        let length = match bytes.get(at..at + 2) {
            Some(length) => u16::from_be_bytes([length[0], length[1]]) as usize,
            None => bail!(CUT),
        };
        let Some(segment) = bytes.get(at + 2..at + length.max(2)) else { bail!(CUT) };
        at += length.max(2);
        match code {
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&code) => {
                frame(code, segment, &mut found)?;
                is_baseline = code != 0xc2;
            }
            0xc4 => tables.define(segment),
            0xdd => tables.interval = segment.get(..2).map_or(0, |n| u16::from_be_bytes([n[0], n[1]]) as usize),
            0xee => found.adobe |= segment.starts_with(b"Adobe"),
            0xda => {
                scanned = true;
                // components that come one after the other wait for each other
                let shown = segment.first().copied().unwrap_or(0) as usize;
                found.kept |= shown < found.components.len();
                let size = (found.width as u64, found.height as u64);
                if is_baseline && !tables.is_whole(segment, &bytes[at..], &found.components, size) {
                    bail!("it is cut short: a part of its pixels is missing (copy or download it again)");
                }
            }
            _ => {}
        }
    }
    if found.width == 0 || found.height == 0 {
        bail!("it says no size");
    }
    Ok(found)
}

fn frame(code: u8, segment: &[u8], found: &mut Outline) -> Result<()> {
    let [bits, h1, h0, w1, w0, count, components @ ..] = segment else { bail!("its frame header is damaged") };
    if ![0xc0, 0xc1, 0xc2].contains(&code) || *bits != 8 {
        bail!("it is a lossless, hierarchical, arithmetic or {bits} bit JPEG: convert it to PNG or plain JPEG");
    }
    if ![1, 3, 4].contains(count) {
        bail!("it has {count} colour channels: convert it to PNG");
    }
    found.height = u16::from_be_bytes([*h1, *h0]) as u32;
    found.width = u16::from_be_bytes([*w1, *w0]) as u32;
    found.kept |= code == 0xc2;
    found.components = components
        .chunks_exact(3)
        .take(*count as usize)
        .map(|c| Component { id: c[0], across: c[1] as u64 >> 4, down: c[1] as u64 & 15 })
        .collect();
    if found.components.len() != *count as usize {
        bail!("its frame header is damaged");
    }
    Ok(())
}
