//! Everything that a training step draws from, encoded once before the first step.

use anyhow::Result;
use candle_core::Tensor;
use image::{GrayImage, RgbImage, imageops};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::augment::augment;
use super::fdte::{Fdte, split_bands};
use super::losses::{Batch, ReferenceBatch};
use super::{Band, Recipe};
use crate::base::Base;
use crate::images::{self, Mask};
use crate::model::tokenizer::{PLACEHOLDER, Tokens};
use crate::model::vae::Posterior;
use crate::rng;
use crate::subject::{Photo, Subject};

/// A photo, its bands' posteriors, and its augmented copies as references for the other photos.
struct Instance {
    /// Low, high, original.
    bands: Vec<Posterior>,
    mask: Mask,
    prompt: Tokens,
    references: Vec<ReferenceImage>,
}

/// An image that the reference pass may be given.
struct ReferenceImage {
    posterior: Posterior,
    mask: Mask,
    prompt: Tokens,
}

struct ClassImage {
    posterior: Posterior,
    reference: Option<ReferenceImage>,
}

/// The encoded subject and class images.
pub struct Data {
    instances: Vec<Instance>,
    classes: Vec<ClassImage>,
    class_prompt: Tokens,
    latent_side: usize,
}

/// How many images [`Data::encode`] encodes, for a progress bar.
pub fn encodings(subject: &Subject, class_images: usize, recipe: &Recipe) -> usize {
    let bands = if recipe.fdte.enabled { 3 } else { 1 };
    let references = if recipe.rra.enabled { recipe.rra.references_per_photo } else { 0 };
    let class = if recipe.rra.enabled { 2 } else { 1 };
    subject.photos.len() * (bands + references) + class_images * class
}

impl Data {
    /// Encodes the subject's photos, their bands and references, and the class images, at `side` pixels.
    ///
    /// # Errors
    /// If an encoding is not finite (a broken VAE), or `progress` wants to stop.
    pub fn encode(
        base: &Base,
        subject: &Subject,
        class_images: &[RgbImage],
        recipe: &Recipe,
        side: usize,
        mut progress: impl FnMut() -> Result<()>,
    ) -> Result<Self> {
        let latent_side = side / base.vae.factor();
        let tokens = |text: &str| base.tokenizer.encode(text, PLACEHOLDER);
        let mut encode = |image: Tensor, name: &str| -> Result<Posterior> {
            let posterior = base.encoded(&image, name)?;
            progress()?;
            Ok(posterior)
        };
        let mut reference = |image: &RgbImage, mask: &GrayImage, prompt: &str, name: &str, rng: &mut ChaCha8Rng| {
            let augmented = augment(image, mask, recipe.rra.augmentation, rng);
            anyhow::Ok(ReferenceImage {
                posterior: encode(images::to_tensor(&augmented.image, &base.device)?, name)?,
                mask: Mask::from_gray(&augmented.mask).at(latent_side),
                prompt: tokens(&format!("{}{prompt}", augmented.caption))?,
            })
        };
        let seed = recipe.seed;
        let photo_of = format!("photo of a {}", subject.class);
        let per_photo = if recipe.rra.enabled { recipe.rra.references_per_photo } else { 0 };
        let mut references = Vec::new();
        for (i, photo) in subject.photos.iter().enumerate() {
            let (image, name) = (photo.square(side as u32), photo.path.display().to_string());
            let mask = imageops::resize(&photo.mask, side as u32, side as u32, imageops::FilterType::Nearest);
            let mut rng = rng::stream(seed, "references", i as u64);
            let all = (0..per_photo).map(|_| reference(&image, &mask, &photo_of, &name, &mut rng));
            references.push(all.collect::<Result<Vec<_>>>()?);
        }
        let mut class_references = Vec::new();
        for (i, image) in class_images.iter().enumerate() {
            if !recipe.rra.enabled {
                class_references.push(None);
                continue;
            }
            let mask = GrayImage::from_pixel(image.width(), image.height(), image::Luma([255]));
            let mut rng = rng::stream(seed, "class references", i as u64);
            let augmented = reference(image, &mask, &recipe.class_prompt, "a class image", &mut rng)?;
            // there is no subject in a class image: all of it counts
            class_references.push(Some(ReferenceImage { mask: Mask::full(1., latent_side, latent_side), ..augmented }));
        }
        let usual = format!("photo of a {PLACEHOLDER} {}", subject.class);
        let mut instances = Vec::new();
        for (photo, references) in subject.photos.iter().zip(references) {
            let mut bands = Vec::new();
            for image in band_tensors(photo, &recipe.fdte, side, base)? {
                bands.push(encode(image, &photo.path.display().to_string())?);
            }
            let prompt = tokens(photo.caption.as_ref().unwrap_or(&usual))?;
            instances.push(Instance { bands, mask: photo.subject_at(latent_side), prompt, references });
        }
        let mut classes = Vec::new();
        for (image, reference) in class_images.iter().zip(class_references) {
            let posterior = encode(images::to_tensor(image, &base.device)?, "a class image")?;
            classes.push(ClassImage { posterior, reference });
        }
        Ok(Self { instances, classes, class_prompt: tokens(&recipe.class_prompt)?, latent_side })
    }

    /// Side of the latents that everything was encoded to.
    pub fn latent_side(&self) -> usize {
        self.latent_side
    }

