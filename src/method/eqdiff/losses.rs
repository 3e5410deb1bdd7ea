//! One training step's losses, from latents and token ids to the total.

use candle_core::{Device, Result, Tensor};

use super::mgdp::{self, Average, Guidance};
use super::rra::{Extent, reference_loss};
use super::{Band, Customisation, Customised, ReferenceRecorder, Watch};
use crate::base::Base;
use crate::base::texts::{Texts, placeholder_columns};
use crate::images::Mask;
use crate::method::custom_diffusion::cross_attention_loss;
use crate::method::{Losses, Recorder, Seen};
use crate::model::tokenizer::Tokens;
use crate::ops::Keep;

/// The samples of one step: B photos of the subject and class images, in any order.
pub struct Batch {
    /// Scaled latents [B, 4, h, w].
    pub latents: Tensor,
    /// The noise of target and reference alike [B, 4, h, w].
    pub noise: Tensor,
    /// One for each sample.
    pub timesteps: Vec<usize>,
    /// The prompts. Those without a placeholder are encoded once in a run.
    pub prompts: Vec<Tokens>,
    /// Which samples are class images.
    pub is_prior: Vec<bool>,
    /// Which band each sample shows.
    pub bands: Vec<Band>,
    /// The subject's mask of each sample at latent size, undilated; full for class images.
    pub masks: Vec<Mask>,
    /// What the reference pass is given, if there is one.
    pub reference: Option<ReferenceBatch>,
}

/// The reference of each sample.
pub struct ReferenceBatch {
    /// Scaled latents [B, 4, h, w].
    pub latents: Tensor,
    /// Prompts without placeholder.
    pub prompts: Vec<Tokens>,
    /// The subject's mask in the reference, as in [`Batch::masks`].
    pub masks: Vec<Mask>,
}

/// What the losses depend on.
#[derive(Clone, Debug)]
pub struct LossSettings {
    /// What the mask is used for.
    pub guidance: Guidance,
    /// Dilations of the mask at this latent side.
    pub dilations: usize,
    /// What the masked error is divided by.
    pub average: Average,
    /// Timesteps that the reference is ahead.
    pub time_gap: usize,
    /// Weight of the class images.
    pub prior_weight: f64,
    /// Weight of L_ra.
    pub reference_weight: f64,
    /// Where L_ra looks.
    pub reference_extent: Extent,
    /// Weight of the cross-attention loss.
    pub cross_weight: f64,
    /// What the step keeps of its forward pass.
    pub keep: Keep,
}

/// The losses of one step, and what they were computed from.
pub struct Step {
    /// Their terms and sum.
    pub losses: Losses,
    /// The predicted noise [B, 4, h, w].
    pub predicted: Tensor,
    /// Fusion masks M^f [B, N, 1] by layer.
    pub fusion_masks: std::collections::BTreeMap<String, Tensor>,
}

