//! LoRAs of other programs: changes of a model's matrices as products of two thin ones (Hu et al. 2021).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use super::{Part, Weights};

/// How names end, of the matrix that comes first, of the one that comes second, and of a number beside them: kohya's,
/// PEFT's, and those of two older generations of diffusers.
const ENDINGS: [(&str, Role); 13] = [
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".alpha", Role::Alpha),
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A.default.weight", Role::Down),
    (".lora_B.default.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
    (".lora_linear_layer.down.weight", Role::Down),
    (".lora_linear_layer.up.weight", Role::Up),
];

/// How names begin, and of which model they then are.
const BEGINNINGS: [(&str, Part); 6] = [
    ("lora_unet_", Part::Unet),
    ("lora_te_", Part::Text),
    ("unet.", Part::Unet),
    ("text_encoder.", Part::Text),
    ("base_model.model.unet.", Part::Unet),
    ("base_model.model.text_encoder.", Part::Text),
];

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Down,
    Up,
    Alpha,
}

/// What a file has of one matrix.
#[derive(Default)]
struct Layer {
    down: Option<Tensor>,
    up: Option<Tensor>,
    alpha: Option<f64>,
}

/// What the names of other kinds of changes contain.
const KINDS: [(&str, &str); 4] = [(".hada_", "LoHa"), (".lokr_", "LoKr"), ("dora_scale", "DoRA"), (".oft_", "OFT")];

/// The changes that a file makes of a model.
pub struct Lora {
    /// The file, for messages.
    pub file: String,
    /// How much of it is added.
    pub weight: f64,
    /// Tells it from others.
    pub digest: String,
    layers: BTreeMap<(Part, String), Layer>,
}

impl Lora {
    /// Reads a file, safetensors or a pickle of tensors, with kohya's, PEFT's or diffusers' names.
    ///
    /// # Errors
    /// If it is damaged, or no LoRA of two matrices for Stable Diffusion 1.x; the message names it and the tensor.
    pub fn open(path: &Path, weight: f64, device: &Device) -> Result<Self> {
        let weights = Weights::open_or_unpickle(path, device)?;
        Self::of(&weights, weight).with_context(|| format!("{} cannot be used as a LoRA", weights.file()))
    }