    /// The samples of step `step`, which depend on nothing but the seed and the step.
    ///
    /// # Errors
    /// If tensors cannot be made.
    pub fn batch(&self, base: &Base, recipe: &Recipe, step: usize) -> Result<Batch> {
        let mut rng = rng::stream(recipe.seed, "step", step as u64);
        let count = recipe.batch_size;
        let subject =
            (0..count).map(|_| self.subject_sample(base, &recipe.fdte, &mut rng)).collect::<Result<Vec<_>>>()?;
        let classes = if self.classes.is_empty() { 0 } else { count };
        let classes = (0..classes).map(|_| self.class_sample(base, &mut rng)).collect::<Result<Vec<_>>>()?;
        stacked(subject.into_iter().chain(classes).collect())
    }

    fn subject_sample(&self, base: &Base, fdte: &Fdte, rng: &mut ChaCha8Rng) -> Result<Sample> {
        let chosen = rng.random_range(0..self.instances.len());
        let instance = &self.instances[chosen];
        let band = if fdte.enabled { Band::draw(fdte.probabilities, rng) } else { Band::Original };
        let posterior = &instance.bands[(band as usize).min(instance.bands.len() - 1)];
        let reference = self.another(chosen, rng);
        self.sample(base, posterior, reference, rng, |sample| Sample {
            prompt: instance.prompt.clone(),
            band,
            mask: instance.mask.clone(),
            ..sample
        })
    }

    fn class_sample(&self, base: &Base, rng: &mut ChaCha8Rng) -> Result<Sample> {
        let class = &self.classes[rng.random_range(0..self.classes.len())];
        self.sample(base, &class.posterior, class.reference.as_ref(), rng, |sample| Sample { is_prior: true, ..sample })
    }

    /// A sample of a class image, which `change` may make one of the subject.
    fn sample(
        &self,
        base: &Base,
        posterior: &Posterior,
        reference: Option<&ReferenceImage>,
        rng: &mut ChaCha8Rng,
        change: impl FnOnce(Sample) -> Sample,
    ) -> Result<Sample> {
        let mut normal = || rng::normal(posterior.mean.shape(), rng, &base.device);
        let noise = normal()?;
        let latents = base.latents(posterior, &normal()?)?;
        let reference = match reference {
            Some(image) => {
                let latents = base.latents(&image.posterior, &normal()?)?;
                Some((latents, image.prompt.clone(), image.mask.clone()))
            }
            None => None,
        };
        Ok(change(Sample {
            latents,
            noise,
            timestep: rng.random_range(0..base.scheduler.timesteps()),
            prompt: self.class_prompt.clone(),
            is_prior: false,
            band: Band::Original,
            mask: Mask::full(1., self.latent_side, self.latent_side),
            reference,
        }))
    }

    /// A reference made of another photo than `chosen`, or of the same where there is only one.
    fn another(&self, chosen: usize, rng: &mut ChaCha8Rng) -> Option<&ReferenceImage> {
        let others: Vec<usize> = (0..self.instances.len()).filter(|&i| i != chosen).collect();
        let photo = others.choose(rng).copied().unwrap_or(chosen);
        self.instances[photo].references.choose(rng)
    }
}

/// One sample of a step.
struct Sample {
    latents: Tensor,
    noise: Tensor,
    timestep: usize,
    prompt: Tokens,
    is_prior: bool,
    band: Band,
    mask: Mask,
    /// Latents, prompt and mask.
    reference: Option<(Tensor, Tokens, Mask)>,
}

fn stacked(samples: Vec<Sample>) -> Result<Batch> {
    let stack = |tensors: Vec<&Tensor>| Tensor::cat(&tensors, 0);
    let references: Option<Vec<_>> = samples.iter().map(|s| s.reference.as_ref()).collect();
    let reference = match references {
        Some(references) => Some(ReferenceBatch {
            latents: stack(references.iter().map(|r| &r.0).collect())?,
            prompts: references.iter().map(|r| r.1.clone()).collect(),
            masks: references.iter().map(|r| r.2.clone()).collect(),
        }),
        None => None,
    };
    Ok(Batch {
        latents: stack(samples.iter().map(|s| &s.latents).collect())?,
        noise: stack(samples.iter().map(|s| &s.noise).collect())?,
        timesteps: samples.iter().map(|s| s.timestep).collect(),
        prompts: samples.iter().map(|s| s.prompt.clone()).collect(),
        is_prior: samples.iter().map(|s| s.is_prior).collect(),
        bands: samples.iter().map(|s| s.band).collect(),
        masks: samples.into_iter().map(|s| s.mask).collect(),
        reference,
    })
}

/// What is encoded of a photo: its low and high band and itself, or with FDTE off itself alone.
fn band_tensors(photo: &Photo, fdte: &Fdte, side: usize, base: &Base) -> Result<Vec<Tensor>> {
    let image = photo.square(side as u32);
    let original = images::to_tensor(&image, &base.device)?;
    if !fdte.enabled {
        return Ok(vec![original]);
    }
    let (low, high) = split_bands(&images::to_picture(&image), &fdte.split(side));
    Ok(vec![images::picture_tensor(&low, &base.device)?, images::picture_tensor(&high, &base.device)?, original])
}
