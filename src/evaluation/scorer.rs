//! The encoders behind the metrics, and what they make of pictures and prompts.

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use image::RgbImage;

use super::metrics::{clip_t, pairwise};
use super::preprocess::Preprocess;
use super::prompts::without_placeholder;
use super::report::Scores;
use crate::base::{Clip, MINI, ids_tensor, load_dino};
use crate::model::Vit;
use crate::model::tokenizer::PLACEHOLDER;

/// Which metrics are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Wanted {
    /// How well pictures follow their prompts.
    ClipT,
    /// How much CLIP sees of the subject in them.
    ClipI,
    /// How much DINO sees of it.
    Dino,
}

/// The encoders that the wanted metrics need.
pub struct Scorer {
    clip: Option<Clip>,
    dino: Option<Vit>,
    wanted: Vec<Wanted>,
    device: Device,
    /// Names of the encoders, for reports.
    pub names: (String, String),
}

impl Scorer {
    /// Encoders by name; none stands for those that suit the base: the embedded ones for `mini`, else
    /// those of the published numbers.
    ///
    /// # Errors
    /// If an encoder cannot be loaded.
    pub fn load(
        wanted: &[Wanted],
        base: &str,
        clip: Option<&str>,
        dino: Option<&str>,
        offline: bool,
        device: &Device,
    ) -> Result<Self> {
        let usual = |published: &'static str| if base == MINI { MINI } else { published };
        let clip_name = clip.unwrap_or(usual("openai/clip-vit-base-patch32"));
        let dino_name = dino.unwrap_or(usual("facebook/dino-vits16"));
        let needs_clip = wanted.iter().any(|w| *w != Wanted::Dino);
        let clip = needs_clip.then(|| Clip::load(clip_name, offline, device)).transpose();
        let needs_dino = wanted.contains(&Wanted::Dino);
        let dino = needs_dino.then(|| load_dino(dino_name, offline, device)).transpose();
        Ok(Self {
            clip: clip.with_context(|| format!("cannot load the CLIP {clip_name}"))?,
            dino: dino.with_context(|| format!("cannot load the DINO {dino_name}"))?,
            wanted: wanted.to_vec(),
            device: device.clone(),
            names: (clip_name.to_string(), dino_name.to_string()),
        })
    }

    /// Scores of each picture, drawn from the prompt of the same place (none: not known), compared with
    /// the concept's photos.
    ///
    /// # Errors
    /// If there are no photos, or the computation fails.
    pub fn scores(
        &self,
        pictures: &[RgbImage],
        prompts: &[Option<String>],
        concept: &[RgbImage],
    ) -> Result<Vec<Scores>> {
        if concept.is_empty() {
            bail!("there are no photos to compare with");
        }
        let mut scores = vec![Scores::default(); pictures.len()];
        if pictures.is_empty() {
            return Ok(scores);
        }
        if let Some(clip) = &self.clip {
            let features = clip_features(clip, pictures)?;
            if self.wanted.contains(&Wanted::ClipI) {
                let likeness = pairwise(&features, &clip_features(clip, concept)?)?;
                scores.iter_mut().zip(likeness.per_image).for_each(|(s, value)| s.clip_i = Some(value));
            }
            let known: Vec<usize> = (0..prompts.len()).filter(|&i| prompts[i].is_some()).collect();
            if self.wanted.contains(&Wanted::ClipT) && !known.is_empty() {
                let texts: Vec<&str> = prompts.iter().flatten().map(String::as_str).collect();
                let rows: Vec<u32> = known.iter().map(|&i| i as u32).collect();
                let pictures = features.index_select(&Tensor::new(rows, &self.device)?, 0)?;
                let fit = clip_t(&pictures, &text_features(clip, &texts)?)?;
                for (&i, (score, cosine)) in known.iter().zip(fit.scores.into_iter().zip(fit.cosines)) {
                    (scores[i].clip_t, scores[i].clip_t_cosine) = (Some(score), Some(cosine));
                }
            }
        }
        if let Some(dino) = &self.dino {
            let likeness =
                pairwise(&dino_features(dino, pictures, &self.device)?, &dino_features(dino, concept, &self.device)?)?;
            scores.iter_mut().zip(likeness.per_image).for_each(|(s, value)| s.dino = Some(value));
        }
        Ok(scores)
    }
}

/// CLIP's image features [n, p].
///
/// # Errors
/// If the computation fails.
pub fn clip_features(clip: &Clip, pictures: &[RgbImage]) -> candle_core::Result<Tensor> {
    let preprocess = Preprocess::clip(clip.vision.config.image_size);
    let features = |picture| clip.vision.features(&preprocess.pixels(picture)?.to_device(&clip.device)?);
    Tensor::cat(&pictures.iter().map(features).collect::<candle_core::Result<Vec<_>>>()?, 0)
}

/// CLIP's text features [n, p]; the placeholder is removed first.
///
/// # Errors
/// If a text cannot be encoded.
pub fn text_features(clip: &Clip, texts: &[&str]) -> Result<Tensor> {
    let mut rows = Vec::with_capacity(texts.len());
    for text in texts {
        let tokens = clip.tokenizer.encode(&without_placeholder(text, PLACEHOLDER), PLACEHOLDER)?;
        rows.push(clip.text.features(&ids_tensor(&[&tokens.ids], &clip.device)?)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

/// DINO's class tokens [n, d].
///
/// # Errors
/// If the computation fails.
pub fn dino_features(dino: &Vit, pictures: &[RgbImage], device: &Device) -> candle_core::Result<Tensor> {
    let preprocess = Preprocess::dino(dino.config.image_size);
    let features = |picture| dino.features(&preprocess.pixels(picture)?.to_device(device)?);
    Tensor::cat(&pictures.iter().map(features).collect::<candle_core::Result<Vec<_>>>()?, 0)
}
