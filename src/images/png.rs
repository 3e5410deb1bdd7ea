//! PNG files with text: how a picture was drawn travels inside it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail};
use flate2::read::ZlibDecoder;
use image::codecs::{jpeg::JpegDecoder, webp::WebPDecoder};
use image::{ImageDecoder, RgbImage};

use super::exif::user_comment;
use super::format::{Format, HEAD, Kind, kind};
use super::parameters::Written;
use super::shown;
use crate::files::write_whole;

/// Bytes that a text may take, packed or not; more is no prompt but an attack.
const LONGEST_TEXT: u64 = 1 << 20;

/// The key that viewers look for.
const PARAMETERS: &[u8] = b"parameters";

/// How a picture was drawn, in the layout that AUTOMATIC1111's viewers read.
#[allow(missing_docs)] // the names of that layout
pub struct Parameters<'a> {
    pub prompt: &'a str,
    pub negative: &'a str,
    pub steps: usize,
    pub sampler: &'a str,
    pub guidance: f64,
    pub guidance_rescale: f64,
    /// More names and values.
    pub others: Vec<(&'static str, String)>,
    pub seed: u64,
    pub width: u32,
    pub height: u32,
    pub model: &'a str,
}

impl std::fmt::Display for Parameters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        writeln!(f, "{}", self.prompt)?;
        if !self.negative.is_empty() {
            writeln!(f, "Negative prompt: {}", self.negative)?;
        }
        // values with a comma, colon or line break are quoted
        let quoted = |value: &str| match value.contains([',', ':', '\n']) {
            true => serde_json::Value::from(value).to_string(),
            false => value.to_string(),
        };
        let model = quoted(self.model);
        let Self { steps, sampler, guidance, seed, width, height, .. } = self;
        let rescale = match self.guidance_rescale {
            0. => String::new(),
            share => format!("CFG rescale: {share}, "),
        };
        let others: String = self.others.iter().map(|(name, value)| format!("{name}: {}, ", quoted(value))).collect();
        write!(
            f,
            "Steps: {steps}, Sampler: {sampler}, CFG scale: {guidance}, {rescale}{others}Seed: {seed}, Size: {width}x{height}, \
             Model: {model}, Version: eqdiff {}",
            env!("CARGO_PKG_VERSION")
        )
    }
}

/// Writes a PNG with text chunks; a failure leaves no half file.
///
/// # Errors
/// If the file cannot be written; the message names it.
pub fn save_png(path: &Path, image: &RgbImage, text: &[(&str, &str)]) -> Result<()> {
    let bytes = png_bytes(image, text).with_context(|| format!("cannot encode {}", path.display()))?;
    write_whole(path, &bytes)
}

/// A PNG file's content.
///
/// # Errors
/// If the picture has no pixels.
pub fn png_bytes(image: &RgbImage, text: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, image.width(), image.height());
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    for (key, value) in text {
        let latin = value.chars().all(|c| (c as u32) < 256);
        if latin {
            encoder.add_text_chunk(key.to_string(), value.to_string())?;
        } else {
            encoder.add_itxt_chunk(key.to_string(), value.to_string())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image.as_raw())?;
    writer.finish()?;
    Ok(bytes)
}

/// How a picture was drawn, as its file says: in a text of a PNG, in the EXIF comment of a JPEG or WebP.
///
/// # Errors
/// If the file cannot be read; the message names it.
pub fn read_parameters(path: &Path) -> Result<Option<Written>> {
    let text = || {
        let mut source = BufReader::new(File::open(path)?);
        let head = source.fill_buf()?;
        let exif = match kind(&head[..head.len().min(HEAD)], path) {
            Kind::Picture(Format::Png) => return text_of(&mut source, PARAMETERS),
            Kind::Picture(Format::Jpeg) => JpegDecoder::new(source)?.exif_metadata()?,
            Kind::Picture(Format::WebP) => WebPDecoder::new(source)?.exif_metadata()?,
            _ => None,
        };
        anyhow::Ok(exif.and_then(|exif| user_comment(&exif)))
    };
    let text = text().with_context(|| format!("cannot read {}", shown(path)))?;
    Ok(text.map(|text| Written::parse(&text)))
}

/// The text by which this program knows its own sheets and bands.
const OURS: (&str, &str) = ("Software", "eqdiff");

/// Whether a file is a PNG that says it is this program's.
pub fn is_ours(path: &Path) -> bool {
    let text = || text_of(&mut BufReader::new(File::open(path)?), OURS.0.as_bytes());
    path.is_file() && text().is_ok_and(|text| text.as_deref() == Some(OURS.1))
}

/// The texts of a sheet: it shows pictures to people, and is none of a folder's pictures itself.
pub const SHEET: [(&str, &str); 2] = [OURS, ("Title", "contact sheet")];

/// Whether a file that begins so is a sheet of this program's, whatever it is called.
pub(super) fn is_sheet(head: &[u8]) -> bool {
    let (key, value) = SHEET[1];
    let mark = ["tEXt", key, "\0", value].concat().into_bytes();
    head[..head.len().min(HEAD)].windows(mark.len()).any(|bytes| bytes == mark)
}

/// Writes a PNG that says it is this program's; an older one is replaced only if it does so too.
///
/// # Errors
/// If the file is somebody else's or cannot be written; the message names it.
pub fn save_over_ours(path: &Path, image: &RgbImage) -> Result<()> {
    save_over(path, image, &[OURS])
}

