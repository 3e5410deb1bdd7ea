//! Photos and class images as samples of a training step. Whatever is drawn anew at every step is encoded anew; a view that
//! comes again is encoded once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use candle_core::Tensor;
use image::{RgbImage, imageops};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::denoising::Batch;
use crate::base::Base;
use crate::images::{self, Mask};
use crate::model::tokenizer::Tokens;
use crate::model::vae::Posterior;
use crate::rng;
use crate::subject::{Photo, Subject};

/// What a training draws its samples from.
pub struct Pictures<'a> {
    base: &'a Base,
    /// The subject's photos, as large as training takes them.
    pub photos: Vec<RgbImage>,
    /// Where each came from, for messages.
    names: Vec<String>,
    /// The class images, of the same size.
    pub class_images: Vec<RgbImage>,
    known: Mutex<HashMap<View, Posterior>>,
}

/// A view of a picture that may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum View {
    /// A photo, mirrored or not.
    Photo(usize, bool),
    /// A class image.
    Class(usize),
}

/// A sample without its noise.
pub struct Shown {
    /// What it shows.
    pub posterior: Posterior,
    /// What it says.
    pub prompt: Tokens,
    /// Whether it is a class image.
    pub is_prior: bool,
    /// Which of its latents count.
    pub valid: Option<Mask>,
}

impl<'a> Pictures<'a> {
    /// The subject's photos as `sized` makes them, and class images.
    pub fn new(
        base: &'a Base,
        subject: &Subject,
        class_images: Vec<RgbImage>,
        sized: impl Fn(&Photo) -> RgbImage,
    ) -> Self {
        Self {
            base,
            photos: subject.photos.iter().map(sized).collect(),
            names: subject.photos.iter().map(|photo| photo.path.display().to_string()).collect(),
            class_images,
            known: Mutex::default(),
        }
    }

    /// The latents of a view.
    ///
    /// # Errors
    /// As [`Base::encoded`].
    pub fn of_view(&self, view: View) -> Result<Posterior> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(posterior) = known().get(&view) {
            return Ok(posterior.clone());
        }
        let posterior = match view {
            View::Photo(i, false) => self.of_photo(i, &self.tensor(&self.photos[i])?)?,
            View::Photo(i, true) => self.of_photo(i, &self.tensor(&imageops::flip_horizontal(&self.photos[i]))?)?,
            View::Class(i) => self.base.encoded(&self.tensor(&self.class_images[i])?, "a class image")?,
        };
        known().insert(view, posterior.clone());
        Ok(posterior)
    }

    /// The latents of `image` [1, 3, H, W], which was made of a photo.
    ///
    /// # Errors
    /// As [`Base::encoded`].
    pub fn of_photo(&self, photo: usize, image: &Tensor) -> Result<Posterior> {
        self.base.encoded(image, &self.names[photo])
    }

    fn tensor(&self, image: &RgbImage) -> candle_core::Result<Tensor> {
        images::to_tensor(image, &self.base.device)
    }

    /// [`batch`](Self::batch) of photos and as many class images with their prompt, if there are any.
    ///
    /// # Errors
    /// As [`Base::encoded`], or if tensors cannot be made.
    pub fn batch_with_class_images(
        &self,
        mut samples: Vec<Shown>,
        prompt: &Tokens,
        rng: &mut ChaCha8Rng,
    ) -> Result<Batch> {
        if !self.class_images.is_empty() {
            for _ in 0..samples.len() {
                samples.push(self.class_image(prompt, rng)?);
            }
        }
        self.batch(samples, rng)
    }

    /// A class image, drawn at random, with its prompt.
    fn class_image(&self, prompt: &Tokens, rng: &mut ChaCha8Rng) -> Result<Shown> {
        let posterior = self.of_view(View::Class(rng.random_range(0..self.class_images.len())))?;
        Ok(Shown { posterior, prompt: prompt.clone(), is_prior: true, valid: None })
    }

    /// The samples with noise of their own: of the latents, of the diffusion, and a timestep.
    ///
    /// # Errors
    /// If tensors cannot be made.
    pub fn batch(&self, samples: Vec<Shown>, rng: &mut ChaCha8Rng) -> Result<Batch> {
        let base = self.base;
        let (mut latents, mut noise, mut timesteps) = (Vec::new(), Vec::new(), Vec::new());
        for Shown { posterior, .. } in &samples {
            let mut normal = || rng::normal(posterior.mean.shape(), rng, &base.device);
            latents.push(base.latents(posterior, &normal()?)?);
            noise.push(normal()?);
            timesteps.push(rng.random_range(0..base.scheduler.timesteps()));
        }
        let (_, _, height, width) = latents[0].dims4()?;
        let mask = |shown: &Shown| match &shown.valid {
            Some(mask) => mask.tensor(&base.device),
            None => Mask::full(1., height, width).tensor(&base.device),
        };
        let valid = match samples.iter().any(|shown| shown.valid.is_some()) {
            true => Some(Tensor::cat(&samples.iter().map(mask).collect::<candle_core::Result<Vec<_>>>()?, 0)?),
            false => None,
        };
        Ok(Batch {
            latents: Tensor::cat(&latents, 0)?,
            noise: Tensor::cat(&noise, 0)?,
            timesteps,
            is_prior: samples.iter().map(|shown| shown.is_prior).collect(),
            prompts: samples.into_iter().map(|shown| shown.prompt).collect(),
            valid,
        })
    }
}
