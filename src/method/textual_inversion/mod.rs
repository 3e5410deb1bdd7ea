//! Textual Inversion (Gal et al. 2023) with diffusers' recipe: one vector is all that is trained.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use candle_core::{Result, Tensor};
use rand::RngExt;
use rand::seq::IndexedRandom;

use super::denoising::{self, Batch};
use super::eqdiff::{ConceptEmbedding, Customisation};
use super::pictures::{Pictures, Shown, View};
use super::{Losses, Method};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::model::tokenizer::{PLACEHOLDER, Tokens};
use crate::ops::Keep;
use crate::rng;

/// The prompts of photos; `{}` is the placeholder.
pub const TEMPLATES: [&str; 27] = [
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a photo of a clean {}",
    "a photo of a dirty {}",
    "a dark photo of the {}",
    "a photo of my {}",
    "a photo of the cool {}",
    "a close-up photo of a {}",
    "a bright photo of the {}",
    "a cropped photo of a {}",
    "a photo of the {}",
    "a good photo of the {}",
    "a photo of one {}",
    "a close-up photo of the {}",
    "a rendition of the {}",
    "a photo of the clean {}",
    "a rendition of a {}",
    "a photo of a nice {}",
    "a good photo of a {}",
    "a photo of the nice {}",
    "a photo of the small {}",
    "a photo of the weird {}",
    "a photo of the large {}",
    "a photo of a cool {}",
    "a photo of a small {}",
];

/// The method on a base and a subject.
pub struct TextualInversion<'a> {
    base: &'a Base,
    pictures: Pictures<'a>,
    texts: Texts<'a>,
    prompts: Vec<Tokens>,
    /// What the vector starts from, `[d]`.
    init: Tensor,
    options: Options,
}

/// What it depends on beside the pictures.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The token that the vector starts from.
    pub init: u32,
    /// Photos in a step.
    pub batch_size: usize,
    /// What samples are drawn from.
    pub seed: u64,
    /// What a step keeps of its forward pass.
    pub keep: Keep,
}

impl<'a> TextualInversion<'a> {
    /// # Errors
    /// If a template cannot be encoded, or the base knows the words of none.
    pub fn new(base: &'a Base, pictures: Pictures<'a>, options: Options) -> anyhow::Result<Self> {
        Ok(Self {
            base,
            pictures,
            texts: Texts::new(base),
            prompts: prompts(base)?,
            init: base.text.token_embedding(options.init)?,
            options,
        })
    }

    fn batch(&self, step: usize) -> anyhow::Result<Batch> {
        let mut rng = rng::stream(self.options.seed, "step", step as u64);
        let mut samples = Vec::with_capacity(self.options.batch_size);
        for _ in 0..self.options.batch_size {
            let view = View::Photo(rng.random_range(0..self.pictures.photos.len()), rng.random());
            let prompt = self.prompts.choose(&mut rng).context("no templates")?.clone();
            samples.push(Shown { posterior: self.pictures.of_view(view)?, prompt, is_prior: false, valid: None });
        }
        self.pictures.batch(samples, &mut rng)
    }
}

/// The templates with words that the base knows: a vocabulary of whole words would read others as any unknown one.
fn prompts(base: &Base) -> anyhow::Result<Vec<Tokens>> {
    let prompts = TEMPLATES.iter().map(|text| base.tokenizer.encode(&text.replace("{}", PLACEHOLDER), PLACEHOLDER));
    let mut prompts = prompts.collect::<anyhow::Result<Vec<_>>>()?;
    prompts.retain(|tokens| tokens.unknown.is_empty());
    ensure!(!prompts.is_empty(), "{} knows the words of no template, as in {:?}", base.name, TEMPLATES[0]);
    Ok(prompts)
}

/// The token that the vector starts from: `init_word`, else the first of the class's last word.
///
/// # Errors
/// If there is no such token.
pub fn init_token(base: &Base, init_word: &str, class: &str) -> anyhow::Result<u32> {
    if !init_word.is_empty() {
        return base.tokenizer.entry(init_word);
    }
    let word = class.split_whitespace().last().unwrap_or_default();
    let token = base.tokenizer.plain(word)?.first().copied();
    token.with_context(|| format!("{class:?} has no token to start the vector from"))
}

impl Method for TextualInversion<'_> {
    type Learned = Customisation;

    const TERMS: &'static [&'static str] = &[denoising::TERMS[0]];

    fn initial(&self) -> Result<BTreeMap<String, Tensor>> {
        Ok(BTreeMap::from([(ConceptEmbedding::LOW.to_string(), self.init.copy()?)]))
    }

    fn learned(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Customisation> {
        Customisation::from_tensors(&self.base.unet, tensors)
    }

    fn losses(&self, learned: &Customisation, step: usize) -> anyhow::Result<Losses> {
        Ok(denoising::with_concept(self.base, &self.texts, learned, &self.batch(step)?, 0., self.options.keep)?.losses)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::base::MINI;
    use crate::ops::Precision;

    #[test]
    fn templates_have_words_that_the_base_knows() -> anyhow::Result<()> {
        let base = Base::load(MINI, true, &Device::Cpu, Precision::F32)?;
        let known = ["a photo of a S*", "the photo of a S*", "a photo of the S*", "a photo of the small S*"];
        let known = known.into_iter().chain(["a photo of a small S*"]);
        let known = known.map(|text| Ok(base.tokenizer.encode(text, PLACEHOLDER)?.ids));
        let ids: Vec<Vec<u32>> = prompts(&base)?.into_iter().map(|tokens| tokens.ids).collect();
        assert_eq!(ids, known.collect::<anyhow::Result<Vec<_>>>()?);
        Ok(())
    }
}
