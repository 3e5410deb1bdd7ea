//! A file's pixels in the file's own form, within a bound of memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use image::codecs::{bmp::BmpDecoder, gif::GifDecoder, png::PngDecoder, tiff::TiffDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, Limits};

use super::format::{CONVERT, Format, HEAD, Kind, kind};
use super::stored::{LARGEST, Stored, check_size};
use super::{gif, jpeg, png, shown};

/// Bytes that profiles and texts of a PNG may take, and a row of its pixels.
const SIDE_DATA: u64 = 64 << 20;

/// Decodes a file.
///
/// # Errors
/// If it is missing, damaged, cut short, of another format or too large; the message names it.
pub(super) fn decode(path: &Path) -> Result<Stored> {
    let read = || {
        let meta = std::fs::metadata(path)?;
        if meta.is_dir() {
            bail!("it is a folder");
        }
        if !meta.is_file() {
            bail!("it is no ordinary file"); // a pipe would be waited for
        }
        decode_source(BufReader::new(File::open(path)?), path)
    };
    read().with_context(|| format!("cannot read the picture {}", shown(path)))
}

/// Decodes a file's content; `name` is for formats that only a name tells.
///
/// # Errors
/// As [`decode`], but the message does not name it.
pub(super) fn decode_bytes(bytes: &[u8], name: &Path) -> Result<Stored> {
    decode_source(Cursor::new(bytes), name)
}

fn decode_source(mut source: impl BufRead + Seek, name: &Path) -> Result<Stored> {
    let mut head = Vec::new();
    source.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let length = source.seek(SeekFrom::End(0))?;
    source.rewind()?;
    let format = match kind(&head, name) {
        Kind::Picture(format) => format,
        Kind::Foreign(what) => bail!("it is {what}: {CONVERT}"),
        Kind::Misnamed(what) => bail!("{what}"),
        Kind::Other if head.is_empty() => bail!("it is empty"),
        Kind::Other => bail!("it is no picture (PNG, JPEG, WebP, TIFF, BMP and GIF are read)"),
    };
    let limits = |bytes: u64| {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(bytes);
        limits
    };
    match format {
        Format::Jpeg => {
            if length > LARGEST {
                bail!("its {} MiB are too many", length >> 20);
            }
            let mut bytes = Vec::with_capacity(length as usize);
            source.read_to_end(&mut bytes)?;
            jpeg::decode(&bytes)
        }
        Format::Png => {
            let has_profile = png::check_chunks(&mut source)?;
            source.rewind()?;
            let mut stored = pixels(PngDecoder::with_limits(source, limits(SIDE_DATA)).map_err(explained)?, 0)?;
            stored.indexed = head.get(25) == Some(&3);
            if has_profile && stored.profile.is_none() {
                stored.warnings.push("its colour profile is damaged and left aside".into());
            }
            Ok(stored)
        }
        Format::WebP => {
            let riff = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as u64 + 8;
            if length < riff {
                bail!("it is cut short: {length} of {riff} bytes are there (copy or download it again)");
            }
            // the decoder keeps a frame of four channels beside the result
            pixels(WebPDecoder::new(source).map_err(explained)?, 4)
        }
        Format::Tiff => {
            let mut decoder = TiffDecoder::new(source).map_err(explained)?;
            // values are decoded into a buffer of the decoder's own first, four inks for each pixel if need be
            let own = decoder.color_type().bytes_per_pixel() as u64 * 4 / 3 + 1;
            decoder.set_limits(limits(LARGEST))?;
            pixels(decoder, own)
        }
        Format::Gif => {
            gif::check_first_frame(&mut source)?;
            source.rewind()?;
            let mut decoder = GifDecoder::new(source).map_err(explained)?;
            decoder.set_limits(limits(LARGEST / 2))?; // for a first frame that is not as large as the picture
            pixels(decoder, 0)
        }
        Format::Bmp => pixels(BmpDecoder::new(source).map_err(explained)?, 0),
    }
}

/// The pixels of any decoder that takes `beside` more bytes for each of them while it works.
fn pixels(mut decoder: impl ImageDecoder, beside: u64) -> Result<Stored> {
    let (width, height) = decoder.dimensions();
    let colour = decoder.color_type();
    // three bytes are made of other forms, and the alpha channel is kept
    let made = if matches!(colour, ColorType::Rgb8 | ColorType::Rgba8) { 0 } else { 3 } + colour.has_alpha() as u64;
    let each = colour.bytes_per_pixel() as u64 + made + beside;
    check_size(width, height, (width as u64 * height as u64).saturating_mul(each))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let profile = decoder.icc_profile().unwrap_or_default();
    let mut stored = Stored::of(orientation, profile);
    stored.image = DynamicImage::from_decoder(decoder).map_err(explained)?;
    Ok(stored)
}

/// What decoders say of files that end too early or are of rare kinds.
fn explained(error: image::ImageError) -> anyhow::Error {
    let ends = match &error {
        image::ImageError::IoError(io) => io.kind() == std::io::ErrorKind::UnexpectedEof,
        other => {
            let text = other.to_string().to_lowercase();
            ["end of file", "unexpected eof", "unexpectedeof", "end of stream"].iter().any(|t| text.contains(t))
        }
    };
    let is_unsupported = matches!(error, image::ImageError::Unsupported(_));
    let error = anyhow::Error::new(error);
    if is_unsupported {
        return error.context(format!("it is of a kind that is not read: {CONVERT}"));
    }
    if ends { error.context("it is cut short (copy or download it again)") } else { error }
}
