//! CLIP: the text encoder of Stable Diffusion, and both towers for the metrics.

use anyhow::Context;
use candle_core::{IndexOp, Result, Tensor};
use serde::Deserialize;

use super::config::{CHANNELS, Config, EPSILON, LAYERS, SIDE, divides, within};
use super::layers::{layer_norm, linear, linear_no_bias};
use crate::ops::attention::Options;
use crate::ops::{Conv2d, LayerNorm, Linear, Norm, activation, attend};
use crate::weights::Weights;

/// The configuration of a text or vision transformer.
#[derive(Clone, Debug, Deserialize)]
pub struct TowerConfig {
    /// Width d of the states.
    pub hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default = "quick_gelu")]
    hidden_act: String,
    #[serde(default = "default_eps")]
    layer_norm_eps: f64,
    /// Number of tokens.
    #[serde(default)]
    pub vocab_size: usize,
    /// Text length L.
    #[serde(default = "default_length")]
    pub max_position_embeddings: usize,
    /// Side of the pictures that the vision tower takes.
    #[serde(default = "default_image_size")]
    pub image_size: usize,
    #[serde(default = "default_patch_size")]
    patch_size: usize,
}

fn quick_gelu() -> String {
    "quick_gelu".into()
}
fn default_eps() -> f64 {
    1e-5
}
fn default_length() -> usize {
    77
}
fn default_image_size() -> usize {
    224
}
fn default_patch_size() -> usize {
    32
}

impl TowerConfig {
    fn check_layers(&self) -> anyhow::Result<()> {
        within("hidden_size", self.hidden_size, CHANNELS)?;
        within("intermediate_size", self.intermediate_size, 1..=1 << 16)?;
        within("num_hidden_layers", self.num_hidden_layers, LAYERS)?;
        divides("num_attention_heads", self.num_attention_heads, self.hidden_size)?;
        activation(&self.hidden_act)?;
        within("layer_norm_eps", self.layer_norm_eps, EPSILON)
    }

    fn check_text(&self) -> anyhow::Result<()> {
        within("vocab_size", self.vocab_size, 3..=1 << 24)?;
        // room for the start token, the end token and something between
        within("max_position_embeddings", self.max_position_embeddings, 3..=1 << 12)
    }

    fn check_vision(&self) -> anyhow::Result<()> {
        within("image_size", self.image_size, SIDE)?;
        within("patch_size", self.patch_size, 1..=self.image_size)
    }
}

/// As a text encoder of its own.
impl Config for TowerConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[];

    fn check(&self) -> anyhow::Result<()> {
        self.check_layers()?;
        self.check_text()
    }
}

impl Config for ClipConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[];

    fn check(&self) -> anyhow::Result<()> {
        self.text_config.check().context("text_config")?;
        self.vision_config.check_layers().context("vision_config")?;
        self.vision_config.check_vision().context("vision_config")?;
        within("projection_dim", self.projection_dim, CHANNELS)
    }
}

/// The activation of that name.
pub(super) fn activation(name: &str) -> anyhow::Result<fn(&Tensor) -> Result<Tensor>> {
    match name {
        "quick_gelu" => Ok(activation::quick_gelu),
        "gelu" => Ok(activation::gelu),
        other => anyhow::bail!("hidden_act = {other:?} is not known (quick_gelu, gelu)"),
    }
}

/// `config.json` of a whole CLIP.
#[derive(Clone, Debug, Deserialize)]
pub struct ClipConfig {
    /// The text tower.
    pub text_config: TowerConfig,
    /// The vision tower.
    pub vision_config: TowerConfig,
    /// Width of the space that both towers share.
    pub projection_dim: usize,
}

/// Names that checkpoints of one family give to the parts of an encoder layer.
pub(super) struct LayerNames {
    pub norm1: &'static str,
    pub query: &'static str,
    pub key: &'static str,
    pub value: &'static str,
    pub out: &'static str,
    pub norm2: &'static str,
    pub fc1: &'static str,
    pub fc2: &'static str,
}

const CLIP_NAMES: LayerNames = LayerNames {
    norm1: "layer_norm1",
    query: "self_attn.q_proj",
    key: "self_attn.k_proj",
    value: "self_attn.v_proj",
    out: "self_attn.out_proj",
    norm2: "layer_norm2",
    fc1: "mlp.fc1",
    fc2: "mlp.fc2",
};

/// A pre-norm transformer encoder layer, as CLIP and ViT have it.
pub(super) struct EncoderLayer {
    norm1: LayerNorm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    act: fn(&Tensor) -> Result<Tensor>,
    options: Options,
}

/// Sizes of an encoder layer.
pub(super) struct LayerSizes<'a> {
    pub width: usize,
    pub inner: usize,
    pub heads: usize,
    pub act: &'a str,
    pub eps: f64,
    pub causal: bool,
}

