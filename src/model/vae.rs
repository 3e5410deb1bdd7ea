//! `AutoencoderKL`: pictures to latents and back.

use candle_core::{Result, Tensor};
use serde::Deserialize;

use super::config::{CHANNELS, Config, LAYERS, divides, within};
use super::layers::{conv, group_norm, linear};
use super::resnet::{Downsample, ResnetBlock, ResnetConfig, Upsample};
use crate::ops::attention::Options;
use crate::ops::{Around, Conv2d, GroupNorm, Linear, attend};
use crate::weights::Weights;

const EPS: f64 = 1e-6;

/// What `vae/config.json` says of sizes.
#[derive(Clone, Debug, Deserialize)]
pub struct VaeConfig {
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    /// Channels of the latents.
    #[serde(default = "default_latent_channels")]
    pub latent_channels: usize,
    #[serde(default = "default_groups")]
    norm_num_groups: usize,
    /// Latents are multiplied by this before the denoiser sees them.
    #[serde(default = "default_scaling_factor")]
    pub scaling_factor: f64,
}

fn default_latent_channels() -> usize {
    4
}
fn default_groups() -> usize {
    32
}
fn default_scaling_factor() -> f64 {
    0.18215
}

impl Config for VaeConfig {
    const ONLY: &'static [(&'static str, &'static str)] = &[
        ("act_fn", "\"silu\""),
        ("in_channels", "3"),
        ("out_channels", "3"),
        ("mid_block_add_attention", "true"),
        ("shift_factor", "0"),
        ("latents_mean", "null"),
        ("latents_std", "null"),
    ];

    fn check(&self) -> anyhow::Result<()> {
        within("the length of block_out_channels", self.block_out_channels.len(), 1..=8)?;
        for &width in &self.block_out_channels {
            within("block_out_channels", width, CHANNELS)?;
            divides("norm_num_groups", self.norm_num_groups, width)?;
        }
        within("layers_per_block", self.layers_per_block, LAYERS)?;
        within("latent_channels", self.latent_channels, CHANNELS)?;
        within("scaling_factor", self.scaling_factor, 1e-6..=1e6)
    }
}

/// The normal distribution over latents that a picture is encoded to, before scaling.
#[derive(Clone)]
pub struct Posterior {
    /// [B, 4, h, w].
    pub mean: Tensor,
    /// [B, 4, h, w].
    pub std: Tensor,
}

/// The autoencoder.
pub struct Vae {
    /// Its sizes and the latents' scale.
    pub config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
}

impl Vae {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, config: VaeConfig) -> Result<Self> {
        Ok(Self { encoder: Encoder::load(w, &config)?, decoder: Decoder::load(w, &config)?, config })
    }

    /// Pixels per latent, along a side.
    pub fn factor(&self) -> usize {
        1 << (self.config.block_out_channels.len() - 1)
    }

    /// The posterior of `image` [B, 3, H, W] in [-1, 1].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn encode(&self, image: &Tensor) -> Result<Posterior> {
        let moments = self.encoder.forward(image)?;
        let channels = self.config.latent_channels;
        let mean = moments.narrow(1, 0, channels)?.contiguous()?;
        let log_variance = moments.narrow(1, channels, channels)?.clamp(-30., 20.)?;
        Ok(Posterior { mean, std: (log_variance * 0.5)?.exp()? })
    }

    /// The picture [B, 3, H, W] (about [-1, 1]) of latents [B, 4, h, w] that are *not* scaled.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decoder.forward(latents)
    }
}

