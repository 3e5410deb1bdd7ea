//! Class images for prior preservation: the base's own idea of the class, drawn once and kept, or a
//! folder of the user's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::base::Base;
use crate::images::png::save_png;
use crate::images::{self, pictures_in};
use crate::sampling::{Order, Style, draw};
use crate::settings::Settings;

/// The folder that generated images of a class are kept in, below `root`.
pub fn folder(root: &Path, base: &Base, class: &str, side: usize) -> PathBuf {
    let word: String = class.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    root.join(format!("{word}-{side}-{}", base.fingerprint))
}

/// `count` class images of `side` pixels; those that `folder` has not yet are drawn and saved there.
/// `progress` is told of picture-steps: done and in all.
///
/// # Errors
/// If an image cannot be drawn, written or read.
pub fn generated(
    base: &Base,
    folder: &Path,
    class: &str,
    side: usize,
    settings: &Settings,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Vec<RgbImage>> {
    let count = settings.prior.class_images;
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let path = |i: usize| folder.join(format!("{i:05}.png"));
    let missing: Vec<usize> = (0..count).filter(|&i| !path(i).is_file()).collect();
    let style = Style {
        negative: "",
        steps: settings.prior.class_steps,
        guidance: settings.sampling.guidance,
        size: (side, side),
        reference: None,
        reference_noise: settings.rra.reference_noise,
    };
    let all = missing.len() * style.steps;
    let mut done = 0;
    for group in missing.chunks(8) {
        let order = |&i: &usize| Order { prompt: class.to_string(), seed: i as u64, init_latents: None };
        let orders: Vec<Order> = group.iter().map(order).collect();
        let images = draw(base, None, &style, &orders, |count| {
            done += count;
            progress(done, all)
        })?;
        for (&i, image) in group.iter().zip(&images) {
            save_png(&path(i), image, &[("prompt", class)])?;
        }
    }
    (0..count).map(|i| read(&path(i), side)).collect()
}

/// All pictures of a folder, at `side` pixels.
///
/// # Errors
/// If there are none, or one cannot be read.
pub fn from_folder(folder: &Path, side: usize) -> Result<Vec<RgbImage>> {
    pictures_in(folder)?.iter().map(|path| read(path, side)).collect()
}

fn read(path: &Path, side: usize) -> Result<RgbImage> {
    let side = side as u32;
    let image = images::open(path)?;
    if image.dimensions() == (side, side) {
        return Ok(image);
    }
    Ok(imageops::resize(&image, side, side, FilterType::CatmullRom))
}
