//! A small classifier of the attributes of a toy world's pictures, which some bases bring along (`scripts/mini/judge.py`).

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor};
use serde::Deserialize;

use super::config::{CHANNELS, Config, SIDE, within};
use super::layers::{conv, linear};
use crate::ops::{Conv2d, Linear};
use crate::weights::Weights;

/// `config.json` of a judge.
#[derive(Clone, Debug, Deserialize)]
pub struct JudgeConfig {
    /// Side of the pictures that it takes.
    pub image_size: usize,
    /// Channels of its maps, each half as wide as the one before.
    widths: Vec<usize>,
    /// The names that it tells apart, by attribute. "WORD SHAPE" is a shape that things of that word have.
    pub labels: BTreeMap<String, Vec<String>>,
    /// How prompts ask for a name, by attribute: wording and name, the longest wordings first.
    pub wordings: BTreeMap<String, Vec<(String, String)>>,
    /// Styles without colours.
    pub colorless: Vec<String>,
}

impl Config for JudgeConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[];

    fn check(&self) -> anyhow::Result<()> {
        within("image_size", self.image_size, SIDE)?;
        within("widths", self.widths.len(), 1..=8)?;
        self.widths.iter().try_for_each(|&width| within("widths", width, CHANNELS))?;
        for (attribute, names) in &self.labels {
            within(&format!("labels.{attribute}"), names.len(), CHANNELS)?;
        }
        Ok(())
    }
}

/// The classifier.
pub struct Judge {
    /// What it knows.
    pub config: JudgeConfig,
    /// Two convolutions a map; batch norm is part of them.
    blocks: Vec<(Conv2d, Conv2d)>,
    heads: BTreeMap<String, Linear>,
}

impl Judge {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, config: JudgeConfig) -> Result<Self> {
        let mut from = 3;
        let mut blocks = Vec::new();
        for (i, &width) in config.widths.iter().enumerate() {
            let block = w.pp(format!("blocks.{i}"));
            blocks.push((
                conv(&block.pp("down"), from, width, 3, 2, 1)?,
                conv(&block.pp("conv"), width, width, 3, 1, 1)?,
            ));
            from = width;
        }
        let head = |(attribute, names): (&String, &Vec<String>)| {
            Ok((attribute.clone(), linear(&w.pp("heads").pp(attribute), 2 * from, names.len())?))
        };
        let heads = config.labels.iter().map(head).collect::<Result<_>>()?;
        Ok(Self { config, blocks, heads })
    }

    /// Logarithms of the names' probabilities [B, names] for each attribute, of `pixels` [B, 3, s, s] in [-1, 1].
    ///
    /// # Errors
    /// If the computation fails.
    pub fn look(&self, pixels: &Tensor) -> Result<BTreeMap<String, Tensor>> {
        let mut x = pixels.permute((0, 2, 3, 1))?.contiguous()?;
        for (down, conv) in &self.blocks {
            x = down.forward(&x)?.relu()?;
            x = (&x + conv.forward(&x)?)?.relu()?;
        }
        let places = x.flatten(1, 2)?;
        let seen = Tensor::cat(&[places.mean(1)?, places.max(1)?], D::Minus1)?;
        let named = |(attribute, head): (&String, &Linear)| {
            Ok((attribute.clone(), candle_nn::ops::log_softmax(&head.forward(&seen)?, D::Minus1)?))
        };
        self.heads.iter().map(named).collect()
    }
}
