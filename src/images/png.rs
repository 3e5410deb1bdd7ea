//! PNG files with text: how a picture was drawn travels inside it.

use std::path::Path;

use anyhow::{Context, Result};
use image::RgbImage;

use crate::files::write_whole;

/// How a picture was drawn, in the layout that AUTOMATIC1111's viewers read.
#[allow(missing_docs)] // the names of that layout
pub struct Parameters<'a> {
    pub prompt: &'a str,
    pub negative: &'a str,
    pub steps: usize,
    pub sampler: &'a str,
    pub guidance: f64,
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
        let model = if self.model.contains([',', ':', '\n']) { format!("{:?}", self.model) } else { self.model.into() };
        let Self { steps, sampler, guidance, seed, width, height, .. } = self;
        write!(
            f,
            "Steps: {steps}, Sampler: {sampler}, CFG scale: {guidance}, Seed: {seed}, Size: {width}x{height}, \
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
