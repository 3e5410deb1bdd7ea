//! Finding and loading the pretrained models: the base that is customised, and those of the metrics.

mod random;
mod source;
pub mod texts;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::model::clip::{ClipConfig, TowerConfig};
use crate::model::unet::UnetConfig;
use crate::model::{ClipText, ClipVision, Scheduler, Tokenizer, Unet, Vae, Vit};
use crate::ops::Precision;
use crate::weights::Weights;

pub use random::RANDOM_SD14;
pub use source::Folder;

/// The name of the base that is part of the program.
pub const MINI: &str = "mini";

/// A pretrained Stable Diffusion 1.x.
pub struct Base {
    /// What the user called it: `mini`, `sd14`, `OWNER/NAME` or a directory.
    pub name: String,
    /// The denoiser.
    pub unet: Unet,
    /// The autoencoder.
    pub vae: Vae,
    /// The text encoder.
    pub text: ClipText,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its noise schedule.
    pub scheduler: Scheduler,
    /// Tells this base's weights from others', whatever precision they are stored in.
    pub fingerprint: String,
    /// Where it computes.
    pub device: Device,
    /// How its layers keep their weights.
    pub precision: Precision,
}

impl Base {
    /// Loads `mini`, `sd14`, a repository of the Hugging Face hub or a directory in the diffusers layout.
    ///
    /// # Errors
    /// If a file or tensor is missing, damaged or misshapen; the message names it.
    pub fn load(name: &str, offline: bool, device: &Device, precision: Precision) -> Result<Self> {
        let parts = Parts { folder: Folder::find(name, offline)?, device: device.clone(), precision };
        let folder = &parts.folder;
        let text: TowerConfig = json(folder, "text_encoder/config.json")?;
        let base = Self {
            name: name.to_string(),
            unet: parts.unet()?,
            vae: parts.vae()?,
            tokenizer: tokenizer(folder, "tokenizer/", text.max_position_embeddings)?,
            text: parts.text()?,
            scheduler: parts.scheduler()?,
            fingerprint: fingerprint(&[&parts.weights(UNET)?, &parts.weights(TEXT)?])?,
            device: device.clone(),
            precision,
        };
        let (have, need) = (base.text.config.hidden_size, base.unet.config.cross_attention_dim);
        if have != need {
            bail!("{name}: the text encoder is {have} wide, but the UNet reads {need}: they are not of one model");
        }
        Ok(base)
    }

    /// The settings that serve this base best, as TOML, if it brings any.
    ///
    /// # Errors
    /// If the base cannot be found.
    pub fn defaults(name: &str, offline: bool) -> Result<Option<String>> {
        let folder = Folder::find(name, offline)?;
        Ok(if folder.is_remote() { None } else { folder.text("eqdiff.toml").ok() })
    }

    /// Side of the pictures that the base was trained on, in pixels.
    pub fn side(&self) -> usize {
        self.unet.config.sample_size * self.vae.factor()
    }

    /// `image` [B, 3, H, W]'s latents from a normal draw `noise`, scaled for the denoiser.
    ///
    /// # Errors
    /// If shapes or devices do not fit.
    pub fn latents(&self, posterior: &crate::model::vae::Posterior, noise: &Tensor) -> candle_core::Result<Tensor> {
        (&posterior.mean + (&posterior.std * noise)?)? * self.vae.config.scaling_factor
    }

    /// Pictures [B, 3, H, W] in [-1, 1] of scaled latents.
    ///
    /// # Errors
    /// If shapes or devices do not fit.
    pub fn pictures(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        self.vae.decode(&(latents / self.vae.config.scaling_factor)?)
    }
}

const UNET: &str = "unet/diffusion_pytorch_model";
const VAE: &str = "vae/diffusion_pytorch_model";
const TEXT: &str = "text_encoder/model";

/// A base whose parts are loaded one by one.
pub struct Parts {
    /// Where its files are.
    pub folder: Folder,
    /// Where it shall compute.
    pub device: Device,
    /// How its layers keep their weights.
    pub precision: Precision,
}

impl Parts {
    /// # Errors
    /// As [`Base::load`], also below.
    pub fn unet(&self) -> Result<Unet> {
        Ok(Unet::load(&self.weights(UNET)?, json(&self.folder, "unet/config.json")?)?)
    }

    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn vae(&self) -> Result<Vae> {
        Ok(Vae::load(&self.weights(VAE)?, json(&self.folder, "vae/config.json")?)?)
    }

    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn text(&self) -> Result<ClipText> {
        Ok(ClipText::load(&self.weights(TEXT)?, json(&self.folder, "text_encoder/config.json")?, None)?)
    }

    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn scheduler(&self) -> Result<Scheduler> {
        const FILE: &str = "scheduler/scheduler_config.json";
        Scheduler::from_json(&self.folder.text(FILE)?).with_context(|| self.folder.describe(FILE))
    }

