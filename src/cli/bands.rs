//! `eqdiff bands`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use image::RgbImage;

use super::Outcome;
use super::output::print;
use crate::app::Observer;
use crate::app::train::PRESET;
use crate::files::make_folder;
use crate::images::png::save_over_ours;
use crate::images::{self, shown};
use crate::method::eqdiff::Band;
use crate::method::eqdiff::fdte::split_channels;
use crate::settings::{Layers, PRESETS};

/// A spectrum takes 16 bytes for each pixel: 384 MiB for so many.
const MOST_PIXELS: f64 = 24. * (1 << 20) as f64;

/// Arguments of `bands`.
#[derive(Args)]
#[command(after_help = "Example:\n  eqdiff bands photo.jpg --preset paper --out bands/")]
pub(super) struct BandsArgs {
    /// A picture: PNG, JPEG, WebP, TIFF, BMP or GIF
    image: PathBuf,
    /// Whose filter: eqdiff (the released code's) or paper
    #[arg(long, value_parser = PRESETS.map(|(name, _)| name), default_value = PRESET, hide_possible_values = true)]
    preset: String,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where NAME-low.png and NAME-high.png go
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

/// Writes what FDTE sees of a picture.
pub(super) fn run(args: &BandsArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let mut layers = Layers::new()?.preset(&args.preset)?;
    if let Some(path) = &args.config {
        layers = layers.file(path)?;
    }
    let settings = layers.settings()?;
    let path = &args.image;
    let read = images::read(path)?;
    for warning in &read.warnings {
        observer.warn(&format!("{}: {warning}", shown(path)));
    }
    let image = smaller(read.image, observer);
    let (width, height) = image.dimensions();
    let split = settings.fdte.split(width.min(height) as usize);
    let (mut low, mut high) = (RgbImage::new(width, height), RgbImage::new(width, height));
    let value = |i: usize| images::value_of(image.as_raw()[i]);
    split_channels(height as usize, width as usize, value, &split, |band, i, value| {
        let out: &mut [u8] = if band == Band::Low { &mut low } else { &mut high };
        out[i] = images::byte_of(value as f32);
    });
    make_folder(&args.out)?;
    let stem = path.file_stem().map_or_else(|| "picture".into(), |stem| stem.to_string_lossy());
    for (name, band, cutoff) in [("low", low, split.low_cutoff), ("high", high, split.high_cutoff)] {
        let out = args.out.join(format!("{stem}-{name}.png"));
        save_over_ours(&out, &band)?;
        let side = if name == "low" { "below" } else { "above" };
        print(format!(
            "{}: {side} {cutoff} cycles per picture ({:?}, {:?})",
            shown(&out),
            settings.fdte.filter,
            split.region
        ))?;
    }
    Ok(Outcome::Done)
}

/// A picture that a transform has memory for.
fn smaller(image: RgbImage, observer: &mut dyn Observer) -> RgbImage {
    let (width, height) = image.dimensions();
    let scale = (MOST_PIXELS / (width as f64 * height as f64)).sqrt();
    if scale >= 1. {
        return image;
    }
    let side = |n: u32| ((n as f64 * scale) as u32).max(1);
    let (width, height) = (side(width), side(height));
    observer.warn(&format!("the picture is reduced to {width}x{height}, so that its spectrum fits into memory"));
    images::resized(&image, width, height)
}
