//! Whole models as tensors by name, and models made of such tensors.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use candle_core::Tensor;

use super::{Base, TEXT, UNET, config};
use crate::model::{ClipText, Unet};
use crate::weights::Weights;

/// Published text encoders keep their tensors under it, newer writers do not.
const TEXT_MODEL: &str = "text_model.";

impl Base {
    /// The names of the UNet's tensors in its checkpoint, with their shapes.
    ///
    /// # Errors
    /// If the checkpoint cannot be read any more.
    pub fn unet_shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        shapes(&self.parts.weights(UNET)?)
    }

    /// The same of the text encoder, without `text_model.`.
    ///
    /// # Errors
    /// As [`unet_shapes`](Self::unet_shapes).
    pub fn text_shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        let shapes = shapes(&self.parts.weights(TEXT)?)?.into_iter();
        Ok(shapes.map(|(name, shape)| (name.trim_start_matches(TEXT_MODEL).to_string(), shape)).collect())
    }

    /// All tensors of the UNet.
    ///
    /// # Errors
    /// As [`unet_shapes`](Self::unet_shapes).
    pub fn unet_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let weights = self.parts.weights(UNET)?;
        self.unet_shapes()?.into_keys().map(|name| Ok((name.clone(), weights.any(&name)?))).collect()
    }

    /// All tensors of the text encoder, without `text_model.`.
    ///
    /// # Errors
    /// As [`unet_shapes`](Self::unet_shapes).
    pub fn text_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        let weights = self.parts.weights(TEXT)?;
        let weights = if weights.has("text_model") { weights.pp("text_model") } else { weights };
        self.text_shapes()?.into_keys().map(|name| Ok((name.clone(), weights.any(&name)?))).collect()
    }

    /// A UNet like the base's with `tensors` in the place of their namesakes; what is made of variables is trained.
    ///
    /// # Errors
    /// If a tensor has another shape than the base's.
    pub fn unet_with(&self, tensors: BTreeMap<String, Tensor>) -> Result<Unet> {
        let weights = self.parts.unet_weights()?.replaced(tensors);
        Ok(Unet::load(&weights, config(&self.parts.folder, "unet/config.json")?)?)
    }

    /// A text encoder like the base's with `tensors` in the place of their namesakes, without `text_model.`.
    ///
    /// # Errors
    /// As [`unet_with`](Self::unet_with).
    pub fn text_with(&self, tensors: BTreeMap<String, Tensor>) -> Result<ClipText> {
        let weights = self.parts.text_weights()?;
        let prefix = if weights.has("text_model") { TEXT_MODEL } else { "" };
        let tensors = tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect();
        Ok(ClipText::load(&weights.replaced(tensors), config(&self.parts.folder, "text_encoder/config.json")?, None)?)
    }
}

fn shapes(weights: &Weights) -> Result<BTreeMap<String, Vec<usize>>> {
    let names = weights.names().into_iter().filter(|name| !name.ends_with("position_ids"));
    let shapes: BTreeMap<_, _> =
        names.filter_map(|name| Some((name.clone(), weights.shape(&name)?.to_vec()))).collect();
    ensure!(!shapes.is_empty(), "{} has no tensors that could be trained", weights.file());
    Ok(shapes)
}
