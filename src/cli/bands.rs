//! `eqdiff bands`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Outcome;
use super::output::print;
use crate::files::make_folder;
use crate::images;
use crate::images::png::save_png;
use crate::method::eqdiff::fdte::split_bands;
use crate::settings::Layers;

/// Arguments of `bands`.
#[derive(Args)]
#[command(after_help = "Example:\n  eqdiff bands photo.jpg --preset paper --out bands/")]
pub struct BandsArgs {
    /// A PNG or JPEG picture
    image: PathBuf,
    /// Whose filter: eqdiff (the released code's) or paper
    #[arg(long, default_value = "eqdiff")]
    preset: String,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where NAME-low.png and NAME-high.png go
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

/// Writes what FDTE sees of a picture.
pub fn run(args: &BandsArgs) -> Result<Outcome> {
    let mut layers = Layers::new()?.preset(&args.preset)?;
    if let Some(path) = &args.config {
        layers = layers.file(path)?;
    }
    let settings = layers.settings()?;
    let path = &args.image;
    let image = images::open(path)?;
    let split = settings.fdte.split(image.width().min(image.height()) as usize);
    let (low, high) = split_bands(&images::to_picture(&image), &split);
    make_folder(&args.out)?;
    let stem = path.file_stem().map_or_else(|| "picture".into(), |stem| stem.to_string_lossy());
    for (name, band, cutoff) in [("low", low, split.low_cutoff), ("high", high, split.high_cutoff)] {
        let out = args.out.join(format!("{stem}-{name}.png"));
        save_png(&out, &images::from_picture(&band), &[])?;
        let side = if name == "low" { "below" } else { "above" };
        print(format!(
            "{}: {side} {cutoff} cycles per picture ({:?}, {:?})",
            out.display(),
            settings.fdte.filter,
            split.region
        ))?;
    }
    Ok(Outcome::Done)
}
