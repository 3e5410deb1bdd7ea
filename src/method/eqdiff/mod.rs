//! Equilibrated Diffusion: its parts, each in the file of its name in the paper, and the method that they make.

pub mod augment;
pub mod customised;
pub mod data;
pub mod fdte;
pub mod losses;
pub mod mgdp;
pub mod rra;
pub mod several;
pub mod watching;

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::{Result, Tensor};

use super::{Dial, Dials, Learned, Losses, Method, Pass, Recorder};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::model::tokenizer::PLACEHOLDER;
use crate::ops::Keep;
pub use customised::{Customisation, Customised, ReferenceRecorder, Watch};
use data::Data;
use fdte::Fdte;
pub use fdte::{Band, ConceptEmbedding};
use losses::{LossSettings, training_losses};
use mgdp::Mgdp;
use rra::{ReferenceAttention, Rra};

/// The settings of the method's parts.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Frequency-aware decoupled textual embedding.
    pub fdte: Fdte,
    /// Mask-guided diffusion process.
    pub mgdp: Mgdp,
    /// Residual reference attention.
    pub rra: Rra,
    /// What class images are captioned with.
    pub class_prompt: String,
    /// Weight of the class images' loss.
    pub prior_weight: f64,
    /// Weight of the cross-attention loss.
    pub cross_weight: f64,
    /// Photos in a step; as many class images come with them, if there are any.
    pub batch_size: usize,
    /// What samples are drawn from.
    pub seed: u64,
}

impl Recipe {
    /// What the losses depend on at a latent side.
    pub fn losses(&self, latent_side: usize, keep: Keep) -> LossSettings {
        LossSettings {
            guidance: self.mgdp.mask,
            dilations: self.mgdp.dilations_at(latent_side),
            average: self.mgdp.average,
            time_gap: self.rra.time_gap,
            prior_weight: self.prior_weight,
            reference_weight: self.rra.loss_weight,
            reference_extent: self.rra.loss_extent,
            cross_weight: self.cross_weight,
            keep,
        }
    }
}

/// The method on a base and a subject.
pub struct EqDiff<'a> {
    base: &'a Base,
    data: &'a Data,
    recipe: &'a Recipe,
    losses: LossSettings,
    texts: Texts<'a>,
    /// What the concept embedding starts from, `[d]`.
    init: Tensor,
}

impl<'a> EqDiff<'a> {
    /// `class` is the class word; `keep`: what a step keeps of its forward pass.
    ///
    /// # Errors
    /// If the concept embedding has no word to start from.
    pub fn new(base: &'a Base, data: &'a Data, recipe: &'a Recipe, class: &str, keep: Keep) -> anyhow::Result<Self> {
        let init = base.text.token_embedding(init_token(base, &recipe.fdte, class)?)?;
        let losses = recipe.losses(data.latent_side(), keep);
        Ok(Self { base, data, recipe, losses, texts: Texts::new(base), init })
    }
}

/// The token that the concept embedding starts from.
///
/// # Errors
/// If the word has none.
pub fn init_token(base: &Base, fdte: &Fdte, class: &str) -> anyhow::Result<u32> {
    if !fdte.init_word.is_empty() {
        return base.tokenizer.entry(&fdte.init_word);
    }
    let token = base.tokenizer.plain(class)?.first().copied();
    token.with_context(|| format!("{class:?} has no token to start the concept embedding from"))
}

impl Method for EqDiff<'_> {
    type Learned = Customisation;

    const TERMS: &'static [&'static str] = &["denoise", "prior", "reference", "cross"];

    fn initial(&self) -> Result<BTreeMap<String, Tensor>> {
        Customisation::initial(&self.base.unet, &self.init, self.recipe.fdte.enabled, self.recipe.rra.enabled)
    }

    fn learning_rate_multiplier(&self, name: &str) -> f64 {
        if ReferenceAttention::owns(name) { self.recipe.rra.learning_rate_multiplier } else { 1. }
    }

    fn learned(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Customisation> {
        Customisation::from_tensors(&self.base.unet, tensors)
    }

    fn losses(&self, learned: &Customisation, step: usize) -> anyhow::Result<Losses> {
        let batch = self.data.batch(self.base, self.recipe, step)?;
        Ok(training_losses(self.base, &self.texts, learned, &batch, &self.losses)?.losses)
    }
}

impl Learned for Customisation {
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor> {
        let tokens = base.tokenizer.encode(prompt, PLACEHOLDER)?;
        Ok(texts.with_concept(&tokens, &self.concept.of(Band::Original)?)?)
    }

    fn attention<'a>(&'a self, pass: Pass<'a>) -> Box<dyn Recorder + 'a> {
        Box::new(Customised::new(self, pass.seen, None))
    }

    fn dials(&self) -> Dials {
        Dials { low: true, high: self.concept.high.is_some(), reference: self.has_reference() }
    }

    fn turned(&self, dial: Dial) -> Result<Option<Box<dyn Learned>>> {
        Ok(Some(Box::new(self.turned(dial)?)))
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        self.has_reference().then(|| Box::new(ReferenceRecorder::new(self)) as Box<dyn Recorder>)
    }
}
