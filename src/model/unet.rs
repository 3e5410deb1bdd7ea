//! `UNet2DConditionModel`: the denoiser of Stable Diffusion 1.x.

use candle_core::{DType, Result, Tensor};
use serde::Deserialize;

use super::attention::{Attention, AttentionProcessor, Transformer2d};
use super::config::{CHANNELS, Config, EPSILON, LAYERS, divides, within};
use super::layers::{conv, group_norm, linear};
use super::unet_blocks::{Conditions, DownBlock, MidBlock, Sizes, UpBlock};
use crate::ops::{Around, Conv2d, GroupNorm, Linear};
use crate::weights::Weights;

/// Channels of the latents of Stable Diffusion 1.x.
pub const LATENTS: usize = 4;

/// What `unet/config.json` says; the rest of the file has no effect on Stable Diffusion 1.x.
#[derive(Clone, Debug, Deserialize)]
pub struct UnetConfig {
    /// Side of the latents that the model was trained on.
    pub sample_size: usize,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    /// Width of the text states.
    pub cross_attention_dim: usize,
    /// In Stable Diffusion 1.x this is the *number* of heads.
    attention_head_dim: OneOrEach,
    #[serde(default)]
    num_attention_heads: Option<OneOrEach>,
    #[serde(default = "thirty_two")]
    norm_num_groups: usize,
    #[serde(default = "default_eps")]
    norm_eps: f64,
    #[serde(default)]
    freq_shift: f64,
    #[serde(default = "yes")]
    flip_sin_to_cos: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrEach {
    One(usize),
    Each(Vec<usize>),
}

fn thirty_two() -> usize {
    32
}
fn default_eps() -> f64 {
    1e-5
}
fn yes() -> bool {
    true
}

impl UnetConfig {
    /// Heads of a block's attention; a checked configuration has a number for every block.
    fn heads(&self, block: usize) -> usize {
        match self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim) {
            OneOrEach::One(heads) => *heads,
            OneOrEach::Each(heads) => heads.get(block).copied().unwrap_or(0),
        }
    }

