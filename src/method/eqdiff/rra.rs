//! RRA, residual reference attention: self-attention that also looks at another photo of the subject
//! (equations 8 and 9), and the loss that keeps its look on the subject (equation 10).

use std::collections::BTreeMap;

use candle_core::{D, Result, Tensor};
use candle_nn::ops::softmax_last_dim;
use serde::{Deserialize, Serialize};

use crate::model::Attention;
use crate::ops::attention::Options;
use crate::ops::{SelfAttention, TrainedLinear, attend, blend};

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

/// Where L_ra looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// Inside the subject, as in the released code.
    #[default]
    Subject,
    /// Everywhere, as in equation 10: outside the subject nothing looks at the reference's subject.
    Everywhere,
}

/// How references are augmented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Augmentation {
    /// Scaled, pasted, cropped, as in the released code.
    #[default]
    Released,
    /// Rotated and mirrored before that, as the paper says (section 5.1).
    Paper,
}

fn one() -> f64 {
    1.
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
    /// Where that loss looks.
    #[serde(default)]
    pub loss_extent: Extent,
    /// How references are augmented.
    #[serde(default)]
    pub augmentation: Augmentation,
    /// How the reference is fed during sampling.
    pub reference_noise: ReferenceNoise,
    /// Augmented references made of each photo, encoded once.
    pub references_per_photo: usize,
    /// How many times the learning rate its weights take.
    #[serde(default = "one")]
    pub learning_rate_multiplier: f64,
}

/// Whether reference attention sits in this layer: self-attention of the middle and the up blocks.
pub fn has_reference(layer: &str) -> bool {
    layer.ends_with("attn1") && (layer.starts_with("mid_block") || layer.starts_with("up_blocks"))
}

/// The trained part of one layer.
#[derive(Clone, Debug)]
pub struct ReferenceAttention {
    /// K_r [d, d].
    to_k_ref: TrainedLinear,
    /// V_r [d, d].
    to_v_ref: TrainedLinear,
    /// H_r [2 d -> d + 1].
    fuse: TrainedLinear,
    /// How much of it shows: 1 as it was trained.
    strength: f64,
}

/// What a layer with reference attention gives.
pub struct Fused {
    /// The attention's output [B, N, d].
    pub output: Tensor,
    /// The fusion mask M^f [B, N, 1], without a gradient.
    pub fusion_mask: Tensor,
    /// How much of each query's reference attention falls on the subject, sum_j A_ij m_r_j, averaged
    /// over the heads [B, N]; only where a column was given.
    pub on_subject: Option<Tensor>,
}

impl ReferenceAttention {
    const NAMES: [&'static str; 4] = ["to_k_ref.weight", "to_v_ref.weight", "fuse.weight", "fuse.bias"];

    /// The initial weights of a layer, under their names: K_r, V_r copies of its K, V; H_r zero.
    ///
    /// # Errors
    /// If there is no room.
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
            [Some(to_k_ref), Some(to_v_ref), Some(fuse), Some(fuse_bias)] => {
                let [to_k_ref, to_v_ref] = [to_k_ref, to_v_ref].map(|weight| TrainedLinear::new(weight, None));
                Ok(Some(Self { to_k_ref, to_v_ref, fuse: TrainedLinear::new(fuse, Some(fuse_bias)), strength: 1. }))
            }
            [None, None, None, None] => Ok(None),
            _ => candle_core::bail!("the reference attention of {layer} is incomplete"),
        }
    }

    /// The same, showing that much.
    pub fn with_strength(self, strength: f64) -> Self {
        Self { strength, ..self }
    }

    fn key(layer: &str, name: &str) -> String {
        format!("{layer}.processor.{name}")
    }

    /// Whether an adapter's tensor of that name is of reference attention.
    pub fn owns(name: &str) -> bool {
        name.split_once(".processor.").is_some_and(|(layer, name)| has_reference(layer) && Self::NAMES.contains(&name))
    }

    /// Keys and values [R, M, d] of the features F^r [R, M, d] that the reference pass had in this layer.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn states(&self, features: &Tensor) -> Result<[Tensor; 2]> {
        Ok([self.to_k_ref.forward(features)?, self.to_v_ref.forward(features)?])
    }

    /// `x` [B, N, d] plus self-attention of its norm, fused with attention to the reference's keys and values. R divides B: each
    /// reference serves B / R successive samples. `column` [R, M] is the reference's mask as one more value column.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(
        &self,
        layer: &Attention,
        x: &Tensor,
        [key, value]: [&Tensor; 2],
        column: Option<&Tensor>,
    ) -> Result<Fused> {
        let width = x.dim(D::Minus1)?;
        let [query, own] = layer.parts.queries_and_seen(x)?;
        let options = Options { column: column.cloned(), ..layer.options() };
        let mut seen = attend(&query, key, value, &options)?;
        let mut on_subject = None;
        if column.is_some() {
            on_subject = Some(seen.narrow(D::Minus1, width, 1)?.squeeze(2)?);
            seen = seen.narrow(D::Minus1, 0, width)?;
        }
        // the reference half comes first
        let fused = self.fuse.of_halves(&seen, &own)?;
        let own = layer.parts.to_out.forward(&own)?;
        let (mut output, fusion_mask) = blend(&fused, &own, x)?;
        if self.strength != 1. {
            let plain = (x + own)?;
            output = (&plain + ((output - &plain)? * self.strength)?)?;
        }
        Ok(Fused { output, fusion_mask, on_subject })
    }

    /// Where each query of `x` [B, N, d] looks in the reference with keys `key` [B, M, d]: its attention, averaged over
    /// the heads [B, N, M]. For people to look at: it is stored, and has no kernel of its own.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn map(&self, layer: &Attention, x: &Tensor, key: &Tensor) -> Result<Tensor> {
        let SelfAttention { norm, to_q, heads, .. } = &layer.parts;
        let by_head = |x: &Tensor| {
            let (batch, length, width) = x.dims3()?;
            x.reshape((batch, length, *heads, width / heads))?.transpose(1, 2)?.contiguous()
        };
        let (query, key) = (by_head(&to_q.after(norm, x)?)?, by_head(key)?);
        let scale = (query.dim(D::Minus1)? as f64).powf(-0.5);
        let scores = (query.matmul(&key.t()?)? * scale)?;
        softmax_last_dim(&scores)?.mean(1)
    }
}

/// L_ra: the subject's attention falls on the reference's subject. `on_subject` and `mask` [B, N].
///
/// # Errors
/// If shapes do not fit.
pub fn reference_loss(on_subject: &Tensor, mask: &Tensor, extent: Extent) -> Result<Tensor> {
    let seen = match extent {
        Extent::Subject => (on_subject * mask)?,
        Extent::Everywhere => on_subject.clone(),
    };
    (seen - mask)?.sqr()?.mean_all()
}
