//! Transformer blocks of the UNet, and the hook through which the method changes their attention.

use candle_core::{D, Result, Tensor};

use super::layers::{group_norm, layer_norm, linear, linear_no_bias, tiled};
use crate::ops::attention::Options;
use crate::ops::{FeedForward, GroupNorm, Keep, LayerNorm, Linear, SelfAttention, attend};
use crate::weights::Weights;

/// One attention layer, `attn1` (self) or `attn2` (cross) of a transformer block, with the norm before it.
pub struct Attention {
    /// The layer's name in the checkpoint, e.g. `mid_block.attentions.0.transformer_blocks.0.attn1`.
    pub name: String,
    /// Norm, query, key and value maps [d, d] or [d, text width], output map [d, d], number of heads.
    pub parts: SelfAttention,
}

impl Attention {
    fn load(w: &Weights, norm: LayerNorm, width: usize, context: usize, heads: usize) -> Result<Self> {
        let parts = SelfAttention {
            norm,
            to_q: linear_no_bias(&w.pp("to_q"), width, width)?,
            to_k: linear_no_bias(&w.pp("to_k"), context, width)?,
            to_v: linear_no_bias(&w.pp("to_v"), context, width)?,
            to_out: linear(&w.pp("to_out.0"), width, width)?,
            heads,
        };
        Ok(Self { name: w.prefix().to_string(), parts })
    }

    /// Options of [`attend`] for this layer's heads.
    pub fn options(&self) -> Options {
        Options { heads: self.parts.heads, ..Options::default() }
    }

    /// `x` [B, N, d] plus what the queries of its norm see of `key` and `value` [B, L, d]; where `options` have a column
    /// [B, L], also how much attention that gets, averaged over the heads [B, N].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn seeing(
        &self,
        x: &Tensor,
        [key, value]: [&Tensor; 2],
        options: &Options,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let SelfAttention { norm, to_q, to_out, .. } = &self.parts;
        let seen = attend(&to_q.after(norm, x)?, key, value, options)?;
        if options.column.is_none() {
            return Ok((to_out.forward_plus(&seen, Some(x))?, None));
        }
        let width = x.dim(D::Minus1)?;
        let of_column = seen.narrow(D::Minus1, width, 1)?.squeeze(2)?;
        let seen = seen.narrow(D::Minus1, 0, width)?;
        Ok((to_out.forward_plus(&seen, Some(x))?, Some(of_column)))
    }
}

/// What happens in the attention layers of one UNet pass. The defaults are the base's own attention.
pub trait AttentionProcessor {
    /// `x` [B, N, d] plus self-attention of its norm.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn self_attention(&mut self, layer: &Attention, x: &Tensor) -> Result<Tensor> {
        layer.parts.forward(x, self.keep())
    }

    /// `x` [B, N, d] plus cross-attention of its norm to the text states [B, L, c].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        Ok(self.watched_cross_attention(layer, x, text, None)?.0)
    }

    /// The same, with `column` [B, L] and what comes of it as in [`Attention::seeing`].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn watched_cross_attention(
        &mut self,
        layer: &Attention,
        x: &Tensor,
        text: &Tensor,
        column: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let SelfAttention { to_k, to_v, .. } = &layer.parts;
        let options = Options { column: column.cloned(), ..layer.options() };
        layer.seeing(x, [&to_k.forward(text)?, &to_v.forward(text)?], &options)
    }

    /// Told what up block `index` puts out [B, h, w, C].
    ///
    /// # Errors
    /// If shapes do not fit.
    fn up_block(&mut self, _index: usize, _output: &Tensor) -> Result<()> {
        Ok(())
    }

    /// What the pass keeps for its gradient.
    fn keep(&self) -> Keep {
        Keep::ALL
    }
}

/// The base as it is.
pub struct Plain;

impl AttentionProcessor for Plain {}

struct TransformerBlock {
    attn1: Attention,
    attn2: Attention,
    feed_forward: FeedForward,
}

impl TransformerBlock {
    fn load(w: &Weights, width: usize, context: usize, heads: usize) -> Result<Self> {
        let norm = |name: &str| layer_norm(&w.pp(name), width, 1e-5);
        Ok(Self {
            attn1: Attention::load(&w.pp("attn1"), norm("norm1")?, width, width, heads)?,
            attn2: Attention::load(&w.pp("attn2"), norm("norm2")?, width, context, heads)?,
            feed_forward: FeedForward::new(
                norm("norm3")?,
                linear(&w.pp("ff.net.0.proj"), width, 8 * width)?,
                linear(&w.pp("ff.net.2"), 4 * width, width)?,
            ),
        })
    }

    fn forward(&self, x: &Tensor, text: &Tensor, processor: &mut dyn AttentionProcessor) -> Result<Tensor> {
        let x = processor.self_attention(&self.attn1, x)?;
        let x = processor.cross_attention(&self.attn2, &tiled(&x, text.dim(0)?)?, text)?;
        self.feed_forward.forward(&x, processor.keep())
    }
}

/// `Transformer2DModel`: the pixels of a feature map as tokens.
pub struct Transformer2d {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl Transformer2d {
    /// `context` is the width of the text states; the number of blocks is read off the checkpoint.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, width: usize, context: usize, heads: usize, groups: usize) -> Result<Self> {
        if !width.is_multiple_of(heads) {
            candle_core::bail!("{} in {}: {width} channels in {heads} heads", w.prefix(), w.file());
        }
        let count = (0..).take_while(|i| w.has(&format!("transformer_blocks.{i}"))).count().max(1);
        let blocks = (0..count)
            .map(|i| TransformerBlock::load(&w.pp(format!("transformer_blocks.{i}")), width, context, heads))
            .collect::<Result<_>>()?;
        Ok(Self {
            norm: group_norm(&w.pp("norm"), width, groups, 1e-6)?,
            proj_in: linear(&w.pp("proj_in"), width, width)?,
            blocks,
            proj_out: linear(&w.pp("proj_out"), width, width)?,
        })
    }

    /// `x` [B, h, w, d], `text` [k B, L, c]; the result is [k B, h, w, d].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(&self, x: &Tensor, text: &Tensor, processor: &mut dyn AttentionProcessor) -> Result<Tensor> {
        let pixels = x.flatten(1, 2)?;
        // proj_in is stored as a 1x1 convolution or as a linear map: the same thing on tokens
        let mut tokens = self.proj_in.after(&self.norm, &pixels)?;
        for block in &self.blocks {
            tokens = block.forward(&tokens, text, processor)?;
        }
        let (batch, (_, height, width, channels)) = (tokens.dim(0)?, x.dims4()?);
        let pixels = tiled(&pixels, batch)?;
        self.proj_out.forward_plus(&tokens, Some(&pixels))?.reshape((batch, height, width, channels))
    }

    /// All attention layers, in order.
    pub fn attentions(&self) -> impl Iterator<Item = &Attention> {
        self.blocks.iter().flat_map(|b| [&b.attn1, &b.attn2])
    }
}