    /// Halvings between the latents and the deepest level, as a factor along a side.
    pub fn halvings(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

impl Config for UnetConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[
        ("act_fn", "\"silu\""),
        ("addition_embed_type", "null"),
        ("attention_type", "\"default\""),
        ("center_input_sample", "false"),
        ("class_embed_type", "null"),
        ("conv_in_kernel", "3"),
        ("conv_out_kernel", "3"),
        ("cross_attention_norm", "null"),
        ("downsample_padding", "1"),
        ("dual_cross_attention", "false"),
        ("encoder_hid_dim", "null"),
        ("encoder_hid_dim_type", "null"),
        ("in_channels", "4"),
        ("mid_block_only_cross_attention", "false"),
        ("mid_block_scale_factor", "1"),
        ("mid_block_type", "\"UNetMidBlock2DCrossAttn\""),
        ("num_class_embeds", "null"),
        ("only_cross_attention", "false"),
        ("out_channels", "4"),
        ("resnet_out_scale_factor", "1"),
        ("resnet_skip_time_act", "false"),
        ("resnet_time_scale_shift", "\"default\""),
        ("reverse_transformer_layers_per_block", "null"),
        ("time_cond_proj_dim", "null"),
        ("time_embedding_act_fn", "null"),
        ("time_embedding_dim", "null"),
        ("time_embedding_type", "\"positional\""),
        ("timestep_post_act", "null"),
        ("transformer_layers_per_block", "1"),
    ];

    fn check(&self) -> anyhow::Result<()> {
        let widths = &self.block_out_channels;
        let count = widths.len();
        within("the length of block_out_channels", count, 1..=8)?;
        for (key, kinds) in [("down_block_types", &self.down_block_types), ("up_block_types", &self.up_block_types)] {
            anyhow::ensure!(kinds.len() == count, "{} {key} for {count} block_out_channels", kinds.len());
            let known = ["CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"];
            let strange = kinds.iter().find(|kind| !known.contains(&kind.as_str()));
            anyhow::ensure!(
                strange.is_none(),
                "{key} has {}, which is not known ({})",
                strange.map_or("", |kind| kind),
                known.join(", ")
            );
        }
        for (block, &width) in widths.iter().enumerate() {
            within("block_out_channels", width, CHANNELS)?;
            divides("norm_num_groups", self.norm_num_groups, width)?;
            // the middle block is as wide as the last
            let attends = [&self.down_block_types[block], &self.up_block_types[count - 1 - block]];
            if block + 1 == count || attends.iter().any(|kind| kind.starts_with("CrossAttn")) {
                divides("the number of heads (attention_head_dim, num_attention_heads)", self.heads(block), width)?;
            }
        }
        anyhow::ensure!(widths[0].is_multiple_of(2), "block_out_channels begins with {}, which is odd", widths[0]);
        within("layers_per_block", self.layers_per_block, LAYERS)?;
        within("cross_attention_dim", self.cross_attention_dim, CHANNELS)?;
        within("sample_size", self.sample_size, 1..=256)?;
        let (side, unit) = (self.sample_size, self.halvings());
        anyhow::ensure!(side.is_multiple_of(unit), "sample_size = {side}: {count} levels need a multiple of {unit}");
        within("norm_eps", self.norm_eps, EPSILON)?;
        // half the width minus this is divided by
        within("freq_shift", self.freq_shift, 0. ..=(widths[0] / 2) as f64 - 0.5)
    }
}

/// A timestep: a whole number in training, anything between for some samplers.
pub trait Timestep: Copy {
    /// As a number.
    fn number(self) -> f64;
}

impl Timestep for usize {
    fn number(self) -> f64 {
        self as f64
    }
}

impl Timestep for f64 {
    fn number(self) -> f64 {
        self
    }
}

/// The denoiser; predicts the noise in latents.
pub struct Unet {
    /// Its sizes.
    pub config: UnetConfig,
    conv_in: Conv2d,
    time_embedding: (Linear, Linear),
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, config: UnetConfig) -> Result<Self> {
        let widths = &config.block_out_channels;
        let (count, groups, first) = (widths.len(), config.norm_num_groups, widths[0]);
        let deepest = widths[count - 1];
        let time = 4 * first;
        let sizes = Sizes { groups, eps: config.norm_eps, time, context: config.cross_attention_dim };
        let heads_of = |kind: &str, block: usize| kind.starts_with("CrossAttn").then(|| config.heads(block));
        let mut down_blocks = Vec::with_capacity(count);
        for (i, kind) in config.down_block_types.iter().enumerate() {
            let (from, to) = (widths[i.saturating_sub(1)], widths[i]);
            let channels: Vec<_> = (0..config.layers_per_block).map(|j| (if j == 0 { from } else { to }, to)).collect();
            let w = w.pp(format!("down_blocks.{i}"));
            down_blocks.push(DownBlock::load(&w, &channels, heads_of(kind, i), i + 1 == count, sizes)?);
        }
        let mut up_blocks = Vec::with_capacity(count);
        for (i, kind) in config.up_block_types.iter().enumerate() {
            let to = widths[count - 1 - i];
            let before = if i == 0 { deepest } else { widths[count - i] };
            let skip_last = widths[count.saturating_sub(i + 2)];
            let layers = config.layers_per_block + 1;
            let channels: Vec<_> = (0..layers)
                .map(|j| {
                    let skip = if j + 1 == layers { skip_last } else { to };
                    (if j == 0 { before } else { to } + skip, to)
                })
                .collect();
            let w = w.pp(format!("up_blocks.{i}"));
            up_blocks.push(UpBlock::load(&w, &channels, heads_of(kind, count - 1 - i), i + 1 == count, sizes)?);
        }
        Ok(Self {
            conv_in: conv(&w.pp("conv_in"), LATENTS, first, 3, 1, 1)?,
            time_embedding: (
                linear(&w.pp("time_embedding.linear_1"), first, time)?,
                linear(&w.pp("time_embedding.linear_2"), time, time)?,
            ),
            down_blocks,
            mid_block: MidBlock::load(&w.pp("mid_block"), deepest, config.heads(count - 1), sizes)?,
            up_blocks,
            conv_norm_out: group_norm(&w.pp("conv_norm_out"), first, groups, config.norm_eps)?.with_silu(),
            conv_out: conv(&w.pp("conv_out"), first, LATENTS, 3, 1, 1)?,
            config,
        })
    }