/// Single-head self-attention over the pixels of the middle block.
struct PixelAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl PixelAttention {
    fn load(w: &Weights, width: usize, groups: usize) -> Result<Self> {
        // the published Stable Diffusion 1.4 has the names of an older generation
        let layer = |new: &str, old: &str| linear(&w.pp(if w.has(old) { old } else { new }), width, width);
        Ok(Self {
            group_norm: group_norm(&w.pp("group_norm"), width, groups, EPS)?,
            to_q: layer("to_q", "query")?,
            to_k: layer("to_k", "key")?,
            to_v: layer("to_v", "value")?,
            to_out: layer("to_out.0", "proj_attn")?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let pixels = x.flatten(1, 2)?;
        let [q, k, v] = [&self.to_q, &self.to_k, &self.to_v].map(|map| map.after(&self.group_norm, &pixels));
        let (q, k, v) = (q?, k?, v?);
        let seen = attend(&q, &k, &v, &Options { heads: 1, ..Options::default() })?;
        self.to_out.forward_plus(&seen, Some(&pixels))?.reshape(x.shape())
    }
}

struct MidBlock {
    first: ResnetBlock,
    attention: PixelAttention,
    last: ResnetBlock,
}

impl MidBlock {
    fn load(w: &Weights, width: usize, groups: usize) -> Result<Self> {
        Ok(Self {
            first: resnet(&w.pp("resnets.0"), width, width, groups)?,
            attention: PixelAttention::load(&w.pp("attentions.0"), width, groups)?,
            last: resnet(&w.pp("resnets.1"), width, width, groups)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.last.forward(&self.attention.forward(&self.first.forward(x, None)?)?, None)
    }
}

fn resnet(w: &Weights, from: usize, to: usize, groups: usize) -> Result<ResnetBlock> {
    ResnetBlock::load(w, ResnetConfig { from, to, groups, eps: EPS, time: None })
}

fn resnets(w: &Weights, count: usize, from: usize, to: usize, groups: usize) -> Result<Vec<ResnetBlock>> {
    (0..count).map(|i| resnet(&w.pp(format!("resnets.{i}")), if i == 0 { from } else { to }, to, groups)).collect()
}

struct Encoder {
    conv_in: Conv2d,
    blocks: Vec<(Vec<ResnetBlock>, Option<Downsample>)>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
    quant_conv: Option<Linear>,
}

impl Encoder {
    fn load(w: &Weights, config: &VaeConfig) -> Result<Self> {
        let (widths, groups) = (&config.block_out_channels, config.norm_num_groups);
        let moments = 2 * config.latent_channels;
        let quant = w.pp("quant_conv");
        let quant_conv = if w.has("quant_conv") { Some(linear(&quant, moments, moments)?) } else { None };
        let w = w.pp("encoder");
        let mut blocks = Vec::with_capacity(widths.len());
        for (i, &to) in widths.iter().enumerate() {
            let w = w.pp(format!("down_blocks.{i}"));
            let layers = resnets(&w, config.layers_per_block, widths[i.saturating_sub(1)], to, groups)?;
            let last = i + 1 == widths.len();
            let down = if last { None } else { Some(Downsample::load(&w.pp("downsamplers.0"), to, true)?) };
            blocks.push((layers, down));
        }
        let deepest = widths[widths.len() - 1];
        Ok(Self {
            conv_in: conv(&w.pp("conv_in"), 3, widths[0], 3, 1, 1)?,
            blocks,
            mid_block: MidBlock::load(&w.pp("mid_block"), deepest, groups)?,
            conv_norm_out: group_norm(&w.pp("conv_norm_out"), deepest, groups, EPS)?.with_silu(),
            conv_out: conv(&w.pp("conv_out"), deepest, moments, 3, 1, 1)?,
            quant_conv,
        })
    }

    fn forward(&self, image: &Tensor) -> Result<Tensor> {
        // within, the channels of a pixel lie together
        let mut x = self.conv_in.forward(&image.permute((0, 2, 3, 1))?.contiguous()?)?;
        for (resnets, downsample) in &self.blocks {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(downsample) = downsample {
                x = downsample.forward(&x)?;
            }
        }
        x = self.mid_block.forward(&x)?;
        x = self.conv_out.forward_with(&x, Around { norm: Some(&self.conv_norm_out), ..Around::default() })?;
        if let Some(quant) = &self.quant_conv {
            x = quant.forward(&x)?;
        }
        x.permute((0, 3, 1, 2))?.contiguous()
    }
}

struct Decoder {
    post_quant_conv: Option<Linear>,
    conv_in: Conv2d,
    mid_block: MidBlock,
    blocks: Vec<(Vec<ResnetBlock>, Option<Upsample>)>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(w: &Weights, config: &VaeConfig) -> Result<Self> {
        let (widths, groups, latent) = (&config.block_out_channels, config.norm_num_groups, config.latent_channels);
        let quant = w.pp("post_quant_conv");
        let post_quant_conv = if w.has("post_quant_conv") { Some(linear(&quant, latent, latent)?) } else { None };
        let w = w.pp("decoder");
        let (count, deepest) = (widths.len(), widths[widths.len() - 1]);
        let mut blocks = Vec::with_capacity(count);
        for i in 0..count {
            let w = w.pp(format!("up_blocks.{i}"));
            let (from, to) = (widths[(count - i).min(count - 1)], widths[count - 1 - i]);
            let layers = resnets(&w, config.layers_per_block + 1, from, to, groups)?;
            let up = if i + 1 == count { None } else { Some(Upsample::load(&w.pp("upsamplers.0"), to)?) };
            blocks.push((layers, up));
        }
        Ok(Self {
            post_quant_conv,
            conv_in: conv(&w.pp("conv_in"), latent, deepest, 3, 1, 1)?,
            mid_block: MidBlock::load(&w.pp("mid_block"), deepest, groups)?,
            blocks,
            conv_norm_out: group_norm(&w.pp("conv_norm_out"), widths[0], groups, EPS)?.with_silu(),
            conv_out: conv(&w.pp("conv_out"), widths[0], 3, 3, 1, 1)?,
        })
    }

    fn forward(&self, latents: &Tensor) -> Result<Tensor> {
        let mut latents = latents.permute((0, 2, 3, 1))?.contiguous()?;
        if let Some(quant) = &self.post_quant_conv {
            latents = quant.forward(&latents)?;
        }
        let mut x = self.mid_block.forward(&self.conv_in.forward(&latents)?)?;
        for (resnets, upsample) in &self.blocks {
            for resnet in resnets {
                x = resnet.forward(&x, None)?;
            }
            if let Some(upsample) = upsample {
                let (_, height, width, _) = x.dims4()?;
                x = upsample.forward(&x, 2 * height, 2 * width)?;
            }
        }
        let around = Around { norm: Some(&self.conv_norm_out), ..Around::default() };
        self.conv_out.forward_with(&x, around)?.permute((0, 3, 1, 2))?.contiguous()
    }
}
