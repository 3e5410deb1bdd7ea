//! LoRAs of the changes of cross-attention, under kohya's names.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::low_rank::{LowRank, low_rank};
use crate::adapter::{Manifest, serialised};
use crate::model::{Attention, Unet};

/// The changes of all layers as products of narrow matrices.
pub struct Lora {
    /// By kohya's names.
    pub tensors: BTreeMap<String, Tensor>,
    /// How far the products are from the changes, relative to those: the root of summed squares over all layers.
    pub error: f64,
    /// The same of the layer that fits worst.
    pub worst: f64,
    /// The rank of all of them: one for all, since not every loader copes with several.
    pub rank: usize,
    /// Whether a higher rank could leave no less of an error.
    pub full: bool,
}

/// A layer's part of [`Lora`].
struct Layer {
    name: String,
    factors: LowRank,
    /// Squared norms of what is left, and of the change.
    left: f64,
    change: f64,
}

impl Lora {
    /// What training made of the keys and values of `unet`, at `rank`, or at the least rank that leaves no error.
    ///
    /// # Errors
    /// If there are no tuned keys and values among `tensors`.
    pub fn new(unet: &Unet, tensors: &BTreeMap<String, Tensor>, rank: usize) -> Result<Self> {
        let cross = unet.attentions().into_iter().filter(|layer| layer.name.ends_with("attn2"));
        let changes = cross.flat_map(|layer| changes(layer, tensors)).collect::<Result<Vec<_>>>()?;
        if changes.is_empty() {
            bail!("it has no keys and values of its own, of which a LoRA could be made");
        }
        let lesser = |change: &Tensor| change.dims().iter().copied().min().unwrap_or_default();
        let most = changes.iter().map(|(_, change)| lesser(change)).max().unwrap_or_default();
        let rank = rank.min(most);
        let layers = changes.into_par_iter().map(|(name, change)| Layer::new(name, &change, rank));
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let relative = |left: f64, change: f64| if change > 0. { (left / change).sqrt() } else { 0. };
        let (left, change) = layers.iter().fold((0., 0.), |sum, layer| (sum.0 + layer.left, sum.1 + layer.change));
        let worst = layers.iter().map(|layer| relative(layer.left, layer.change)).fold(0., f64::max);
        let mut named = BTreeMap::new();
        for Layer { name, factors: LowRank { up, down }, .. } in layers {
            let name = format!("lora_unet_{}", name.replace('.', "_"));
            // kohya multiplies by alpha over rank
            named.insert(format!("{name}.alpha"), Tensor::new(rank as f32, &Device::Cpu)?);
            named.insert(format!("{name}.lora_up.weight"), up);
            named.insert(format!("{name}.lora_down.weight"), down);
        }
        Ok(Self { tensors: named, error: relative(left, change), worst, rank, full: rank == most })
    }

    /// The file, with what viewers read of it. `token` is what the embedding beside it is called.
    ///
    /// # Errors
    /// Never; the library that serialises tensors could.
    pub fn file(&self, manifest: &Manifest, title: &str, token: &str) -> Result<Vec<u8>> {
        let training = &manifest.settings.training;
        let metadata = [
            ("format", "pt".to_string()),
            ("modelspec.sai_model_spec", "1.0.0".into()),
            ("modelspec.architecture", "stable-diffusion-v1/lora".into()),
            ("modelspec.implementation", "https://github.com/kohya-ss/sd-scripts".into()),
            ("modelspec.title", title.into()),
            ("modelspec.resolution", format!("{0}x{0}", manifest.side)),
            ("modelspec.usage_hint", format!("{token} {}", manifest.class)),
            ("ss_base_model_version", "sd_v1".into()),
            ("ss_network_module", "networks.lora".into()),
            ("ss_network_dim", self.rank.to_string()),
            ("ss_network_alpha", self.rank.to_string()),
            ("ss_output_name", title.into()),
            ("ss_learning_rate", training.learning_rate.to_string()),
            ("ss_steps", manifest.steps.to_string()),
            ("ss_max_train_steps", training.steps.to_string()),
            ("ss_seed", training.seed.to_string()),
            ("ss_resolution", format!("({0}, {0})", manifest.side)),
            ("ss_training_comment", format!("eqdiff {}: changes of keys and values by SVD", manifest.version)),
        ];
        serialised(&self.tensors, &metadata)
    }
}

impl Layer {
    fn new(name: String, change: &Tensor, rank: usize) -> Result<Self> {
        let factors = low_rank(change, rank)?;
        let square = |x: &Tensor| -> Result<f64> { Ok(f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?)) };
        let left = square(&(factors.up.matmul(&factors.down)? - change)?)?;
        Ok(Self { name, factors, left, change: square(change)? })
    }
}

/// The changes of a layer's key and value maps [d, text width], where there are any.
fn changes(layer: &Attention, tensors: &BTreeMap<String, Tensor>) -> Vec<Result<(String, Tensor)>> {
    let maps = [("to_k", &layer.parts.to_k), ("to_v", &layer.parts.to_v)];
    let change = |(name, own): (&str, &crate::ops::Linear)| {
        let name = format!("{}.{name}", layer.name);
        let tuned = tensors.get(&format!("{name}.weight"))?;
        let change =
            || -> Result<Tensor> { Ok((tuned.to_device(&Device::Cpu)? - own.weight()?.to_device(&Device::Cpu)?)?) };
        Some(change().map(|change| (name, change)))
    };
    maps.into_iter().filter_map(change).collect()
}