    /// The noise [k B, 4, h, w] in `latents` [B, 4, h, w] at the given `timesteps` (one for each sample), with the text
    /// states [k B, L, c]. Where k is above 1, all latents are denoised with each of k sets of texts, as guidance does,
    /// and all that comes before the first text is computed once.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &[impl Timestep],
        text: &Tensor,
        processor: &mut dyn AttentionProcessor,
    ) -> Result<Tensor> {
        let (batch, _, height, width) = latents.dims4()?;
        let blocks = self.down_blocks.len();
        if batch != timesteps.len() || !text.dim(0)?.is_multiple_of(batch) {
            candle_core::bail!("{batch} latents, {} timesteps and {} texts", timesteps.len(), text.dim(0)?);
        }
        if height >> (blocks - 1) == 0 || width >> (blocks - 1) == 0 {
            candle_core::bail!("{width}x{height} latents are too small for {blocks} levels");
        }
        let time = self.time_states(timesteps, latents)?;
        let mut given = Conditions { time: &time, text, processor };
        // within, the channels of a pixel lie together
        let mut x = self.conv_in.forward(&latents.permute((0, 2, 3, 1))?.contiguous()?)?;
        let mut skips = vec![x.clone()];
        for block in &self.down_blocks {
            x = block.forward(x, &mut skips, &mut given)?;
        }
        x = self.mid_block.forward(&x, &mut given)?;
        for (i, block) in self.up_blocks.iter().enumerate() {
            x = block.forward(x, &mut skips, &mut given)?;
            given.processor.up_block(i, &x)?;
        }
        let around = Around { norm: Some(&self.conv_norm_out), ..Around::default() };
        let noise = self.conv_out.forward_with(&x, around)?.permute((0, 3, 1, 2))?;
        noise.to_dtype(latents.dtype())?.contiguous()
    }

    /// Sinusoidal timestep embedding through its two-layer network and the SiLU that every user of it
    /// starts with: [B, 4 c].
    fn time_states(&self, timesteps: &[impl Timestep], like: &Tensor) -> Result<Tensor> {
        let half = self.config.block_out_channels[0] / 2;
        let step = -(10000f64.ln()) / (half as f64 - self.config.freq_shift);
        let mut values = Vec::with_capacity(timesteps.len() * 2 * half);
        for &t in timesteps {
            let angles: Vec<f64> = (0..half).map(|i| t.number() * (step * i as f64).exp()).collect();
            let (sines, cosines) = (angles.iter().map(|a| a.sin() as f32), angles.iter().map(|a| a.cos() as f32));
            if self.config.flip_sin_to_cos {
                values.extend(cosines.chain(sines));
            } else {
                values.extend(sines.chain(cosines));
            }
        }
        let sinusoids = Tensor::from_vec(values, (timesteps.len(), 2 * half), like.device())?.to_dtype(DType::F32)?;
        let hidden = self.time_embedding.0.forward(&sinusoids)?.silu()?;
        self.time_embedding.1.forward(&hidden)?.silu()
    }

    /// Tokens of a transformer, and tokens times width summed over the transformers of its level, for one sample with
    /// latents of `side` x `side`; the level of the most tokens first.
    pub fn transformer_values(&self, side: usize) -> Vec<(usize, usize)> {
        let UnetConfig { block_out_channels: widths, layers_per_block, down_block_types, .. } = &self.config;
        let deepest = widths.len() - 1;
        let level = |level: usize| {
            let outer = if down_block_types[level].starts_with("CrossAttn") { 2 * layers_per_block + 1 } else { 0 };
            let tokens = (side >> level).max(1).pow(2);
            (tokens, tokens * widths[level] * (outer + (level == deepest) as usize))
        };
        (0..=deepest).map(level).collect()
    }

    /// Values of all 3x3 filters between the first convolution and the last.
    pub fn filter_values(&self) -> usize {
        let down = self.down_blocks.iter().map(DownBlock::filter_values);
        let up = self.up_blocks.iter().map(UpBlock::filter_values);
        down.chain([self.mid_block.filter_values()]).chain(up).sum()
    }

    /// All attention layers, in the order in which a pass meets them.
    pub fn attentions(&self) -> Vec<&Attention> {
        let down = self.down_blocks.iter().flat_map(|b| b.transformers());
        let up = self.up_blocks.iter().flat_map(|b| b.transformers());
        down.chain([self.mid_block.transformer()]).chain(up).flat_map(Transformer2d::attentions).collect()
    }
}
