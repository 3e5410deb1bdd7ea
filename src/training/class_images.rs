//! Class images for prior preservation: the base's own idea of the class, drawn once and kept, or a
//! folder of the user's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::RgbImage;
use image::imageops::{self, FilterType};
use serde::Serialize;

use crate::base::Base;
use crate::files::{Lock, digest, make_folder, write_whole};
use crate::images::png::save_png;
use crate::images::{self, pictures_in};
use crate::method::BaseAlone;
use crate::method::eqdiff::rra::ReferenceNoise;
use crate::sampling::{Drawn, Open, Order, Special, Style, blocks, draw_on_all};
use crate::settings::{SamplerName, Settings};

/// What generated class images depend on: others are other pictures.
#[derive(Clone, Debug, Serialize)]
pub struct Asked<'a> {
    /// The class word.
    pub class: &'a str,
    /// Their prompt, if it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Their side in pixels.
    pub side: usize,
    /// The base's identity.
    pub base: &'a str,
    /// How the base's weights are kept.
    pub dtype: String,
    /// Sampling steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// Their sampler, if it is not DDIM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sampler: Option<SamplerName>,
}

impl<'a> Asked<'a> {
    /// The class images of a training.
    pub fn new(base: &'a Base, class: &'a str, side: usize, settings: &Settings) -> Self {
        let prior = &settings.prior;
        Self {
            class,
            prompt: Some(prior.prompt_of(class)).filter(|prompt| prompt != class),
            side,
            base: &base.identity,
            dtype: base.precision.to_string(),
            steps: prior.class_steps,
            guidance: settings.class_guidance(),
            sampler: Some(prior.sampler).filter(|&sampler| sampler != SamplerName::Ddim),
        }
    }

    /// The folder below `root` that these images are kept in, and no others.
    ///
    /// # Errors
    /// Never; the library that writes TOML could.
    pub fn folder(&self, root: &Path) -> Result<PathBuf> {
        let word: String = self.class.chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
        Ok(root.join(format!("{}-{}-{}", word.trim_matches('-'), self.side, digest(self.toml()?.as_bytes(), 6))))
    }

    fn toml(&self) -> Result<String> {
        toml::to_string(self).context("cannot write down what class images were asked for")
    }
}

/// How drawing class images goes.
pub enum Course<'a> {
    /// Another process draws them.
    Waits,
    /// Picture-steps.
    #[allow(missing_docs)] // what is done, and in all
    Drawn { done: usize, all: usize },
    /// See [`Drawn::Lost`].
    Lost(&'a str),
}

/// `count` class images; those that `folder` has not yet are drawn, by the `others` of [`draw_on_all`] too, and saved
/// there, one by one. One process draws at a time, others wait for it.
///
/// # Errors
/// If an image cannot be drawn, written or read, or `tell` wants to stop.
pub fn generated(
    base: &Base,
    others: (&[usize], &Open),
    folder: &Path,
    asked: &Asked,
    count: usize,
    mut tell: impl FnMut(Course) -> Result<()>,
) -> Result<Vec<RgbImage>> {
    make_folder(folder)?;
    let path = |i: usize| folder.join(format!("{i:05}.png"));
    let lacks = |i: &usize| !path(*i).is_file();
    let lock = Lock::wait(folder, || match (0..count).any(|i| lacks(&i)) {
        true => tell(Course::Waits).map(|()| true),
        false => Ok(false),
    })?;
    lock.as_ref().map(Lock::sweep).transpose()?;
    let style = Style {
        negative: "",
        sampler: asked.sampler.unwrap_or_default(),
        steps: asked.steps,
        guidance: asked.guidance,
        guidance_rescale: 0.,
        size: (asked.side, asked.side),
        reference: None,
        reference_noise: ReferenceNoise::Clean,
        special: Special::default(),
    };
    // in whole blocks, so that each picture is what it would be in a list that nothing interrupted
    let missing = blocks(base, &BaseAlone, &style, count)?.filter(|block| block.clone().any(|i| lacks(&i)));
    let missing: Vec<usize> = missing.flatten().collect();
    let pictures = || (0..count).map(|i| read(&path(i), asked.side)).collect();
    if missing.is_empty() {
        return pictures();
    }
    let prompt = asked.prompt.as_deref().unwrap_or(asked.class);
    write_whole(&folder.join("asked.toml"), asked.toml()?.as_bytes())?;
    let (all, mut done) = (missing.len() * style.steps, 0);
    let order = |&i: &usize| Order { prompt: prompt.to_string(), seed: i as u64, init_latents: None };
    let orders: Vec<Order> = missing.iter().map(order).collect();
    draw_on_all(base, &BaseAlone, Some(others), &style, &orders, |drawn| match drawn {
        Drawn::Steps(steps) => {
            done += steps;
            tell(Course::Drawn { done, all })
        }
        Drawn::Lost(text) => tell(Course::Lost(&text)),
        Drawn::Picture(i, image) if lacks(&missing[i]) => save_png(&path(missing[i]), &image, &[("prompt", prompt)]),
        Drawn::Picture(..) | Drawn::Sketch(..) => Ok(()),
    })?;
    pictures()
}

/// All pictures of a folder, of each the square at its centre, at `side` pixels.
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
    // keeps proportions; always the centre, since a class image is encoded once and told by its pixels
    let (width, height) = image.dimensions();
    let shorter = width.min(height);
    let square = imageops::crop_imm(&image, (width - shorter) / 2, (height - shorter) / 2, shorter, shorter).to_image();
    Ok(imageops::resize(&square, side, side, FilterType::CatmullRom))
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn class_images_of_the_users_keep_their_proportions() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |place: u32| Rgb(if (20..40).contains(&place) { [0, 200, 0] } else { [200, 0, 0] });
        RgbImage::from_fn(60, 20, |x, _| at(x)).save(folder.path().join("a.png"))?;
        RgbImage::from_fn(20, 60, |_, y| at(y)).save(folder.path().join("b.png"))?;
        let middle = RgbImage::from_pixel(10, 10, Rgb([0, 200, 0]));
        assert!(from_folder(folder.path(), 10)? == [middle.clone(), middle]);
        Ok(())
    }
}
