//! The residual convolution block of UNet and VAE, and the changes of resolution between blocks.

use candle_core::{Result, Tensor};

use super::layers::{conv, group_norm, linear};
use crate::ops::{Around, Conv2d, GroupNorm, Linear};
use crate::weights::Weights;

/// Sizes of a [`ResnetBlock`].
#[derive(Clone, Copy)]
pub struct ResnetConfig {
    /// Channels in and out.
    pub from: usize,
    /// See `from`.
    pub to: usize,
    /// Groups of the normalisations.
    pub groups: usize,
    /// Epsilon of the normalisations.
    pub eps: f64,
    /// Width of the time embedding; the VAE has none.
    pub time: Option<usize>,
}

/// `ResnetBlock2D`: two 3x3 convolutions beside a shortcut.
pub struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1x1 convolution, which is a linear map of each pixel.
    conv_shortcut: Option<Linear>,
}

impl ResnetBlock {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, config: ResnetConfig) -> Result<Self> {
        let ResnetConfig { from, to, groups, eps, time } = config;
        Ok(Self {
            norm1: group_norm(&w.pp("norm1"), from, groups, eps)?.with_silu(),
            conv1: conv(&w.pp("conv1"), from, to, 3, 1, 1)?,
            time_emb_proj: time.map(|time| linear(&w.pp("time_emb_proj"), time, to)).transpose()?,
            norm2: group_norm(&w.pp("norm2"), to, groups, eps)?.with_silu(),
            conv2: conv(&w.pp("conv2"), to, to, 3, 1, 1)?,
            conv_shortcut: if from == to { None } else { Some(linear(&w.pp("conv_shortcut"), from, to)?) },
        })
    }

    /// Values of its 3x3 filters.
    pub fn filter_values(&self) -> usize {
        self.conv1.values() + self.conv2.values()
    }

    /// `x` [B, h, w, from]; `time` [B, t] is the time embedding after its SiLU.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let shift = match (&self.time_emb_proj, time) {
            (Some(project), Some(time)) => Some(project.forward(time)?),
            _ => None,
        };
        let around = Around { norm: Some(&self.norm1), shift: shift.as_ref(), ..Around::default() };
        let hidden = self.conv1.forward_with(x, around)?;
        let shortcut = match &self.conv_shortcut {
            Some(shortcut) => shortcut.forward(x)?,
            None => x.clone(),
        };
        let around = Around { norm: Some(&self.norm2), residual: Some(&shortcut), ..Around::default() };
        self.conv2.forward_with(&hidden, around)
    }
}

/// Halves the resolution with a 3x3 convolution of stride 2.
pub struct Downsample {
    conv: Conv2d,
    /// The VAE's encoder pads right and bottom only.
    asymmetric: bool,
}

impl Downsample {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, channels: usize, asymmetric: bool) -> Result<Self> {
        Ok(Self { conv: conv(&w.pp("conv"), channels, channels, 3, 2, !asymmetric as usize)?, asymmetric })
    }

    /// Values of its 3x3 filters.
    pub fn filter_values(&self) -> usize {
        self.conv.values()
    }

    /// `x` [B, h, w, C].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if self.asymmetric {
            let x = x.pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?;
            return self.conv.forward(&x);
        }
        self.conv.forward(x)
    }
}

/// Doubles the resolution (nearest) before a 3x3 convolution.
pub struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, channels: usize) -> Result<Self> {
        Ok(Self { conv: conv(&w.pp("conv"), channels, channels, 3, 1, 1)? })
    }

    /// Values of its 3x3 filters.
    pub fn filter_values(&self) -> usize {
        self.conv.values()
    }

    /// `x` [B, h, w, C] to the given height and width; sides that were odd before the matching
    /// downsampling are one short of twice those of `x`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.conv.forward_with(x, Around { doubled_to: Some((height, width)), ..Around::default() })
    }
}
