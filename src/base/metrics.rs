//! The models of the metrics: CLIP, DINO, and the judge that some bases bring along.

use anyhow::{Context, Result};
use candle_core::Device;

use super::source::{Folder, Model};
use super::{MINI, config, tokenizer};
use crate::model::clip::{ClipConfig, VisionConfig};
use crate::model::judge::JudgeConfig;
use crate::model::vit::VitConfig;
use crate::model::{ClipText, ClipVision, Config, Judge, Tokenizer, Vit};

const MODEL: Model = Model { stem: "model", part: None };

/// CLIP and its tokenizer, for CLIP-T and CLIP-I.
pub struct Clip {
    /// The text tower.
    pub text: ClipText,
    /// The vision tower.
    pub vision: ClipVision,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Where it computes.
    pub device: Device,
}

impl Clip {
    /// Loads a CLIP from a hub repository, a directory, or the one beside the base `mini`.
    ///
    /// # Errors
    /// As [`Base::load`](super::Base::load).
    pub fn load(name: &str, offline: bool, device: &Device) -> Result<Self> {
        let folder = if name == MINI { Folder::embedded("clip")? } else { Folder::find(name, offline)? };
        let weights = folder.weights(MODEL, device)?;
        // the embedded CLIP reads with the base's own text encoder, which is there once
        let tower = match name == MINI && !weights.has("text_model") {
            true => Folder::embedded("text_encoder")?.weights(MODEL, device)?,
            false => weights.clone(),
        };
        let config: ClipConfig = config(&folder, "config.json")?;
        Ok(Self {
            tokenizer: tokenizer(&folder, "", &config.text_config)?,
            text: ClipText::load(&tower, config.text_config)?.projected(&weights, config.projection_dim)?,
            vision: ClipVision::load(&weights, config.vision_config, Some(config.projection_dim))?,
            device: device.clone(),
        })
    }
}

/// Loads DINO's ViT from a hub repository, a directory, or the one beside the base `mini`.
///
/// # Errors
/// As [`Base::load`](super::Base::load).
pub fn load_dino(name: &str, offline: bool, device: &Device) -> Result<Vit> {
    let folder = if name == MINI { Folder::embedded("dino")? } else { Folder::find(name, offline)? };
    let config: VitConfig = config(&folder, "config.json")?;
    Ok(Vit::load(&folder.weights(MODEL, device)?, config)?)
}

/// Loads the vision tower of a CLIP, or one that is published alone, from a hub repository or a directory.
///
/// # Errors
/// As [`Base::load`](super::Base::load).
pub fn load_vision(name: &str, offline: bool, device: &Device) -> Result<ClipVision> {
    let folder = Folder::find(name, offline)?;
    let text = folder.text("config.json")?;
    let whole: serde_json::Value = serde_json::from_str(&text).context("config.json is no JSON")?;
    let of_tower = whole.get("vision_config").map_or(text, ToString::to_string);
    let VisionConfig(config) = VisionConfig::from_json(&of_tower)
        .with_context(|| format!("{} does not fit", folder.describe("config.json")))?;
    Ok(ClipVision::load(&folder.weights(MODEL, device)?, config, None)?)
}

const JUDGE: Model = Model { stem: "judge/model", part: None };
const JUDGE_CONFIG: &str = "judge/config.json";

/// Loads the judge that a base brings along, if it brings one.
///
/// # Errors
/// As [`Base::load`](super::Base::load).
pub fn load_judge(base: &str, offline: bool, device: &Device) -> Result<Option<Judge>> {
    let folder = Folder::find(base, offline)?;
    if !folder.has(JUDGE_CONFIG) {
        return Ok(None);
    }
    let config: JudgeConfig = config(&folder, JUDGE_CONFIG)?;
    Ok(Some(Judge::load(&folder.weights(JUDGE, device)?, config)?))
}

/// The things that a base of a small world can draw, if it says so; others know too many to say.
///
/// # Errors
/// As [`Base::load`](super::Base::load).
pub fn things(base: &str, offline: bool) -> Result<Vec<String>> {
    let folder = Folder::find(base, offline)?;
    if !folder.has(JUDGE_CONFIG) {
        return Ok(Vec::new());
    }
    let mut config: JudgeConfig = config(&folder, JUDGE_CONFIG)?;
    Ok(config.labels.remove("word").unwrap_or_default())
}
