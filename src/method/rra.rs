//! RRA, residual reference attention: self-attention that also looks at another photo of the subject
//! (equations 8 and 9), and the loss that keeps its look on the subject (equation 10).

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::model::Attention;
use crate::ops::attention::Options;
use crate::ops::{SelfAttention, activation, attend, linear};

/// Whether the reference latents of sampling are noised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferenceNoise {
    /// Clean at every step, as in the released code.
    #[default]
    Clean,
    /// Noised to the step's level, as in the paper.
    Matched,
}

/// Settings of RRA.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rra {
    /// Whether there is a reference at all.
    pub enabled: bool,
    /// How many timesteps the reference is ahead of the target.
    pub time_gap: usize,
    /// Weight of the reference attention loss L_ra.
    pub loss_weight: f64,
    /// How the reference is fed during sampling.
    pub reference_noise: ReferenceNoise,
    /// Augmented references made of each photo, encoded once.
    pub references_per_photo: usize,
}

/// Whether reference attention sits in this layer: self-attention of the middle and the up blocks.
pub fn has_reference(layer: &str) -> bool {
    layer.ends_with("attn1") && (layer.starts_with("mid_block") || layer.starts_with("up_blocks"))
}

/// The trained part of one layer.
#[derive(Clone, Debug)]
pub struct ReferenceAttention {
    /// K_r [d, d].
    to_k_ref: Tensor,
    /// V_r [d, d].
    to_v_ref: Tensor,
    /// H_r's weight [d + 1, 2 d].
    fuse_weight: Tensor,
    /// H_r's bias [d + 1].
    fuse_bias: Tensor,
}

/// What a layer with reference attention gives.
pub struct Fused {
    /// The attention's output [B, N, d].
    pub output: Tensor,
    /// The fusion mask M^f [B, N, 1].
    pub fusion_mask: Tensor,
    /// How much of each query's reference attention falls on the subject, sum_j A_ij m_r_j, averaged
    /// over the heads [B, N]; only where a column was given.
    pub on_subject: Option<Tensor>,
}

impl ReferenceAttention {
    const NAMES: [&'static str; 4] = ["to_k_ref.weight", "to_v_ref.weight", "fuse.weight", "fuse.bias"];

    /// The initial weights of a layer, under their names: K_r, V_r copies of its K, V; H_r zero.
    pub fn initial(layer: &Attention) -> Result<Vec<(String, Tensor)>> {
        let (key, value) = (layer.parts.to_k.weight()?, layer.parts.to_v.weight()?);
        let width = key.dim(0)?;
        let zeros = |shape: &[usize]| Tensor::zeros(shape, key.dtype(), key.device());
        let (fuse_weight, fuse_bias) = (zeros(&[width + 1, 2 * width])?, zeros(&[width + 1])?);
        let values = [key, value, fuse_weight, fuse_bias];
        Ok(Self::NAMES.iter().map(|name| Self::key(&layer.name, name)).zip(values).collect())
    }

    /// Takes a layer's weights from `tensors`; none if it has none there.
    ///
    /// # Errors
    /// If only some are there.
    pub fn from_tensors(tensors: &BTreeMap<String, Tensor>, layer: &str) -> Result<Option<Self>> {
        let found = Self::NAMES.map(|name| tensors.get(&Self::key(layer, name)).cloned());
        match found {
            [Some(to_k_ref), Some(to_v_ref), Some(fuse_weight), Some(fuse_bias)] => {
                Ok(Some(Self { to_k_ref, to_v_ref, fuse_weight, fuse_bias }))
            }
            [None, None, None, None] => Ok(None),
            _ => candle_core::bail!("the reference attention of {layer} is incomplete"),
        }
    }

    fn key(layer: &str, name: &str) -> String {
        format!("{layer}.processor.{name}")
    }

    /// `x` [B, N, d] plus self-attention of its norm, fused with attention to the features `reference` [R, M, d] of the
    /// same layer in the reference pass. R divides B: each reference serves B / R successive samples.
    /// `column` [B, M] is the reference's mask as one more value column.
    pub fn forward(&self, layer: &Attention, x: &Tensor, reference: &Tensor, column: Option<&Tensor>) -> Result<Fused> {
        let (batch, _, width) = x.dims3()?;
        let SelfAttention { norm, to_q, to_k, to_v, to_out, .. } = &layer.parts;
        let query = to_q.after(norm, x)?;
        let own = attend(&query, &to_k.after(norm, x)?, &to_v.after(norm, x)?, &layer.options())?;
        let key = repeated(&linear::trained(reference, &self.to_k_ref)?, batch)?;
        let value = repeated(&linear::trained(reference, &self.to_v_ref)?, batch)?;
        let options = Options { column: column.cloned(), ..layer.options() };
        let mut seen = attend(&query, &key, &value, &options)?;
        let mut on_subject = None;
        if column.is_some() {
            on_subject = Some(seen.narrow(D::Minus1, width, 1)?.squeeze(2)?);
            seen = seen.narrow(D::Minus1, 0, width)?;
        }
        // the reference half comes first
        let both = Tensor::cat(&[&seen, &own], D::Minus1)?;
        let fused = linear::trained(&both, &self.fuse_weight)?.broadcast_add(&self.fuse_bias)?;
        let feature = fused.narrow(D::Minus1, 0, width)?;
        let fusion_mask = activation::clamp_unit(&fused.narrow(D::Minus1, width, 1)?)?;
        let own = to_out.forward(&own)?;
        let output = (x + (&own + (feature - &own)?.broadcast_mul(&fusion_mask)?)?)?;
        Ok(Fused { output, fusion_mask, on_subject })
    }
}

/// Each of R entries for B / R successive samples.
fn repeated(x: &Tensor, batch: usize) -> Result<Tensor> {
    let (have, length, width) = x.dims3()?;
    if have == batch {
        return Ok(x.clone());
    }
    if have == 0 || !batch.is_multiple_of(have) {
        candle_core::bail!("{have} references for {batch} samples");
    }
    x.unsqueeze(1)?.expand((have, batch / have, length, width))?.contiguous()?.reshape((batch, length, width))
}

/// L_ra: inside the subject, attention falls on the reference's subject. `on_subject` and `mask` [B, N].
pub fn reference_loss(on_subject: &Tensor, mask: &Tensor) -> Result<Tensor> {
    ((on_subject * mask)? - mask)?.sqr()?.mean_all()
}
