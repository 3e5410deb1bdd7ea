//! The trained keys and values of a cross-attention, and the loss on the map of `S*` in it.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use crate::model::Attention;
use crate::ops::TrainedLinear;
use crate::ops::attention::Options;

/// The tuned keys and values of one cross-attention.
#[derive(Clone, Debug)]
pub struct TunedCrossAttention {
    /// [d, text width].
    to_k: TrainedLinear,
    /// [d, text width].
    to_v: TrainedLinear,
}

impl TunedCrossAttention {
    /// The initial weights of a layer under their names in the checkpoint: the base's own.
    ///
    /// # Errors
    /// If there is no room.
    pub fn initial(layer: &Attention) -> Result<Vec<(String, Tensor)>> {
        let weights = [layer.parts.to_k.weight()?, layer.parts.to_v.weight()?];
        Ok(Self::keys(&layer.name).into_iter().zip(weights).collect())
    }

    /// Takes a layer's weights from `tensors`; none if either is missing.
    pub fn from_tensors(tensors: &BTreeMap<String, Tensor>, layer: &str) -> Option<Self> {
        let [to_k, to_v] =
            Self::keys(layer).map(|key| tensors.get(&key).map(|weight| TrainedLinear::new(weight.clone(), None)));
        Some(Self { to_k: to_k?, to_v: to_v? })
    }

    fn keys(layer: &str) -> [String; 2] {
        ["to_k", "to_v"].map(|name| format!("{layer}.{name}.weight"))
    }

    /// `x` [B, N, d] plus attention of its norm to `text` [B, L, c]: the output, and, with `column` [B, L] (1 at the
    /// placeholder), the attention that `S*` gets, averaged over the heads [B, N].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn forward(
        &self,
        layer: &Attention,
        x: &Tensor,
        text: &Tensor,
        column: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let states = [&self.to_k.forward(text)?, &self.to_v.forward(text)?];
        // no gradient flows through the key and the value of the start-of-text token
        layer.seeing(x, states, &Options { column: column.cloned(), fixed: 1, ..layer.options() })
    }
}

/// The map of `S*` [B, N], divided by its maximum, against the subject's mask [B, N].
///
/// # Errors
/// If shapes do not fit.
pub fn cross_attention_loss(map: &Tensor, mask: &Tensor) -> Result<Tensor> {
    (map.broadcast_div(&map.max_keepdim(1)?)? - mask)?.sqr()?.mean_all()
}
