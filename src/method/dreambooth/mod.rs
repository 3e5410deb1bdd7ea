//! DreamBooth (Ruiz et al. 2023) with diffusers' recipe: the whole UNet learns the subject under a rare word, and class images
//! keep what it knew of the class. The text encoder may learn along.

use std::collections::BTreeMap;

use anyhow::ensure;
use candle_core::{Result, Tensor};
use image::imageops;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::denoising::{self, Batch, Step};
use super::pictures::{Pictures, Shown, View};
use super::{Learned, Losses, Method, Pass, Recorder};
use crate::base::texts::Texts;
use crate::base::{Base, ids_tensor};
use crate::images;
use crate::model::tokenizer::{PLACEHOLDER, Tokens};
use crate::model::{ClipText, Plain, Unet};
use crate::rng;

/// What stands before the names of the text encoder's tensors; those of the UNet have their names in its checkpoint.
const TEXT: &str = "text_encoder.";

/// What it depends on beside the pictures.
#[derive(Clone, Debug)]
pub struct Options {
    /// The ordinary word that stands for the subject.
    pub identifier: String,
    /// Whether the text encoder is trained too.
    pub text_encoder: bool,
    /// Weight of the class images' loss.
    pub prior_weight: f64,
    /// Photos in a step; as many class images come with them, if there are any.
    pub batch_size: usize,
    /// What samples are drawn from.
    pub seed: u64,
}

/// Whether the base knows the word for the subject; where it does not, the word would be read as any other unknown one.
///
/// # Errors
/// If it is empty, unknown or stands for more than itself.
pub fn check_identifier(base: &Base, identifier: &str) -> anyhow::Result<()> {
    let tokens = base.tokenizer.encode(identifier, PLACEHOLDER)?;
    ensure!(
        !identifier.trim().is_empty() && tokens.placeholder.is_empty() && tokens.unknown.is_empty(),
        "{identifier:?} is no word that {} knows: give one that it does",
        base.name
    );
    Ok(())
}

/// The method on a base and a subject.
pub struct DreamBooth<'a> {
    base: &'a Base,
    /// Photos whose shorter side is that of the training.
    pictures: Pictures<'a>,
    texts: Texts<'a>,
    prompt: Tokens,
    class_prompt: Tokens,
    options: Options,
}

impl<'a> DreamBooth<'a> {
    /// `class` is the class word; class images are captioned with `class_prompt`.
    ///
    /// # Errors
    /// If a prompt cannot be encoded.
    pub fn new(
        base: &'a Base,
        pictures: Pictures<'a>,
        [class, class_prompt]: [&str; 2],
        options: Options,
    ) -> anyhow::Result<Self> {
        let tokens = |text: &str| base.tokenizer.encode(text, PLACEHOLDER);
        let prompt = tokens(&format!("a photo of {} {class}", options.identifier))?;
        let class_prompt = tokens(class_prompt)?;
        Ok(Self { base, pictures, texts: Texts::new(base), prompt, class_prompt, options })
    }

    fn batch(&self, step: usize) -> anyhow::Result<Batch> {
        let mut rng = rng::stream(self.options.seed, "step", step as u64);
        let mut samples = Vec::new();
        for _ in 0..self.options.batch_size {
            samples.push(self.photo(&mut rng)?);
        }
        self.pictures.batch_with_class_images(samples, &self.class_prompt, &mut rng)
    }

    /// A square of a photo, anywhere along its longer side.
    fn photo(&self, rng: &mut ChaCha8Rng) -> anyhow::Result<Shown> {
        let chosen = rng.random_range(0..self.pictures.photos.len());
        let photo = &self.pictures.photos[chosen];
        let (width, height) = photo.dimensions();
        let posterior = if width == height {
            self.pictures.of_view(View::Photo(chosen, false))?
        } else {
            let side = width.min(height);
            let (x, y) = (rng.random_range(0..=width - side), rng.random_range(0..=height - side));
            let square = imageops::crop_imm(photo, x, y, side, side).to_image();
            self.pictures.of_photo(chosen, &images::to_tensor(&square, &self.base.device)?)?
        };
        Ok(Shown { posterior, prompt: self.prompt.clone(), is_prior: false, valid: None })
    }
}

/// The trained tensors before the first step, by their names in an adapter.
///
/// # Errors
/// If the base's files cannot be read any more.
pub fn initial(base: &Base, text_encoder: bool) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let mut tensors = base.unet_tensors()?;
    if text_encoder {
        tensors.extend(base.text_tensors()?.into_iter().map(|(name, tensor)| (format!("{TEXT}{name}"), tensor)));
    }
    Ok(tensors)
}