impl EncoderLayer {
    pub(super) fn load(w: &Weights, names: &LayerNames, sizes: &LayerSizes) -> Result<Self> {
        let &LayerSizes { width, inner, heads, act, eps, causal } = sizes;
        Ok(Self {
            norm1: layer_norm(&w.pp(names.norm1), width, eps)?,
            query: linear(&w.pp(names.query), width, width)?,
            key: linear(&w.pp(names.key), width, width)?,
            value: linear(&w.pp(names.value), width, width)?,
            out: linear(&w.pp(names.out), width, width)?,
            norm2: layer_norm(&w.pp(names.norm2), width, eps)?,
            fc1: linear(&w.pp(names.fc1), width, inner)?,
            fc2: linear(&w.pp(names.fc2), inner, width)?,
            act: activation(act).map_err(candle_core::Error::wrap)?,
            options: Options { heads, causal, ..Options::default() },
        })
    }

    /// `x` [B, N, d].
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.norm1.forward(x)?;
        let (q, k, v) = (self.query.forward(&y)?, self.key.forward(&y)?, self.value.forward(&y)?);
        let x = self.out.forward_plus(&attend(&q, &k, &v, &self.options)?, Some(x))?;
        let y = self.fc1.forward(&self.norm2.forward(&x)?)?;
        self.fc2.forward_plus(&(self.act)(&y)?, Some(&x))
    }
}

fn layers(w: &Weights, config: &TowerConfig, causal: bool) -> Result<Vec<EncoderLayer>> {
    let sizes = LayerSizes {
        width: config.hidden_size,
        inner: config.intermediate_size,
        heads: config.num_attention_heads,
        act: &config.hidden_act,
        eps: config.layer_norm_eps,
        causal,
    };
    (0..config.num_hidden_layers)
        .map(|i| EncoderLayer::load(&w.pp(format!("encoder.layers.{i}")), &CLIP_NAMES, &sizes))
        .collect()
}

/// Token embeddings that stand at the placeholder's positions instead of the vocabulary's.
pub struct Injection<'a> {
    /// 1 at the placeholder's positions, else 0: [B, L].
    pub positions: &'a Tensor,
    /// The embedding of each sample [B, d], or of each of its places [B, L, d].
    pub embeddings: &'a Tensor,
}

/// The text tower.
pub struct ClipText {
    /// Its sizes.
    pub config: TowerConfig,
    token_embedding: Tensor,
    position_embedding: Tensor,
    layers: Vec<EncoderLayer>,
    final_layer_norm: LayerNorm,
    projection: Option<Linear>,
}

impl ClipText {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, config: TowerConfig) -> Result<Self> {
        // published text encoders keep their tensors under text_model, newer writers do not
        let w = if w.has("text_model") { w.pp("text_model") } else { w.clone() };
        let (width, length) = (config.hidden_size, config.max_position_embeddings);
        Ok(Self {
            token_embedding: w.get(&[config.vocab_size, width], "embeddings.token_embedding.weight")?,
            position_embedding: w.get(&[length, width], "embeddings.position_embedding.weight")?,
            layers: layers(&w, &config, true)?,
            final_layer_norm: layer_norm(&w.pp("final_layer_norm"), width, config.layer_norm_eps)?,
            projection: None,
            config,
        })
    }

    /// The same with the map into CLIP's shared space, `width` wide, which the metrics need.
    ///
    /// # Errors
    /// If it is missing or misshapen.
    pub fn projected(self, w: &Weights, width: usize) -> Result<Self> {
        let projection = linear_no_bias(&w.pp("text_projection"), self.config.hidden_size, width)?;
        Ok(Self { projection: Some(projection), ..self })
    }

    /// Number of tokens.
    pub fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    /// The vocabulary's embedding `[d]` of a token.
    ///
    /// # Errors
    /// If the vocabulary has no such token.
    pub fn token_embedding(&self, id: u32) -> Result<Tensor> {
        self.token_embedding.i(id as usize)
    }

    /// Last hidden states [B, L, d] of token `ids` [B, L]. Gradients reach the injected embeddings.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, ids: &Tensor, injection: Option<Injection>) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let tokens = self.token_embedding.index_select(&ids.flatten_all()?, 0)?.reshape((batch, length, ()))?;
        let mut x = tokens.broadcast_add(&self.position_embedding.narrow(0, 0, length)?)?;
        if let Some(Injection { positions, embeddings }) = injection {
            let at = positions.unsqueeze(2)?;
            // x + at * (embedding - token): the frozen tokens stay outside the graph
            let embeddings = if embeddings.rank() == 2 { embeddings.unsqueeze(1)? } else { embeddings.clone() };
            let change = embeddings.broadcast_sub(&tokens)?;
            x = (x + change.broadcast_mul(&at)?)?;
        }
        self.through(x)
    }

    /// The same with n `words` [B, n, d] in the place of the token at each text's place: what follows moves on, and the last
    /// n - 1 tokens fall off.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn with_words(&self, ids: &Tensor, places: &[usize], words: &Tensor) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let tokens = self.token_embedding.index_select(&ids.flatten_all()?, 0)?.reshape((batch, length, ()))?;
        let moved = |(sample, &place): (usize, &usize)| -> Result<Tensor> {
            let (row, words) = (tokens.i(sample)?, words.i(sample)?);
            let after = row.narrow(0, place + 1, length - place - 1)?;
            Tensor::cat(&[row.narrow(0, 0, place)?, words, after], 0)?.narrow(0, 0, length)
        };
        let rows = places.iter().enumerate().map(moved).collect::<Result<Vec<_>>>()?;
        self.through(Tensor::stack(&rows, 0)?.broadcast_add(&self.position_embedding.narrow(0, 0, length)?)?)
    }

    fn through(&self, mut x: Tensor) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        self.final_layer_norm.forward(&x)
    }

    /// Features [1, p] in CLIP's shared space, of the state at the end token of one text, which is at place `end`: where
    /// OpenAI's vocabulary has its largest id, but not every vocabulary.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn features(&self, ids: &Tensor, end: usize) -> Result<Tensor> {
        let Some(projection) = &self.projection else { candle_core::bail!("a text encoder without projection") };
        projection.forward(&self.forward(ids, None)?.i((.., end))?)
    }
}