    fn of(weights: &Weights, weight: f64) -> Result<Self> {
        let (mut layers, mut hash) = (BTreeMap::<_, Layer>::new(), Sha256::new());
        for name in weights.names() {
            let (place, role) = place(&name).with_context(|| {
                let kind = KINDS.iter().find(|(part, _)| name.contains(part)).map_or(String::new(), |(_, kind)| {
                    format!("it is a {kind}, which is not read: merge it into a checkpoint, or extract a LoRA from that; ")
                });
                format!("{kind}{name} is no part of a LoRA of Stable Diffusion 1.x (two matrices, in the names of kohya, PEFT or diffusers)")
            })?;
            let tensor = weights.any(&name)?.to_dtype(DType::F32)?;
            hash.update(&name);
            tensor.flatten_all()?.to_vec1::<f32>()?.iter().for_each(|value| hash.update(value.to_le_bytes()));
            let layer = layers.entry(place).or_default();
            match role {
                Role::Down => layer.down = Some(tensor),
                Role::Up => layer.up = Some(tensor),
                Role::Alpha => layer.alpha = tensor.flatten_all()?.to_vec1::<f32>()?.first().map(|&alpha| alpha.into()),
            }
        }
        ensure!(!layers.is_empty(), "there is nothing in it");
        for ((_, name), layer) in &layers {
            let (Some(down), Some(up)) = (&layer.down, &layer.up) else {
                bail!("one of the two matrices of {name} is missing")
            };
            let (ranks, kinds) = ([down.dims().first(), up.dims().get(1)], [down.rank(), up.rank()]);
            ensure!(
                ranks[0] == ranks[1] && ranks[0] > Some(&0) && kinds.iter().all(|kind| [2, 4].contains(kind)),
                "the two matrices of {name} do not fit: {:?} and {:?}",
                down.dims(),
                up.dims()
            );
            ensure!(layer.alpha.is_none_or(f64::is_finite), "alpha of {name} is not finite");
        }
        let digest = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { file: weights.file().to_string(), weight, digest, layers })
    }

    /// Whether every change has a place among the tensors of the models.
    ///
    /// # Errors
    /// If one has none; the message names it.
    pub fn check(&self, models: &[(Part, Vec<String>)]) -> Result<()> {
        for (part, wanted) in self.layers.keys() {
            let names = models.iter().filter(|(model, _)| model == part).flat_map(|(_, names)| names);
            if !names.into_iter().any(|name| key(name).as_ref() == Some(wanted)) {
                bail!("{}: this base has no matrix {wanted}, which it changes", self.file);
            }
        }
        Ok(())
    }

    /// The matrices that it changes, e.g. `down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k`.
    pub fn changed(&self) -> impl Iterator<Item = (Part, &str)> {
        self.layers.keys().map(|(part, name)| (*part, name.as_str()))
    }

    /// The ranks of the products, for people: `4`, or `1 to 16`.
    pub fn ranks(&self) -> String {
        let ranks = || self.layers.values().filter_map(|layer| layer.down.as_ref()?.dims().first().copied());
        match (ranks().min().unwrap_or(0), ranks().max().unwrap_or(0)) {
            (least, most) if least == most => most.to_string(),
            (least, most) => format!("{least} to {most}"),
        }
    }

    /// What is added to the tensor `name` of a model, of that shape; none if it stays.
    ///
    /// # Errors
    /// If the change has another shape; the message names both.
    pub fn change(&self, part: Part, name: &str, shape: &[usize]) -> candle_core::Result<Option<Tensor>> {
        let Some(key) = key(name) else { return Ok(None) };
        let Some(Layer { down: Some(down), up: Some(up), alpha }) = self.layers.get(&(part, key)) else {
            return Ok(None);
        };
        let rank = down.dim(0)?;
        let scale = self.weight * alpha.map_or(1., |alpha| alpha / rank as f64);
        let product = (up.flatten_from(1)?.matmul(&down.flatten_from(1)?)? * scale)?;
        if product.elem_count() != shape.iter().product::<usize>() || product.dim(0)? != shape[0] {
            let change = product.dims();
            candle_core::bail!("{}: the change of {name} has shape {change:?}, but that is {shape:?}", self.file);
        }
        product.reshape(shape).map(Some)
    }
}

/// Tensors of a model with the changes of LoRAs, wherever they come from.
///
/// # Errors
/// As [`Lora::change`].
pub fn with_loras(
    mut tensors: BTreeMap<String, Tensor>,
    part: Part,
    loras: &[Lora],
) -> candle_core::Result<BTreeMap<String, Tensor>> {
    for lora in loras {
        for (name, tensor) in &mut tensors {
            if let Some(change) = lora.change(part, name, tensor.dims())? {
                *tensor = (&*tensor + change.to_device(tensor.device())?)?;
            }
        }
    }
    Ok(tensors)
}

/// Which matrix of which model a tensor is about, and what it is of it.
fn place(name: &str) -> Option<((Part, String), Role)> {
    let (stem, role) = ENDINGS.iter().find_map(|(ending, role)| Some((name.strip_suffix(ending)?, *role)))?;
    let (inner, part) = BEGINNINGS.iter().find_map(|(start, part)| Some((stem.strip_prefix(start)?, *part)))?;
    let inner = inner.replace(".processor.to_out", ".to_out.0").replace(".processor.", ".");
    Some(((part, inner.replace('.', "_").trim_start_matches("text_model_").to_string()), role))
}

