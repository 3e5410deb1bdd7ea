//! The encoders behind the metrics, and what they make of pictures and prompts.

use std::cell::RefCell;
use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use image::RgbImage;

use super::judge::{self, Finding, Looks};
use super::metrics::{clip_t, pairwise};
use super::preprocess::Preprocess;
use super::prompts::without_placeholder;
use super::scores::{Metric, Scores};
use crate::base::{Clip, MINI, ids_tensor, load_dino, load_judge};
use crate::model::tokenizer::PLACEHOLDER;
use crate::model::{Judge, Vit};

/// Which metrics are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// How well pictures follow their prompts.
    ClipT,
    /// How much CLIP sees of the subject in them.
    ClipI,
    /// How much DINO sees of it.
    Dino,
    /// What the base's own judge finds, where the base brings one.
    Judge,
}

impl Wanted {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ClipT, Self::ClipI, Self::Dino, Self::Judge];
}

impl std::str::FromStr for Wanted {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "clip-t" => Ok(Self::ClipT),
            "clip-i" => Ok(Self::ClipI),
            "dino" => Ok(Self::Dino),
            "judge" => Ok(Self::Judge),
            _ => Err("one of clip-t, clip-i, dino and judge".into()),
        }
    }
}

/// The encoders that the wanted metrics need.
pub struct Scorer {
    clip: Option<Clip>,
    dino: Option<Vit>,
    judge: Option<Judge>,
    wanted: Vec<Wanted>,
    device: Device,
    /// Features of the prompts of late: those of an evaluation come again with every method and seed.
    texts: RefCell<HashMap<String, Tensor>>,
    /// Names of the encoders, for reports.
    pub names: (String, String),
}

