//! The denoising loss of the methods that came before: one pass of the UNet on photos and class images.

use candle_core::{Result, Tensor};

use super::Losses;
use super::eqdiff::losses::rows;
use super::eqdiff::mgdp::{Average, masked_loss};
use super::eqdiff::{Band, Customisation, Customised};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::model::tokenizer::Tokens;
use crate::model::{AttentionProcessor, Unet};
use crate::ops::Keep;

/// The samples of one step: B photos of the subject and class images, in any order.
pub struct Batch {
    /// Scaled latents [B, 4, h, w].
    pub latents: Tensor,
    /// Their noise [B, 4, h, w].
    pub noise: Tensor,
    /// One for each sample.
    pub timesteps: Vec<usize>,
    /// The prompts.
    pub prompts: Vec<Tokens>,
    /// Which samples are class images.
    pub is_prior: Vec<bool>,
    /// 1 where a photo's latents count [B, 1, h, w]; without it all do.
    pub valid: Option<Tensor>,
}

/// The losses of one step, and what they were computed from.
pub struct Step {
    /// Their terms and sum.
    pub losses: Losses,
    /// The predicted noise [B, 4, h, w].
    pub predicted: Tensor,
}

/// Names of the terms.
pub const TERMS: [&str; 2] = ["denoise", "prior"];

/// The mean squared error of the photos, where it is `valid` divided by that area, and `prior_weight` times that of the
/// class images. `text` [B, L, d] are the states of the prompts.
///
/// # Errors
/// If shapes do not fit.
pub fn losses(
    base: &Base,
    unet: &Unet,
    batch: &Batch,
    text: &Tensor,
    attention: &mut dyn AttentionProcessor,
    prior_weight: f64,
) -> Result<Step> {
    let noisy = base.scheduler.add_noise(&batch.latents, &batch.noise, &batch.timesteps)?;
    let predicted = unet.forward(&noisy, &batch.timesteps, text, attention)?;
    let target = base.scheduler.target(&batch.latents, &batch.noise, &batch.timesteps)?;
    let error = (&predicted - target)?.sqr()?;
    let [subject, class] = rows(&batch.is_prior, &base.device)?;
    let mut terms = Vec::new();
    if let Some(subject) = subject {
        let error = error.index_select(&subject, 0)?;
        let denoise = match &batch.valid {
            Some(valid) => masked_loss(&error, &valid.index_select(&subject, 0)?, Average::Area)?.mean_all()?,
            None => error.mean_all()?,
        };
        terms.push((TERMS[0], denoise));
    }
    if let Some(class) = class {
        terms.push((TERMS[1], error.index_select(&class, 0)?.mean_all()?));
    }
    let mut total = batch.latents.zeros_like()?.sum_all()?;
    for (name, term) in &terms {
        total = (total + (term * if *name == TERMS[1] { prior_weight } else { 1. })?)?;
    }
    Ok(Step { losses: Losses { total, terms }, predicted: predicted.detach() })
}

/// The same of what has an embedding for the placeholder, and perhaps keys and values of its own; `keep`: what the step keeps
/// of its forward pass.
///
/// # Errors
/// If shapes do not fit.
pub fn with_concept(
    base: &Base,
    texts: &Texts,
    learned: &Customisation,
    batch: &Batch,
    prior_weight: f64,
    keep: Keep,
) -> Result<Step> {
    let embedding = learned.concept.of(Band::Original)?;
    let text = texts.with_concepts(&batch.prompts, &vec![embedding; batch.prompts.len()])?;
    let mut attention = Customised::new(learned, None, None).keeping(keep);
    losses(base, &base.unet, batch, &text, &mut attention, prior_weight)
}