/// Their shapes.
///
/// # Errors
/// As [`initial`].
pub fn shapes(base: &Base, text_encoder: bool) -> anyhow::Result<BTreeMap<String, Vec<usize>>> {
    let mut shapes = base.unet_shapes()?;
    if text_encoder {
        shapes.extend(base.text_shapes()?.into_iter().map(|(name, shape)| (format!("{TEXT}{name}"), shape)));
    }
    Ok(shapes)
}

impl Method for DreamBooth<'_> {
    type Learned = Tuned;

    const TERMS: &'static [&'static str] = &denoising::TERMS;

    fn initial(&self) -> Result<BTreeMap<String, Tensor>> {
        initial(self.base, self.options.text_encoder).map_err(candle_core::Error::wrap)
    }

    fn learned(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Tuned> {
        Tuned::from_tensors(self.base, &self.options.identifier, tensors).map_err(candle_core::Error::wrap)
    }

    fn losses(&self, learned: &Tuned, step: usize) -> anyhow::Result<Losses> {
        let batch = self.batch(step)?;
        Ok(learned.losses(self.base, &self.texts, &batch, self.options.prior_weight)?.losses)
    }
}

/// A UNet, and perhaps a text encoder, in the place of the base's.
pub struct Tuned {
    identifier: String,
    unet: Unet,
    text: Option<ClipText>,
}

/// The tensors of the UNet and of the text encoder among an adapter's.
pub fn models(tensors: BTreeMap<String, Tensor>) -> [BTreeMap<String, Tensor>; 2] {
    let (mut unet, mut text) = (BTreeMap::new(), BTreeMap::new());
    for (name, tensor) in tensors {
        match name.strip_prefix(TEXT) {
            Some(name) => text.insert(name.to_string(), tensor),
            None => unet.insert(name, tensor),
        };
    }
    [unet, text]
}

impl Tuned {
    /// The models of an adapter's tensors, which know the subject by `identifier`; of variables, they are trained.
    ///
    /// # Errors
    /// If a tensor has another shape than the base's.
    pub fn from_tensors(base: &Base, identifier: &str, tensors: &BTreeMap<String, Tensor>) -> anyhow::Result<Self> {
        let [unet, text] = models(tensors.clone());
        let text = if text.is_empty() { None } else { Some(base.text_with(text)?) };
        Ok(Self { identifier: identifier.into(), unet: base.unet_with(unet)?, text })
    }

    /// The losses of a step.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn losses(&self, base: &Base, texts: &Texts, batch: &Batch, prior_weight: f64) -> Result<Step> {
        let text = self.states(base, texts, &batch.prompts)?;
        denoising::losses(base, &self.unet, batch, &text, &mut Plain, prior_weight)
    }

    /// Tokens of a prompt, with the word in the placeholder's stead.
    fn tokens(&self, base: &Base, prompt: &str) -> anyhow::Result<Tokens> {
        base.tokenizer.encode(&prompt.replace(PLACEHOLDER, &self.identifier), PLACEHOLDER)
    }

    /// States [B, L, d] of prompts.
    fn states(&self, base: &Base, texts: &Texts, prompts: &[Tokens]) -> Result<Tensor> {
        let Some(text) = &self.text else { return texts.plain_batch(prompts) };
        let ids: Vec<&[u32]> = prompts.iter().map(|tokens| tokens.ids.as_slice()).collect();
        text.forward(&ids_tensor(&ids, &base.device)?, None)
    }
}

impl Learned for Tuned {
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor> {
        Ok(self.states(base, texts, &[self.tokens(base, prompt)?])?)
    }

    fn places(&self, base: &Base, prompt: &str) -> anyhow::Result<(Tokens, Option<usize>)> {
        // up to there the word stands for itself alone
        let first = base.tokenizer.encode(prompt, PLACEHOLDER)?.placeholder.first().copied();
        Ok((self.tokens(base, prompt)?, first))
    }

    fn unet<'a>(&'a self, _: &'a Base) -> &'a Unet {
        &self.unet
    }

    fn attention<'a>(&'a self, _: Pass<'a>) -> Box<dyn Recorder + 'a> {
        Box::new(Plain)
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::base::MINI;
    use crate::ops::Precision;

    #[test]
    fn the_identifier_is_a_word_that_the_base_knows() -> anyhow::Result<()> {
        let base = Base::load(MINI, true, &Device::Cpu, Precision::F32)?;
        let own: toml::Table = toml::from_str(&Base::defaults(MINI, true)?.unwrap_or_default())?;
        check_identifier(&base, own["dreambooth"]["identifier"].as_str().unwrap_or_default())?;
        for wrong in ["sks", "", " ", PLACEHOLDER, "sks dog"] {
            let error = check_identifier(&base, wrong).unwrap_err().to_string();
            assert!(error.contains("no word that mini knows"), "{error}");
        }
        Ok(())
    }
}
