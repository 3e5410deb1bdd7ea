//! ELITE (Wei et al. 2023): an encoder that was trained once makes a word of a photo, and keys and values of the subject's
//! patches; nothing is trained on the subject.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Result, Tensor};
use serde::{Deserialize, Serialize};

use super::{Learned, Pass, Recorder};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::images::Mask;
use crate::model::elite::{Mapper, attention_to};
use crate::model::tokenizer::PLACEHOLDER;
use crate::model::{Attention, AttentionProcessor, tiled};
use crate::ops::attend;

/// Weight of the details in the released script.
pub const DETAILS: f64 = 0.8;

/// The vision tower that the published mappers were trained with.
pub const VISION: &str = "openai/clip-vit-large-patch14";

/// Where its files are, and how they are used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// The folder of `global_mapper` and `local_mapper`, as published (`.pt`) or as safetensors.
    pub mappers: PathBuf,
    /// The vision tower: a repository of the hub, or a directory.
    #[serde(default = "published_vision")]
    pub vision: String,
    /// Weight of the local mapping's details; 0: without it.
    #[serde(default = "published_details")]
    pub details: f64,
}

impl Files {
    /// Names of the files of the global and the local mapping, without their endings.
    pub const MAPPERS: [&str; 2] = ["global_mapper", "local_mapper"];

    /// # Errors
    /// If the weight of the details makes no sense.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.details.is_finite() && self.details >= 0., "details: give 0 or more");
        Ok(())
    }

    /// Whether the mappers that are needed are on this machine.
    pub fn are_there(&self) -> bool {
        let needed = if self.details == 0. { 1 } else { 2 };
        Self::MAPPERS[..needed].iter().all(|name| self.mapper(name).is_some())
    }

    /// The file of a mapper.
    pub fn mapper(&self, name: &str) -> Option<PathBuf> {
        ["safetensors", "pt"]
            .map(|ending| self.mappers.join(format!("{name}.{ending}")))
            .into_iter()
            .find(|file| file.is_file())
    }
}

fn published_vision() -> String {
    VISION.into()
}

fn published_details() -> f64 {
    DETAILS
}

/// The details of a subject, and what reads them.
pub struct Details {
    /// Their own keys and values.
    pub mapper: Mapper,
    /// The subject's patches [1 or B, patches, c].
    pub patches: Tensor,
    /// How much of them comes on top.
    pub weight: f64,
}

/// A subject as the encoder sees it.
pub struct Elite {
    /// Keys and values of texts.
    pub global: Mapper,
    /// What stands for the placeholder, `[c]`.
    pub word: Tensor,
    /// The local mapping, if it is wanted.
    pub local: Option<Details>,
}

impl Learned for Elite {
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor> {
        Ok(texts.with_concept(&base.tokenizer.encode(prompt, PLACEHOLDER)?, &self.word)?)
    }

    fn word(&self, base: &Base, prompt: &str) -> anyhow::Result<usize> {
        let tokens = base.tokenizer.encode(prompt, PLACEHOLDER)?;
        Ok(tokens.placeholder.first().copied().unwrap_or(0))
    }

    fn attention<'a>(&'a self, pass: Pass<'a>) -> Box<dyn Recorder + 'a> {
        Box::new(EliteAttention::new(&self.global, self.local.as_ref(), pass.words))
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        None
    }
}

/// Side of the square that masks are brought to first.
const MASK: usize = 128;

/// A subject's mask at `side` x `side` patches [1, side * side, 1], each as its top left corner.
///
/// # Errors
/// If the device has no room.
pub fn patches_of(mask: &Mask, side: usize, device: &Device) -> Result<Tensor> {
    Tensor::from_vec(mask.at(MASK).at(side).values, (1, side * side, 1), device)
}

/// Cross-attention with ELITE's keys and values; self-attention is the base's.
pub struct EliteAttention<'a> {
    global: &'a Mapper,
    local: Option<&'a Details>,
    /// Where the word stands in the last samples' texts; those before them have no details.
    words: &'a [usize],
    /// The values of the details, by layer.
    pub values: HashMap<String, Tensor>,
}

impl<'a> EliteAttention<'a> {
    /// Details come on top in the last samples of a pass, as many as there are `words`.
    pub fn new(global: &'a Mapper, local: Option<&'a Details>, words: &'a [usize]) -> Self {
        Self { global, local, words, values: HashMap::new() }
    }

    /// What the `query` [B, N, d] of samples with details sees of these, where it looks at the word, whose keys are among
    /// `key` [B, L, d].
    fn details(&mut self, layer: &Attention, local: &Details, [query, key]: [&Tensor; 2]) -> Result<Tensor> {
        let (batch, queries, width) = query.dims3()?;
        let heads = layer.parts.heads;
        let patches = tiled(&local.patches, batch)?;
        let [own_key, value] = suited(local.mapper.states(&layer.name, &patches)?, query)?;
        let seen = attend(query, &own_key, &value, &layer.options())?;
        let word = (attention_to(query, key, heads, self.words)? * local.weight)?;
        self.values.insert(layer.name.clone(), value);
        let by_head = seen.reshape((batch, queries, heads, width / heads))?.broadcast_mul(&word.unsqueeze(3)?)?;
        by_head.reshape((batch, queries, width))
    }
}

/// Keys and values of the mappers, which are kept in f32, in the type of the base's queries.
fn suited(states: [Tensor; 2], query: &Tensor) -> Result<[Tensor; 2]> {
    let [key, value] = states;
    Ok([key.to_dtype(query.dtype())?, value.to_dtype(query.dtype())?])
}

impl AttentionProcessor for EliteAttention<'_> {
    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        let query = layer.parts.to_q.after(&layer.parts.norm, x)?;
        let [key, value] = suited(self.global.states(&layer.name, text)?, &query)?;
        let mut seen = attend(&query, &key, &value, &layer.options())?;
        let (count, samples) = (self.words.len(), x.dim(0)?);
        if let Some(local) = self.local.filter(|_| count > 0) {
            let last = |x: &Tensor| x.narrow(0, samples - count, count)?.contiguous();
            let more = self.details(layer, local, [&last(&query)?, &last(&key)?])?;
            let with = (last(&seen)? + more)?;
            seen = if count == samples { with } else { Tensor::cat(&[seen.narrow(0, 0, samples - count)?, with], 0)? };
        }
        layer.parts.to_out.forward_plus(&seen, Some(x))
    }
}

impl Recorder for EliteAttention<'_> {}