    /// Side of the latents that the base was trained on.
    ///
    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn latent_side(&self) -> Result<usize> {
        Ok(json::<UnetConfig>(&self.folder, "unet/config.json")?.sample_size)
    }

    fn weights(&self, stem: &str) -> Result<Weights> {
        Ok(self.folder.weights(stem, &self.device)?.kept_in(self.precision))
    }
}

/// CLIP and its tokenizer, for CLIP-T and CLIP-I.
pub struct Clip {
    /// The text tower.
    pub text: ClipText,
    /// The vision tower.
    pub vision: ClipVision,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Where it computes.
    pub device: Device,
}

impl Clip {
    /// Loads a CLIP from a hub repository, a directory, or the one beside the base `mini`.
    ///
    /// # Errors
    /// As [`Base::load`].
    pub fn load(name: &str, offline: bool, device: &Device) -> Result<Self> {
        let folder = if name == MINI { Folder::embedded("clip")? } else { Folder::find(name, offline)? };
        let config: ClipConfig = json(&folder, "config.json")?;
        let weights = folder.weights("model", device)?;
        Ok(Self {
            tokenizer: tokenizer(&folder, "", config.text_config.max_position_embeddings)?,
            text: ClipText::load(&weights, config.text_config, Some(config.projection_dim))?,
            vision: ClipVision::load(&weights, config.vision_config, config.projection_dim)?,
            device: device.clone(),
        })
    }
}

/// Loads DINO's ViT from a hub repository, a directory, or the one beside the base `mini`.
///
/// # Errors
/// As [`Base::load`].
pub fn load_dino(name: &str, offline: bool, device: &Device) -> Result<Vit> {
    let folder = if name == MINI { Folder::embedded("dino")? } else { Folder::find(name, offline)? };
    Ok(Vit::load(&folder.weights("model", device)?, json(&folder, "config.json")?)?)
}

fn json<T: DeserializeOwned>(folder: &Folder, path: &str) -> Result<T> {
    serde_json::from_str(&folder.text(path)?).with_context(|| format!("{} does not fit", folder.describe(path)))
}

fn tokenizer(folder: &Folder, prefix: &str, length: usize) -> Result<Tokenizer> {
    let at = |file: &str| format!("{prefix}{file}");
    let loaded = match (folder.text(&at("vocab.json")), folder.text(&at("merges.txt"))) {
        (Ok(vocab), Ok(merges)) => Tokenizer::from_vocab(&vocab, &merges, length),
        _ => {
            let json = folder.text(&at("tokenizer.json")).with_context(|| {
                format!("neither vocab.json and merges.txt nor tokenizer.json in {}", folder.describe(prefix))
            })?;
            Tokenizer::from_json(json.as_bytes(), length)
        }
    };
    loaded.with_context(|| format!("the tokenizer in {}", folder.describe(prefix)))
}

/// A digest of the names, shapes and first values of all tensors. Values are compared in half
/// precision, so that a checkpoint and its f16 variant are the same base.
fn fingerprint(files: &[&Weights]) -> Result<String> {
    let mut hash = Sha256::new();
    for weights in files {
        for name in weights.names() {
            let shape = weights.shape(&name).unwrap_or_default();
            if name.ends_with("position_ids") {
                continue; // a constant that only some writers store
            }
            hash.update(format!("{} {shape:?}", name.trim_start_matches("text_model.")));
            for value in weights.first_values(&name, 8)? {
                hash.update(value.to_le_bytes());
            }
        }
    }
    Ok(hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}

/// The device of that name: `auto`, `cpu`, `cuda`, `cuda:1` or `metal`.
///
/// # Errors
/// If this build or this machine has no such device.
pub fn device(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            (kind, index.parse().with_context(|| format!("{index:?} in --device {name} is no number"))?)
        }
        None => (name, 0),
    };
    match kind {
        "cpu" => Ok(Device::Cpu),
        "auto" if candle_core::utils::cuda_is_available() => Ok(Device::new_cuda(0)?),
        "auto" => Ok(Device::Cpu),
        "cuda" if candle_core::utils::cuda_is_available() => {
            Device::new_cuda(index).with_context(|| format!("cannot use {name}"))
        }
        "metal" if candle_core::utils::metal_is_available() => {
            Device::new_metal(index).with_context(|| format!("cannot use {name}"))
        }
        "cuda" | "metal" => bail!("this build has no {kind}: build it with `cargo build --release --features {kind}`"),
        _ => bail!("unknown device {name:?}: auto, cpu, cuda, cuda:N or metal"),
    }
}

/// A tensor of token ids [B, L].
///
/// # Errors
/// If the rows are not of one length.
pub fn ids_tensor(rows: &[&[u32]], device: &Device) -> candle_core::Result<Tensor> {
    let length = rows.first().map_or(0, |row| row.len());
    Tensor::from_vec(rows.concat(), (rows.len(), length), device)?.to_dtype(DType::U32)
}
