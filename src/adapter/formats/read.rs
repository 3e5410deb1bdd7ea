//! Files of other programs, told apart by their tensors.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};

use super::{custom_diffusion, release};
use crate::weights::{Lora, Weights};

/// What a file holds.
pub enum Found {
    /// Keys and values, and perhaps reference attention, by an adapter's names.
    Weights(BTreeMap<String, Tensor>),
    /// A textual inversion embedding `[d]`.
    Embedding(Tensor),
    /// The embeddings `[d]` of the high and of the low band.
    Bands([Tensor; 2]),
    /// Changes of the base's matrices.
    Lora(Lora),
}

/// Reads a file of Custom Diffusion, textual inversion, LoRA or the released code: safetensors, or a pickle of tensors.
///
/// # Errors
/// If it is damaged, or something else; the message names it and says what.
pub fn read(path: &Path, device: &Device) -> Result<Found> {
    let weights = Weights::open_or_unpickle(path, device)?;
    let names = weights.names();
    // one tensor alone is an embedding, which may be called anything
    if names.len() > 1 && names.iter().any(|name| name.contains("lora")) {
        return Ok(Found::Lora(Lora::open(path, 1., device)?));
    }
    found(&weights).with_context(|| format!("{} cannot be imported", path.display()))
}

fn found(weights: &Weights) -> Result<Found> {
    let names = weights.names();
    if let [name] = &names[..] {
        let tensor = weights.any(name)?;
        return Ok(match *tensor.dims() {
            [2, _] if name == release::BANDS => Found::Bands([tensor.get(0)?, tensor.get(1)?]),
            [_] | [1, _] => Found::Embedding(tensor.flatten_all()?),
            ref shape => bail!("{name} has shape {shape:?}: an embedding of one vector can be"),
        });
    }
    let table = [custom_diffusion::NAMES, release::NAMES].concat();
    let mut ours = BTreeMap::new();
    for name in names.iter().filter(|name| weights.shape(name) != Some(&[0])) {
        let mut known = table.iter().filter_map(|(ours, theirs)| Some(format!("{}{ours}", name.strip_suffix(theirs)?)));
        let known = known.next().with_context(|| format!("{name} has no place in an adapter"))?;
        ours.insert(known, weights.any(name)?);
    }
    if ours.is_empty() {
        bail!("there are no weights in it");
    }
    Ok(Found::Weights(ours))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::DType;

    use super::*;

    fn of(tensors: &[(&str, &[usize])]) -> Result<Found> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("foreign.safetensors");
        let tensor =
            |&(name, shape): &(&str, &[usize])| Ok((name.to_string(), Tensor::ones(shape, DType::F32, &Device::Cpu)?));
        let tensors = tensors.iter().map(tensor).collect::<Result<HashMap<_, _>>>()?;
        candle_core::safetensors::save(&tensors, &path)?;
        read(&path, &Device::Cpu)
    }

    #[test]
    fn files_are_told_apart() -> Result<()> {
        for (name, shape) in [("<x>", &[4][..]), ("eqdiff-flora", &[1, 4])] {
            assert!(matches!(of(&[(name, shape)])?, Found::Embedding(x) if x.dims() == [4]));
        }
        assert!(matches!(of(&[("freq_embeddings", &[2, 4])])?, Found::Bands([x, _]) if x.dims() == [4]));
        let layer = "mid_block.attentions.0.transformer_blocks.0";
        let (key, plain) =
            (format!("{layer}.attn2.processor.to_k_custom_diffusion.weight"), format!("{layer}.attn1.processor"));
        let reference = format!("{layer}.attn1.processor.to_out_res.0.bias");
        let found = of(&[(&key, &[3, 4]), (&plain, &[0]), (&reference, &[3])])?;
        let Found::Weights(weights) = found else { panic!("no weights") };
        let ours = [format!("{layer}.attn1.processor.fuse.bias"), format!("{layer}.attn2.to_k.weight")];
        assert_eq!(weights.into_keys().collect::<Vec<_>>(), ours);
        for (tensors, part) in [
            (&[("<x>", &[3, 4][..])][..], "[3, 4]"),
            (&[("a.lora_up.weight", &[3, 4]), ("b", &[1])], "LoRA"),
            (&[("x.processor.to_q_custom_diffusion.weight", &[3, 4]), ("b", &[1])], "no place"),
            (&[("a", &[0]), ("b", &[0])], "no weights"),
        ] {
            let said = of(tensors).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(said.contains(part) && said.contains("foreign.safetensors"), "{tensors:?}: {said}");
        }
        Ok(())
    }
}