/// The vision tower.
pub struct ClipVision {
    /// Its sizes.
    pub config: TowerConfig,
    patch_embedding: Conv2d,
    class_embedding: Tensor,
    position_embedding: Tensor,
    pre_norm: LayerNorm,
    layers: Vec<EncoderLayer>,
    post_norm: LayerNorm,
    projection: Option<Linear>,
}

impl ClipVision {
    /// `projection`: the width of CLIP's shared space, where the metrics need it.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, config: TowerConfig, projection: Option<usize>) -> Result<Self> {
        let (width, patch) = (config.hidden_size, config.patch_size);
        let projection = projection.map(|to| linear_no_bias(&w.pp("visual_projection"), width, to)).transpose()?;
        let w = w.pp("vision_model");
        let positions = (config.image_size / patch).pow(2) + 1;
        let kernel = w.get(&[width, 3, patch, patch], "embeddings.patch_embedding.weight")?;
        Ok(Self {
            patch_embedding: Conv2d::new(kernel, None, patch, 0, w.precision())?,
            class_embedding: w.get(&[width], "embeddings.class_embedding")?,
            position_embedding: w.get(&[positions, width], "embeddings.position_embedding.weight")?,
            pre_norm: layer_norm(&w.pp("pre_layrnorm"), width, config.layer_norm_eps)?,
            layers: layers(&w, &config, false)?,
            post_norm: layer_norm(&w.pp("post_layernorm"), width, config.layer_norm_eps)?,
            projection,
            config,
        })
    }

    /// Features [B, p] of preprocessed `pixels` [B, 3, s, s].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn features(&self, pixels: &Tensor) -> Result<Tensor> {
        let Some(projection) = &self.projection else { candle_core::bail!("a vision tower without projection") };
        let mut x = self.embedded(pixels)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        projection.forward(&self.post_norm.forward(&x.i((.., 0))?.contiguous()?)?)
    }

    /// States [B, 1 + patches, d] after so many layers each (0: before the first), before any last norm.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn hidden_states(&self, pixels: &Tensor, taps: &[usize]) -> Result<Vec<Tensor>> {
        let mut states = vec![self.embedded(pixels)?];
        for layer in &self.layers {
            states.push(layer.forward(&states[states.len() - 1])?);
        }
        let tapped = taps.iter().map(|&tap| states.get(tap).cloned());
        tapped.collect::<Option<_>>().ok_or_else(|| {
            candle_core::Error::msg(format!("a vision tower of {} layers has no {taps:?}", self.layers.len()))
        })
    }

    fn embedded(&self, pixels: &Tensor) -> Result<Tensor> {
        let patches = self.patch_embedding.forward(&pixels.permute((0, 2, 3, 1))?.contiguous()?)?.flatten(1, 2)?;
        let class = self.class_embedding.reshape((1, 1, ()))?.expand((patches.dim(0)?, 1, patches.dim(2)?))?;
        let x = Tensor::cat(&[class, patches], 1)?.broadcast_add(&self.position_embedding)?;
        self.pre_norm.forward(&x)
    }
}

/// `config.json` of a vision tower alone.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct VisionConfig(pub TowerConfig);

impl Config for VisionConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[];

    fn check(&self) -> anyhow::Result<()> {
        self.0.check_layers()?;
        self.0.check_vision()
    }
}
