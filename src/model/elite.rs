//! ELITE's mappers, under their checkpoints' names: networks from a picture's features to words, and keys and values for every
//! cross-attention.

use std::collections::HashMap;

use candle_core::{D, Result, Tensor, bail};

use super::Unet;
use super::layers::{layer_norm, linear, linear_no_bias};
use crate::ops::{LayerNorm, Linear, Norm};
use crate::weights::Weights;

/// Layers of the vision tower whose states are mapped.
pub const TAPS: usize = 5;
/// Those of CLIP ViT-L/14, in the order of the mapping networks: the last one first.
pub const VIT_L14: [usize; TAPS] = [24, 4, 8, 12, 16];

/// Linear, norm, leaky ReLU, twice, and linear.
struct Network {
    first: (Linear, LayerNorm),
    second: (Linear, LayerNorm),
    last: Linear,
}

/// Slope of the leaky ReLU below 0.
const SLOPE: f64 = 0.01;

impl Network {
    fn load(w: &Weights, from: usize, hidden: usize, to: usize) -> Result<Self> {
        let normed = |at: usize, from: usize| {
            Ok::<_, candle_core::Error>((linear(&w.pp(at), from, hidden)?, layer_norm(&w.pp(at + 1), hidden, 1e-5)?))
        };
        Ok(Self { first: normed(0, from)?, second: normed(3, hidden)?, last: linear(&w.pp(6), hidden, to)? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.contiguous()?;
        for (map, norm) in [&self.first, &self.second] {
            let y = norm.forward(&map.forward(&x)?)?;
            x = (y.relu()? - (y.neg()?.relu()? * SLOPE)?)?;
        }
        self.last.forward(&x)
    }
}

/// What one checkpoint holds.
pub struct Mapper {
    /// Of each tap, the networks of its class token and of its patches.
    pairs: Vec<(Network, Network)>,
    /// Keys and values [d, c] by the cross-attention's name.
    maps: HashMap<String, [Linear; 2]>,
}

impl Mapper {
    /// For `unet`, whose texts are `width` wide; the other sizes are those of the file.
    ///
    /// # Errors
    /// If a tensor is missing or misshapen.
    pub fn load(w: &Weights, unet: &Unet, width: usize) -> Result<Self> {
        let Some(&[hidden, from]) = w.shape("mapping_0.0.weight") else {
            bail!("{} is no mapper of ELITE: it has no matrix mapping_0.0.weight", w.file());
        };
        let network = |name: String| Network::load(&w.pp(name), from, hidden, width);
        let pair = |i: usize| Ok((network(format!("mapping_{i}"))?, network(format!("mapping_patch_{i}"))?));
        let mut maps = HashMap::new();
        for layer in unet.attentions().into_iter().filter(|layer| layer.name.ends_with("attn2")) {
            let to = layer.parts.to_k.width_out();
            let map = |part: &str| linear_no_bias(&w.pp(format!("{}_{part}", layer.name.replace('.', "_"))), width, to);
            maps.insert(layer.name.clone(), [map("to_k")?, map("to_v")?]);
        }
        Ok(Self { pairs: (0..TAPS).map(pair).collect::<Result<_>>()?, maps })
    }

    /// What each pair makes of the states [B, 1 + patches, d_v] of its tap: of the class token [B, 1, c] and of the patches
    /// [B, patches, c].
    fn pairs(&self, features: &[Tensor]) -> Result<Vec<(Tensor, Tensor)>> {
        if features.len() != TAPS {
            bail!("{} features for {TAPS} mapping networks", features.len());
        }
        let mapped = self.pairs.iter().zip(features).map(|((of_token, of_patches), states)| {
            let patches = states.dim(1)? - 1;
            Ok((of_token.forward(&states.narrow(1, 0, 1)?)?, of_patches.forward(&states.narrow(1, 1, patches)?)?))
        });
        mapped.collect()
    }

    /// Global mapping: a word for each tap [B, 5, c]. Sampling uses the first.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn words(&self, features: &[Tensor]) -> Result<Tensor> {
        let words = self.pairs(features)?.into_iter().map(|(token, patches)| token + patches.mean_keepdim(1)?);
        Tensor::cat(&words.collect::<Result<Vec<_>>>()?, 1)
    }

    /// Local mapping: the subject's patches [B, patches, c], the mean over the taps; `mask` [B, patches, 1] is the subject.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn details(&self, features: &[Tensor], mask: &Tensor) -> Result<Tensor> {
        let all = self.pairs(features)?.into_iter().map(|(token, patches)| patches.broadcast_add(&token));
        let all = Tensor::stack(&all.collect::<Result<Vec<_>>>()?, 0)?;
        all.mean(0)?.broadcast_mul(mask)
    }

    /// Keys and values [B, L, d] of `states` [B, L, c] in a cross-attention.
    ///
    /// # Errors
    /// If there is no such layer.
    pub fn states(&self, layer: &str, states: &Tensor) -> Result<[Tensor; 2]> {
        let Some([to_k, to_v]) = self.maps.get(layer) else { bail!("the mapper has nothing for {layer}") };
        Ok([to_k.forward(states)?, to_v.forward(states)?])
    }
}

/// The share of `query`'s attention to `key` that each head gives place `index` of each sample, [B, N, heads], divided by the
/// largest of all heads and places of the sample.
///
/// # Errors
/// If shapes do not fit.
pub fn attention_to(query: &Tensor, key: &Tensor, heads: usize, index: &[usize]) -> Result<Tensor> {
    let (batch, queries, width) = query.dims3()?;
    let (length, head) = (key.dim(1)?, width / heads);
    let split = |x: &Tensor, n: usize| x.reshape((batch, n, heads, head))?.transpose(1, 2)?.contiguous();
    let (query, key) = (split(query, queries)?, split(key, length)?);
    let scores = (query.matmul(&key.transpose(2, 3)?.contiguous()?)? * (head as f64).powf(-0.5))?;
    let all = candle_nn::ops::softmax(&scores, D::Minus1)?;
    let mut column = vec![0f32; batch * length];
    index.iter().enumerate().for_each(|(sample, place)| column[sample * length + place] = 1.);
    let column = Tensor::from_vec(column, (batch, 1, 1, length), query.device())?.to_dtype(query.dtype())?;
    let word = all.broadcast_mul(&column)?.sum(D::Minus1)?.transpose(1, 2)?.contiguous()?;
    let most = word.flatten_from(1)?.max_keepdim(1)?.unsqueeze(2)?;
    word.broadcast_div(&most)
}