/// The same of a sheet.
///
/// # Errors
/// As [`save_over_ours`].
pub fn save_sheet_over_ours(path: &Path, image: &RgbImage) -> Result<()> {
    save_over(path, image, &SHEET)
}

fn save_over(path: &Path, image: &RgbImage, text: &[(&str, &str)]) -> Result<()> {
    if path.exists() && !is_ours(path) {
        bail!("{} is there already and not from eqdiff: choose another folder with --out", shown(path));
    }
    save_png(path, image, text)
}

/// The first text of a PNG with that key.
fn text_of(source: &mut (impl BufRead + Seek), key: &[u8]) -> Result<Option<String>> {
    let mut found = None;
    chunks(source, |kind, data| {
        if found.is_none() && matches!(kind, b"tEXt" | b"zTXt" | b"iTXt") {
            let mut content = Vec::new();
            data.take(LONGEST_TEXT).read_to_end(&mut content)?;
            found = value_of(kind, &content, key);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The text of a chunk that has the key. One that is damaged or too long says nothing.
fn value_of(kind: &[u8; 4], content: &[u8], wanted: &[u8]) -> Option<String> {
    let (key, value) = split_at_zero(content)?;
    if key != wanted {
        return None;
    }
    let latin = |bytes: Vec<u8>| bytes.into_iter().map(char::from).collect::<String>();
    match kind {
        b"tEXt" => Some(latin(value.to_vec())),
        b"zTXt" => match value {
            [0, packed @ ..] => Some(latin(unpacked(packed)?)),
            _ => None,
        },
        _ => {
            let [packed, _, rest @ ..] = value else { return None };
            let (_language, rest) = split_at_zero(rest)?;
            let (_translated, text) = split_at_zero(rest)?;
            let bytes = if *packed == 1 { unpacked(text)? } else { text.to_vec() };
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
    }
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

fn unpacked(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    ZlibDecoder::new(bytes).take(LONGEST_TEXT + 1).read_to_end(&mut content).ok()?;
    (content.len() as u64 <= LONGEST_TEXT).then_some(content)
}

/// Bytes before the first chunk.
const SIGNATURE: u64 = 8;

/// Walks over a PNG's chunks and says whether one is a colour profile.
///
/// # Errors
/// If the file ends before its end chunk.
pub(super) fn check_chunks(source: &mut (impl BufRead + Seek)) -> Result<bool> {
    let mut profile = false;
    chunks(source, |kind, _| {
        profile |= kind == b"iCCP";
        Ok(())
    })?;
    Ok(profile)
}

/// Calls `visit` with the kind and the content of each chunk up to the end chunk.
fn chunks<S: BufRead + Seek>(
    source: &mut S,
    mut visit: impl FnMut(&[u8; 4], std::io::Take<&mut S>) -> Result<()>,
) -> Result<()> {
    let length = source.seek(SeekFrom::End(0))?;
    let mut at = SIGNATURE;
    loop {
        if at + 12 > length {
            bail!("it is cut short: the end of the PNG is missing (copy or download it again)");
        }
        source.seek(SeekFrom::Start(at))?;
        let mut head = [0; 8];
        source.read_exact(&mut head)?;
        let [a, b, c, d, kind @ ..] = head;
        let size = u32::from_be_bytes([a, b, c, d]) as u64;
        if &kind == b"IEND" {
            return Ok(());
        }
        visit(&kind, source.by_ref().take(size))?;
        at += 12 + size;
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn parameters_are_laid_out_for_viewers() {
        let mut parameters = Parameters {
            prompt: "a S* dog",
            negative: "",
            steps: 50,
            sampler: "DDIM",
            guidance: 7.5,
            guidance_rescale: 0.,
            others: Vec::new(),
            seed: 42,
            width: 512,
            height: 256,
            model: "sd14",
        };
        let version = env!("CARGO_PKG_VERSION");
        let line = format!(
            "Steps: 50, Sampler: DDIM, CFG scale: 7.5, Seed: 42, Size: 512x256, Model: sd14, Version: eqdiff {version}"
        );
        assert_eq!(parameters.to_string(), format!("a S* dog\n{line}"));
        (parameters.negative, parameters.model) = ("blurry", "a,b");
        let text = parameters.to_string();
        assert!(text.starts_with("a S* dog\nNegative prompt: blurry\nSteps") && text.contains("Model: \"a,b\""));
        parameters.guidance_rescale = 0.7;
        assert!(parameters.to_string().contains("CFG scale: 7.5, CFG rescale: 0.7, Seed: 42"));
        parameters.others = vec![("Denoising strength", "0.5".into()), ("LoRAs", "a:1".into())];
        let written = parameters.to_string();
        assert!(written.contains("0.7, Denoising strength: 0.5, LoRAs: \"a:1\", Seed: 42"), "{written}");
    }

    #[test]
    fn text_chunks_survive_and_half_files_do_not() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.png");
        let image = RgbImage::from_pixel(3, 2, Rgb([1, 2, 3]));
        save_png(&path, &image, &[("parameters", "latin"), ("title", "日本")])?;
        let reader = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&path)?)).read_info()?;
        assert_eq!(reader.info().uncompressed_latin1_text[0].text, "latin");
        assert_eq!(reader.info().utf8_text[0].get_text()?, "日本");
        assert_eq!(image::open(&path)?.to_rgb8(), image);
        let nowhere = folder.path().join("none/a.png");
        assert!(save_png(&nowhere, &image, &[]).is_err_and(|e| e.to_string().contains("none")));
        Ok(())
    }
}