/// A weight's name as LoRAs write it.
fn key(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".weight")?;
    Some(stem.trim_start_matches("text_model.").replace('.', "_"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn file(tensors: &[(&str, Tensor)]) -> Result<(tempfile::TempDir, std::path::PathBuf)> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("style.safetensors");
        let tensors: HashMap<_, _> = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
        candle_core::safetensors::save(&tensors, &path)?;
        Ok((folder, path))
    }

    fn tensor(values: &[f32], shape: &[usize]) -> Result<Tensor> {
        Ok(Tensor::from_slice(values, shape, &Device::Cpu)?)
    }

    const MATRIX: &str = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";

    /// One column times one row, under the names of four programs.
    #[test]
    fn names_of_all_programs_mean_the_same() -> Result<()> {
        let inner = "mid_block.attentions.0.transformer_blocks.0.attn2";
        let underscored = inner.replace('.', "_");
        let (down, up) = (tensor(&[1., 2., 3.], &[1, 3])?, tensor(&[1., -1.], &[2, 1])?);
        for [first, second] in [
            [
                format!("lora_unet_{underscored}_to_k.lora_down.weight"),
                format!("lora_unet_{underscored}_to_k.lora_up.weight"),
            ],
            [format!("unet.{inner}.to_k.lora_A.weight"), format!("unet.{inner}.to_k.lora_B.weight")],
            [
                format!("base_model.model.unet.{inner}.to_k.lora_A.default.weight"),
                format!("base_model.model.unet.{inner}.to_k.lora_B.default.weight"),
            ],
            [
                format!("unet.{inner}.processor.to_k_lora.down.weight"),
                format!("unet.{inner}.processor.to_k_lora.up.weight"),
            ],
            [
                format!("unet.{inner}.to_k.lora_linear_layer.down.weight"),
                format!("unet.{inner}.to_k.lora_linear_layer.up.weight"),
            ],
        ] {
            let (_folder, path) = file(&[(&first, down.clone()), (&second, up.clone())])?;
            let lora = Lora::open(&path, 0.5, &Device::Cpu)?;
            let change = lora.change(Part::Unet, MATRIX, &[2, 3])?.context(first)?;
            assert_eq!(change.to_vec2::<f32>()?, [[0.5, 1., 1.5], [-0.5, -1., -1.5]]);
            assert!(lora.change(Part::Text, MATRIX, &[2, 3])?.is_none());
            lora.check(&[(Part::Unet, vec![MATRIX.to_string()])])?;
            assert!(lora.check(&[(Part::Unet, vec!["conv_in.weight".to_string()])]).is_err());
        }
        Ok(())
    }

    #[test]
    fn alpha_is_by_rank_and_convolutions_are_matrices_too() -> Result<()> {
        let (_folder, path) = file(&[
            ("lora_unet_conv_in.lora_down.weight", tensor(&[1., 0., 0., 1.], &[2, 1, 1, 2])?),
            ("lora_unet_conv_in.lora_up.weight", tensor(&[3., 5.], &[1, 2, 1, 1])?),
            ("lora_unet_conv_in.alpha", tensor(&[1.], &[])?),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", tensor(&[2.], &[1, 1])?),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", tensor(&[2.], &[1, 1])?),
        ])?;
        let lora = Lora::open(&path, 1., &Device::Cpu)?;
        let conv = lora.change(Part::Unet, "conv_in.weight", &[1, 1, 1, 2])?.context("a change")?;
        assert_eq!(conv.flatten_all()?.to_vec1::<f32>()?, [1.5, 2.5]);
        for name in ["text_model.encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.weight"] {
            assert!(lora.change(Part::Text, name, &[1, 1])?.is_some(), "{name}");
        }
        assert!(lora.change(Part::Unet, "conv_in.weight", &[9, 9]).is_err());
        Ok(())
    }

    #[test]
    fn other_files_are_refused_by_name() -> Result<()> {
        let one = || tensor(&[1.], &[1, 1]);
        for (tensors, part) in [
            (vec![("lora_unet_x.hada_w1_a", one()?)], "it is a LoHa"),
            (vec![("lora_unet_x.dora_scale", one()?)], "it is a DoRA"),
            (vec![("lora_te1_x.lora_up.weight", one()?)], "lora_te1_x"),
            (vec![("unet.x.lora_A.weight", one()?)], "missing"),
            (
                vec![("unet.x.lora_A.weight", tensor(&[1.; 4], &[2, 2])?), ("unet.x.lora_B.weight", one()?)],
                "do not fit",
            ),
        ] {
            let (_folder, path) = file(&tensors)?;
            let said = Lora::open(&path, 1., &Device::Cpu).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(said.contains(part) && said.contains("style.safetensors"), "{said}");
        }
        Ok(())
    }
}
