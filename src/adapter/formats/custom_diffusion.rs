//! Custom Diffusion's weights as diffusers keeps them.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::{Names, renamed};

/// The file that diffusers looks for.
pub const FILE: &str = "pytorch_custom_diffusion_weights.safetensors";

pub(super) const NAMES: Names = &[
    ("to_k.weight", "processor.to_k_custom_diffusion.weight"),
    ("to_v.weight", "processor.to_v_custom_diffusion.weight"),
];

/// Keys and values of an adapter's `tensors`. Diffusers installs all processors of the UNet or none, and takes an empty
/// tensor for a plain one: `plain` names the layers that shall have that.
///
/// # Errors
/// Never; the library that makes tensors could.
pub fn weights<'a>(
    tensors: &BTreeMap<String, Tensor>,
    plain: impl Iterator<Item = &'a str>,
) -> candle_core::Result<BTreeMap<String, Tensor>> {
    let mut weights = renamed(tensors, NAMES);
    for layer in plain {
        weights.insert(format!("{layer}.processor"), Tensor::zeros(0, DType::F32, &Device::Cpu)?);
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_processor() -> anyhow::Result<()> {
        let tensor = |value: f32| Tensor::full(value, (2, 3), &Device::Cpu);
        let layer = "up_blocks.1.attentions.0.transformer_blocks.0";
        let names = ["attn2.to_k.weight", "attn2.to_v.weight", "attn1.processor.to_k_ref.weight"];
        let mut tensors = BTreeMap::from([("s_low".to_string(), tensor(0.)?)]);
        for (name, value) in names.iter().zip([1., 2., 3.]) {
            tensors.insert(format!("{layer}.{name}"), tensor(value)?);
        }
        let weights = weights(&tensors, [format!("{layer}.attn1").as_str()].into_iter())?;
        let names: Vec<&str> = weights.keys().filter_map(|name| name.strip_prefix(layer)).collect();
        let processor = ".attn2.processor.to_";
        assert_eq!(
            names,
            [
                ".attn1.processor",
                &format!("{processor}k_custom_diffusion.weight"),
                &format!("{processor}v_custom_diffusion.weight")
            ]
        );
        assert_eq!(weights[&format!("{layer}.attn1.processor")].dims(), [0]);
        Ok(())
    }
}
