//! The layout of the authors' released code. Its files are pickles; ours hold the same tensors as safetensors.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::{Names, custom_diffusion, renamed};
use crate::method::eqdiff::ConceptEmbedding;

/// The token that the released code calls the subject.
pub const TOKEN: &str = "<new2>";
/// The files: weights, the token's embedding, both bands' embeddings.
pub const FILES: [&str; 3] = [custom_diffusion::FILE, "<new2>.safetensors", "freq_embeddings.safetensors"];
/// The tensor in the last of them.
pub const BANDS: &str = "freq_embeddings";

pub(super) const NAMES: Names = &[
    ("processor.to_k_ref.weight", "processor.to_k_res.weight"),
    ("processor.to_v_ref.weight", "processor.to_v_res.weight"),
    ("processor.fuse.weight", "processor.to_out_res.0.weight"),
    ("processor.fuse.bias", "processor.to_out_res.0.bias"),
];

/// Keys, values and reference attention under the released code's names.
pub fn weights(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    renamed(tensors, &[custom_diffusion::NAMES, NAMES].concat())
}

/// S_HF and S_LF [2, d]; none if there is but one embedding.
///
/// # Errors
/// If they are not of one width.
pub fn bands(tensors: &BTreeMap<String, Tensor>) -> Result<Option<Tensor>> {
    let [high, low] = [ConceptEmbedding::HIGH, ConceptEmbedding::LOW].map(|name| tensors.get(name));
    high.zip(low).map(|(high, low)| Tensor::stack(&[high, low], 0)).transpose()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn names_and_rows_are_the_released_codes() -> anyhow::Result<()> {
        let tensor = |value: f32| Tensor::new(&[value, value], &Device::Cpu);
        let layer = "mid_block.attentions.0.transformer_blocks.0.";
        let ours = [
            "attn1.processor.to_k_ref.weight",
            "attn1.processor.fuse.weight",
            "attn1.processor.fuse.bias",
            "attn2.to_v.weight",
        ];
        let mut tensors = BTreeMap::from([("s_low".to_string(), tensor(1.)?), ("s_high".to_string(), tensor(2.)?)]);
        for name in ours {
            tensors.insert(format!("{layer}{name}"), tensor(0.)?);
        }
        let names: Vec<String> = weights(&tensors).into_keys().collect();
        let theirs = [
            "attn1.processor.to_k_res.weight",
            "attn1.processor.to_out_res.0.bias",
            "attn1.processor.to_out_res.0.weight",
            "attn2.processor.to_v_custom_diffusion.weight",
        ];
        assert_eq!(names, theirs.map(|name| format!("{layer}{name}")));
        // the high band comes first
        assert_eq!(bands(&tensors)?.map(|t| t.to_vec2::<f32>()).transpose()?, Some(vec![vec![2., 2.], vec![1., 1.]]));
        tensors.remove("s_high");
        assert!(bands(&tensors)?.is_none());
        Ok(())
    }
}
