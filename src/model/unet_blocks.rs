//! The down, middle and up blocks of the UNet.

use candle_core::{Result, Tensor};

use super::attention::{AttentionProcessor, Transformer2d};
use super::layers::tiled;
use super::resnet::{Downsample, ResnetBlock, ResnetConfig, Upsample};
use crate::weights::Weights;

/// Sizes that all blocks of one UNet share.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Groups of the normalisations.
    pub groups: usize,
    /// Epsilon of the residual blocks' normalisations.
    pub eps: f64,
    /// Width of the time embedding.
    pub time: usize,
    /// Width of the text states.
    pub context: usize,
}

/// What every block is told besides its input.
pub struct Conditions<'a> {
    /// Time embedding after its SiLU [B, t] of B latents, which become k B samples at the first text.
    pub time: &'a Tensor,
    /// Text states [k B, L, c].
    pub text: &'a Tensor,
    /// What happens in the attention layers.
    pub processor: &'a mut dyn AttentionProcessor,
}

/// Residual blocks, each followed by a transformer where the block has attention.
struct Layers {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer2d>,
}

impl Layers {
    fn load(w: &Weights, channels: &[(usize, usize)], heads: Option<usize>, sizes: Sizes) -> Result<Self> {
        let Sizes { groups, eps, time, context } = sizes;
        let resnets = channels.iter().enumerate().map(|(i, &(from, to))| {
            let config = ResnetConfig { from, to, groups, eps, time: Some(time) };
            ResnetBlock::load(&w.pp(format!("resnets.{i}")), config)
        });
        let transformers = channels.iter().enumerate().filter_map(|(i, &(_, to))| {
            heads.map(|heads| Transformer2d::load(&w.pp(format!("attentions.{i}")), to, context, heads, groups))
        });
        Ok(Self { resnets: resnets.collect::<Result<_>>()?, attentions: transformers.collect::<Result<_>>()? })
    }

    fn filter_values(&self) -> usize {
        self.resnets.iter().map(ResnetBlock::filter_values).sum()
    }

    fn forward(&self, i: usize, x: &Tensor, given: &mut Conditions) -> Result<Tensor> {
        let x = self.resnets[i].forward(x, Some(&tiled(given.time, x.dim(0)?)?))?;
        match self.attentions.get(i) {
            Some(attention) => attention.forward(&x, given.text, given.processor),
            None => Ok(x),
        }
    }
}

/// `CrossAttnDownBlock2D` or `DownBlock2D`.
pub struct DownBlock {
    layers: Layers,
    downsampler: Option<Downsample>,
}

impl DownBlock {
    /// `heads`: none for a block without attention.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(
        w: &Weights,
        channels: &[(usize, usize)],
        heads: Option<usize>,
        last: bool,
        sizes: Sizes,
    ) -> Result<Self> {
        let width = channels.last().map_or(0, |c| c.1);
        let downsampler = if last { None } else { Some(Downsample::load(&w.pp("downsamplers.0"), width, false)?) };
        Ok(Self { layers: Layers::load(w, channels, heads, sizes)?, downsampler })
    }

    /// Values of its 3x3 filters.
    pub fn filter_values(&self) -> usize {
        self.layers.filter_values() + self.downsampler.as_ref().map_or(0, Downsample::filter_values)
    }

    /// Pushes every intermediate result on `skips`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: Tensor, skips: &mut Vec<Tensor>, given: &mut Conditions) -> Result<Tensor> {
        let mut x = x;
        for i in 0..self.layers.resnets.len() {
            x = self.layers.forward(i, &x, given)?;
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }

    /// The transformers, in order.
    pub fn transformers(&self) -> &[Transformer2d] {
        &self.layers.attentions
    }
}

/// `UNetMidBlock2DCrossAttn`.
pub struct MidBlock {
    first: ResnetBlock,
    attention: Transformer2d,
    last: ResnetBlock,
}

impl MidBlock {
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, width: usize, heads: usize, sizes: Sizes) -> Result<Self> {
        let Sizes { groups, eps, time, context } = sizes;
        let config = ResnetConfig { from: width, to: width, groups, eps, time: Some(time) };
        Ok(Self {
            first: ResnetBlock::load(&w.pp("resnets.0"), config)?,
            attention: Transformer2d::load(&w.pp("attentions.0"), width, context, heads, groups)?,
            last: ResnetBlock::load(&w.pp("resnets.1"), config)?,
        })
    }

    /// Values of its 3x3 filters.
    pub fn filter_values(&self) -> usize {
        self.first.filter_values() + self.last.filter_values()
    }

    /// `x` [B, h, w, C].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor, given: &mut Conditions) -> Result<Tensor> {
        let x = self.first.forward(x, Some(&tiled(given.time, x.dim(0)?)?))?;
        let x = self.attention.forward(&x, given.text, given.processor)?;
        self.last.forward(&x, Some(&tiled(given.time, x.dim(0)?)?))
    }

    /// Its only transformer.
    pub fn transformer(&self) -> &Transformer2d {
        &self.attention
    }
}

/// `CrossAttnUpBlock2D` or `UpBlock2D`.
pub struct UpBlock {
    layers: Layers,
    upsampler: Option<Upsample>,
}

impl UpBlock {
    /// As [`DownBlock::load`]; the input channels include those of the skip connection.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(
        w: &Weights,
        channels: &[(usize, usize)],
        heads: Option<usize>,
        last: bool,
        sizes: Sizes,
    ) -> Result<Self> {
        let width = channels.last().map_or(0, |c| c.1);
        let upsampler = if last { None } else { Some(Upsample::load(&w.pp("upsamplers.0"), width)?) };
        Ok(Self { layers: Layers::load(w, channels, heads, sizes)?, upsampler })
    }

    /// Values of its 3x3 filters.
    pub fn filter_values(&self) -> usize {
        self.layers.filter_values() + self.upsampler.as_ref().map_or(0, Upsample::filter_values)
    }

    /// Pops the skip connections off `skips`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: Tensor, skips: &mut Vec<Tensor>, given: &mut Conditions) -> Result<Tensor> {
        let mut x = x;
        for i in 0..self.layers.resnets.len() {
            let Some(skip) = skips.pop() else { candle_core::bail!("the UNet's blocks do not mirror each other") };
            let skip = tiled(&skip, x.dim(0)?)?;
            x = self.layers.forward(i, &Tensor::cat(&[x, skip], 3)?, given)?;
        }
        match (&self.upsampler, skips.last()) {
            (Some(upsampler), Some(next)) => upsampler.forward(&x, next.dim(1)?, next.dim(2)?),
            _ => Ok(x),
        }
    }

    /// The transformers, in order.
    pub fn transformers(&self) -> &[Transformer2d] {
        &self.layers.attentions
    }
}
