//! The vision transformer of DINO (`ViTModel` in transformers' naming).

use candle_core::{IndexOp, Result, Tensor};
use serde::Deserialize;

use super::clip::{EncoderLayer, LayerNames, LayerSizes, activation};
use super::config::{CHANNELS, Config, EPSILON, LAYERS, SIDE, divides, within};
use super::layers::layer_norm;
use crate::ops::{Conv2d, LayerNorm, Norm};
use crate::weights::Weights;

const VIT_NAMES: LayerNames = LayerNames {
    norm1: "layernorm_before",
    query: "attention.attention.query",
    key: "attention.attention.key",
    value: "attention.attention.value",
    out: "attention.output.dense",
    norm2: "layernorm_after",
    fc1: "intermediate.dense",
    fc2: "output.dense",
};

/// `config.json` of a ViT.
#[derive(Clone, Debug, Deserialize)]
pub struct VitConfig {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    /// Side of the pictures that it takes.
    pub image_size: usize,
    patch_size: usize,
}

impl Config for VitConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[("qkv_bias", "true"), ("num_channels", "3")];

    fn check(&self) -> anyhow::Result<()> {
        within("hidden_size", self.hidden_size, CHANNELS)?;
        within("intermediate_size", self.intermediate_size, 1..=1 << 16)?;
        within("num_hidden_layers", self.num_hidden_layers, LAYERS)?;
        divides("num_attention_heads", self.num_attention_heads, self.hidden_size)?;
        activation(&self.hidden_act)?;
        within("layer_norm_eps", self.layer_norm_eps, EPSILON)?;
        within("image_size", self.image_size, SIDE)?;
        within("patch_size", self.patch_size, 1..=self.image_size)
    }
}

/// A ViT whose class token is the feature.
pub struct Vit {
    /// Its sizes.
    pub config: VitConfig,
    projection: Conv2d,
    cls_token: Tensor,
    position_embeddings: Tensor,
    layers: Vec<EncoderLayer>,
    norm: LayerNorm,
}

impl Vit {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, config: VitConfig) -> Result<Self> {
        let w = if w.has("vit") { w.pp("vit") } else { w.clone() };
        let (width, patch) = (config.hidden_size, config.patch_size);
        let sizes = LayerSizes {
            width,
            inner: config.intermediate_size,
            heads: config.num_attention_heads,
            act: &config.hidden_act,
            eps: config.layer_norm_eps,
            causal: false,
        };
        let positions = (config.image_size / patch).pow(2) + 1;
        let layers = (0..config.num_hidden_layers)
            .map(|i| EncoderLayer::load(&w.pp(format!("encoder.layer.{i}")), &VIT_NAMES, &sizes))
            .collect::<Result<_>>()?;
        let patches = w.pp("embeddings.patch_embeddings.projection");
        let kernel = patches.get(&[width, 3, patch, patch], "weight")?;
        Ok(Self {
            projection: Conv2d::new(kernel, Some(patches.get(&[width], "bias")?), patch, 0, w.precision())?,
            cls_token: w.get(&[1, 1, width], "embeddings.cls_token")?,
            position_embeddings: w.get(&[1, positions, width], "embeddings.position_embeddings")?,
            layers,
            norm: layer_norm(&w.pp("layernorm"), width, config.layer_norm_eps)?,
            config,
        })
    }

    /// The class token [B, d] after the final norm, of preprocessed `pixels` [B, 3, s, s].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.projection.forward(&pixels.permute((0, 2, 3, 1))?.contiguous()?)?.flatten(1, 2)?;
        let class = self.cls_token.expand((patches.dim(0)?, 1, patches.dim(2)?))?;
        let mut x = Tensor::cat(&[class, patches], 1)?.broadcast_add(&self.position_embeddings)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.norm.forward(&x.i((.., 0))?.contiguous()?)
    }
}