/// Names of CLIP and DINO for a base: those that are named, else its own, or those of the published numbers.
pub fn encoders<'a>(base: &str, clip: Option<&'a str>, dino: Option<&'a str>) -> (&'a str, &'a str) {
    let usual = |published: &'static str| if base == MINI { MINI } else { published };
    (clip.unwrap_or(usual("openai/clip-vit-base-patch32")), dino.unwrap_or(usual("facebook/dino-vits16")))
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
        let (clip_name, dino_name) = encoders(base, clip, dino);
        let needs_clip = wanted.iter().any(|w| matches!(w, Wanted::ClipT | Wanted::ClipI));
        let clip = needs_clip.then(|| Clip::load(clip_name, offline, device)).transpose();
        let needs_dino = wanted.contains(&Wanted::Dino);
        let dino = needs_dino.then(|| load_dino(dino_name, offline, device)).transpose();
        let judge = if wanted.contains(&Wanted::Judge) { load_judge(base, offline, device)? } else { None };
        Ok(Self {
            judge,
            clip: clip.with_context(|| format!("cannot load the CLIP {clip_name}"))?,
            dino: dino.with_context(|| format!("cannot load the DINO {dino_name}"))?,
            wanted: wanted.to_vec(),
            device: device.clone(),
            texts: RefCell::default(),
            names: (clip_name.to_string(), dino_name.to_string()),
        })
    }

    /// What the encoders see in the subject's photos. `truth` gives the picture that a prompt should give, where that is
    /// known.
    ///
    /// # Errors
    /// If there are no photos, or the computation fails.
    pub fn concept(&self, photos: &[RgbImage], truth: impl Fn(&str) -> Option<RgbImage> + 'static) -> Result<Concept> {
        if photos.is_empty() {
            bail!("there are no photos to compare with");
        }
        Ok(Concept {
            seen: self.seen(photos)?,
            looks: self.judge.as_ref().map(|judge| judge::looks(judge, photos)).transpose()?,
            truth: Box::new(truth),
            truths: RefCell::default(),
        })
    }

    fn seen(&self, pictures: &[RgbImage]) -> Result<Seen> {
        let likeness = self.clip.as_ref().filter(|_| self.wanted.contains(&Wanted::ClipI));
        Ok(Seen {
            clip: likeness.map(|clip| clip_features(clip, pictures)).transpose()?,
            dino: self.dino.as_ref().map(|dino| dino_features(dino, pictures, &self.device)).transpose()?,
        })
    }

    /// Scores of a picture, drawn from `prompt` if that is known, compared with the concept.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn scores(&self, picture: &RgbImage, prompt: Option<&str>, concept: &Concept) -> Result<Scores> {
        let mut scores = Scores::default();
        let pictures = std::slice::from_ref(picture);
        let clip = self.clip.as_ref().map(|clip| clip_features(clip, pictures)).transpose()?;
        let dino = self.dino.as_ref().map(|dino| dino_features(dino, pictures, &self.device)).transpose()?;
        if let (Some(clip), Some(features), Some(prompt), true) =
            (&self.clip, &clip, prompt, self.wanted.contains(&Wanted::ClipT))
        {
            let fit = clip_t(features, &self.text(clip, prompt)?)?;
            scores.set(Metric::ClipT, fit.score);
            scores.set(Metric::Cosine, fit.cosine);
        }
        let truth = prompt.map(|prompt| self.truth(prompt, concept)).transpose()?.flatten();
        let photos = [(&concept.seen, Metric::ClipI, Metric::Dino)];
        let truth = truth.iter().map(|truth| (truth, Metric::ClipTrue, Metric::DinoTrue));
        for (seen, by_clip, by_dino) in photos.into_iter().chain(truth) {
            for (own, other, metric) in [(&clip, &seen.clip, by_clip), (&dino, &seen.dino, by_dino)] {
                if let (Some(own), Some(other)) = (own, other) {
                    scores.set(metric, pairwise(own, other)?.mean);
                }
            }
        }
        Ok(scores)
    }

    /// What the encoders see in the picture that a prompt should give.
    fn truth(&self, prompt: &str, concept: &Concept) -> Result<Option<Seen>> {
        if let Some(known) = concept.truths.borrow().get(prompt) {
            return Ok(known.clone());
        }
        let seen = (concept.truth)(prompt).map(|picture| self.seen(&[picture])).transpose()?;
        concept.truths.borrow_mut().insert(prompt.into(), seen.clone());
        Ok(seen)
    }

    /// What the base's judge finds in a picture; nothing without one.
    ///
    /// # Errors
    /// If the computation fails.
    pub fn findings(&self, picture: &RgbImage, prompt: Option<&str>, concept: &Concept) -> Result<Vec<Finding>> {
        let (Some(judge), Some(looks)) = (&self.judge, &concept.looks) else { return Ok(Vec::new()) };
        let prompt = prompt.map(|prompt| without_placeholder(prompt, PLACEHOLDER));
        judge::findings(judge, picture, prompt.as_deref(), looks)
    }

    fn text(&self, clip: &Clip, prompt: &str) -> Result<Tensor> {
        let mut texts = self.texts.borrow_mut();
        if let Some(features) = texts.get(prompt) {
            return Ok(features.clone());
        }
        if texts.len() >= TEXTS {
            texts.clear();
        }
        let features = text_features(clip, &[prompt])?;
        texts.insert(prompt.into(), features.clone());
        Ok(features)
    }
}

/// More prompts than this are not kept.
const TEXTS: usize = 1000;

/// Gives the picture that a prompt should give, where that is known.
type Truth = dyn Fn(&str) -> Option<RgbImage>;

/// A subject as the encoders see it.
pub struct Concept {
    seen: Seen,
    looks: Option<Looks>,
    /// The picture that a prompt should give.
    truth: Box<Truth>,
    /// What is seen in those that were asked for.
    truths: RefCell<HashMap<String, Option<Seen>>>,
}

/// Features of pictures, a row each; those of CLIP where likeness is wanted.
#[derive(Clone)]
struct Seen {
    clip: Option<Tensor>,
    dino: Option<Tensor>,
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
        rows.push(clip.text.features(&ids_tensor(&[&tokens.ids], &clip.device)?, tokens.end)?);
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
