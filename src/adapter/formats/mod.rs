//! Adapters in the layouts of other programs, a file each: tables of names rather than code.

pub mod custom_diffusion;
pub mod embedding;
pub mod lora;
mod low_rank;
pub mod merged;
pub mod read;
pub mod release;

use std::collections::BTreeMap;

use candle_core::Tensor;

/// The endings of tensors' names, ours and theirs.
type Names<'a> = &'a [(&'a str, &'a str)];

/// The tensors whose names end in one of ours, under theirs.
fn renamed(tensors: &BTreeMap<String, Tensor>, names: Names) -> BTreeMap<String, Tensor> {
    let theirs = |name: &str| {
        let mut found = names.iter().filter_map(|(ours, theirs)| Some((name.strip_suffix(ours)?, theirs)));
        let (layer, theirs) = found.find(|(layer, _)| layer.ends_with('.'))?;
        Some(format!("{layer}{theirs}"))
    };
    tensors.iter().filter_map(|(name, tensor)| Some((theirs(name)?, tensor.clone()))).collect()
}
