//! The models of the metrics: CLIP and DINO.

use anyhow::Result;
use candle_core::Device;

use super::source::{Folder, Model};
use super::{MINI, config, tokenizer};
use crate::model::clip::ClipConfig;
use crate::model::vit::VitConfig;
use crate::model::{ClipText, ClipVision, Tokenizer, Vit};

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
        let config: ClipConfig = config(&folder, "config.json")?;
        Ok(Self {
            tokenizer: tokenizer(&folder, "", &config.text_config)?,
            text: ClipText::load(&weights, config.text_config, Some(config.projection_dim))?,
            vision: ClipVision::load(&weights, config.vision_config, config.projection_dim)?,
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