/// All loss terms of one step (equations 6, 7 and 10).
///
/// # Errors
/// If shapes do not fit.
pub fn training_losses(
    base: &Base,
    texts: &Texts,
    weights: &Customisation,
    batch: &Batch,
    settings: &LossSettings,
) -> Result<Step> {
    let (samples, _, height, width) = batch.latents.dims4()?;
    let device = &base.device;
    let references = match &batch.reference {
        Some(reference) if weights.has_reference() => {
            Some(reference_pass(base, texts, weights, batch, (reference, settings.time_gap))?)
        }
        _ => None,
    };

    // the maps that the losses look at have a quarter of the latents' side
    let side = height / 4;
    let small_masks = |masks: &[Mask]| -> Result<Tensor> {
        let rows: Vec<f32> = masks.iter().flat_map(|mask| mask.at(side).values).collect();
        Tensor::from_vec(rows, (samples, side * side), device)
    };
    let watched = settings.cross_weight > 0. || (settings.reference_weight > 0. && references.is_some());
    let watch = match (&batch.reference, watched) {
        (reference, true) => Some(Watch {
            queries: side * side,
            reference_mask: match reference {
                Some(reference) => small_masks(&reference.masks)?,
                None => Tensor::zeros((samples, side * side), batch.latents.dtype(), device)?,
            },
            placeholder: placeholder_columns(&batch.prompts, device)?,
        }),
        (_, false) => None,
    };

    let noisy = base.scheduler.add_noise(&batch.latents, &batch.noise, &batch.timesteps)?;
    let mask = {
        let dilated = |mask: &Mask| mask.dilated(settings.dilations).values;
        let rows: Vec<f32> = batch.masks.iter().flat_map(dilated).collect();
        Tensor::from_vec(rows, (samples, 1, height, width), device)?
    };
    let noisy = match settings.guidance {
        Guidance::MaskGuided => mgdp::masked_noise(&mask, &noisy, &batch.latents)?,
        Guidance::LossOnly | Guidance::Off => noisy,
    };
    let concepts = batch.bands.iter().map(|&band| weights.concept.of(band)).collect::<Result<Vec<_>>>()?;
    let text = texts.with_concepts(&batch.prompts, &concepts)?;
    let mut processor = Customised::new(weights, references.as_ref(), watch).keeping(settings.keep);
    let predicted = base.unet.forward(&noisy, &batch.timesteps, &text, &mut processor)?;

    let target = base.scheduler.target(&batch.latents, &batch.noise, &batch.timesteps)?;
    let error = (&predicted - target)?.sqr()?;
    let [subject, class] = rows(&batch.is_prior, device)?;
    let mut terms = Vec::new();
    let mut total = batch.latents.zeros_like()?.sum_all()?;
    let mut add = |name, term: Tensor, weight: f64| -> Result<()> {
        total = (&total + (&term * weight)?)?;
        terms.push((name, term));
        Ok(())
    };
    if let Some(subject) = &subject {
        let error = error.index_select(subject, 0)?;
        let denoise = match settings.guidance {
            Guidance::Off => error.mean_all()?,
            _ => mgdp::masked_loss(&error, &mask.index_select(subject, 0)?, settings.average)?.mean_all()?,
        };
        add("denoise", denoise, 1.)?;
    }
    if let Some(class) = &class {
        add("prior", error.index_select(class, 0)?.mean_all()?, settings.prior_weight)?;
    }
    if let Some(subject) = &subject {
        let m_g = small_masks(&batch.masks)?.index_select(subject, 0)?;
        if let (Some(map), true) = (processor.on_subject.mean()?, settings.reference_weight > 0.) {
            let loss = reference_loss(&map.index_select(subject, 0)?, &m_g, settings.reference_extent)?;
            add("reference", loss, settings.reference_weight)?;
        }
        if let (Some(map), true) = (processor.of_concept.mean()?, settings.cross_weight > 0.) {
            add("cross", cross_attention_loss(&map.index_select(subject, 0)?, &m_g)?, settings.cross_weight)?;
        }
    }
    Ok(Step { losses: Losses { total, terms }, predicted: predicted.detach(), fusion_masks: processor.fusion_masks })
}

/// The places of the photos and of the class images among the samples, as far as there are any.
///
/// # Errors
/// If the device has no room.
pub(crate) fn rows(is_prior: &[bool], device: &Device) -> Result<[Option<Tensor>; 2]> {
    let rows = |prior: bool| {
        let chosen: Vec<u32> = (0..is_prior.len()).filter(|&i| is_prior[i] == prior).map(|i| i as u32).collect();
        if chosen.is_empty() { Ok(None) } else { Tensor::new(chosen, device).map(Some) }
    };
    Ok([rows(false)?, rows(true)?])
}

/// The frozen base on the references: the same noise, slightly ahead in time, plain text.
fn reference_pass(
    base: &Base,
    texts: &Texts,
    weights: &Customisation,
    batch: &Batch,
    (reference, time_gap): (&ReferenceBatch, usize),
) -> Result<Seen> {
    let ahead: Vec<usize> = batch.timesteps.iter().map(|t| t.saturating_sub(time_gap)).collect();
    let noisy = base.scheduler.add_noise(&reference.latents, &batch.noise, &ahead)?;
    let mut recorder = Box::new(ReferenceRecorder::new(weights));
    base.unet.forward(&noisy, &ahead, &texts.plain_batch(&reference.prompts)?, recorder.as_mut())?;
    Ok(recorder.seen())
}
