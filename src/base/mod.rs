//! Finding and loading the pretrained models: the base that is customised, and those of the metrics.

mod device;
mod hub;
mod metrics;
mod sam;
mod sd1;
mod source;
pub mod texts;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use crate::files::digest;
use crate::model::clip::TowerConfig;
use crate::model::unet::{LATENTS, UnetConfig};
use crate::model::vae::Posterior;
use crate::model::{ClipText, Config, Scheduler, Tokenizer, Unet, Vae};
use crate::ops::{Precision, prepare};
use crate::weights::{Lora, Part, Weights, with_loras};
use source::Model;

pub use device::{advice, device, other_cards};
pub use metrics::{Clip, load_dino, load_judge, load_vision, things};
pub use sam::load_sam;
pub use sd1::RANDOM_SD14;
pub use source::Folder;

/// The name of the base that is part of the program.
pub const MINI: &str = "mini";

/// A pretrained Stable Diffusion 1.x.
pub struct Base {
    /// What the user called it: `mini`, `sd14`, `OWNER/NAME`, a directory or a file.
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
    /// Tells everything that its pictures depend on from others: all weights, configurations, tokenizer, program.
    pub identity: String,
    /// Where it computes.
    pub device: Device,
    /// How its layers keep their weights.
    pub precision: Precision,
    /// What was chosen where there was a choice, a sentence each.
    pub notes: Vec<String>,
    /// Where all of it came from.
    parts: Parts,
}

impl Base {
    /// Loads `mini`, `sd14`, a repository of the Hugging Face hub, a directory in the diffusers layout or a safetensors
    /// file in the original one.
    ///
    /// # Errors
    /// If a file or tensor is missing, damaged or misshapen; the message names it.
    pub fn load(name: &str, offline: bool, device: &Device, precision: Precision) -> Result<Self> {
        Self::load_with(name, offline, device, precision, Vec::new())
    }

    /// The same with the changes that LoRAs make. An adapter of the base is one of the changed one too.
    ///
    /// # Errors
    /// As [`load`](Self::load), also if a LoRA changes what the base has not.
    pub fn load_with(
        name: &str,
        offline: bool,
        device: &Device,
        precision: Precision,
        loras: Vec<Lora>,
    ) -> Result<Self> {
        prepare(device, precision)?;
        let folder = Folder::find(name, offline)?;
        let parts = Parts { folder, device: device.clone(), precision, loras: loras.into() };
        if !parts.loras.is_empty() {
            let names = [(Part::Unet, parts.weights(UNET)?.names()), (Part::Text, parts.weights(TEXT)?.names())];
            parts.loras.iter().try_for_each(|lora| lora.check(&names))?;
        }
        let folder = &parts.folder;
        // before anything else, since the error of a file that is no base says what it is instead
        let fingerprint = fingerprint(&[&parts.weights(UNET)?, &parts.weights(TEXT)?])?;
        let text: TowerConfig = config(folder, "text_encoder/config.json")?;
        let tokenizer = tokenizer(folder, "tokenizer/", &text)?;
        let base = Self {
            name: name.to_string(),
            identity: identity(&parts, &fingerprint, &tokenizer)?,
            tokenizer,
            scheduler: parts.scheduler()?,
            unet: parts.unet()?,
            vae: parts.vae()?,
            text: parts.text()?,
            fingerprint,
            device: device.clone(),
            precision,
            notes: [UNET, VAE, TEXT].into_iter().filter_map(|model| folder.choice(model)).collect(),
            parts,
        };
        let (have, need) = (base.text.config.hidden_size, base.unet.config.cross_attention_dim);
        if have != need {
            bail!("{name}: the text encoder is {have} wide, but the UNet reads {need}: they are not of one model");
        }
        let have = base.vae.config.latent_channels;
        if have != LATENTS {
            bail!(
                "{name}: the VAE's latents have {have} channels, but the UNet's {LATENTS}: they are not of one model"
            );
        }
        Ok(base)
    }

    /// The settings that serve this base best, as TOML, if it brings any.
    ///
    /// # Errors
    /// If the base cannot be found.
    pub fn defaults(name: &str, offline: bool) -> Result<Option<String>> {
        let folder = Folder::find(name, offline)?;
        folder.has("eqdiff.toml").then(|| folder.text("eqdiff.toml")).transpose()
    }

    /// Side of the pictures that the base was trained on, in pixels.
    pub fn side(&self) -> usize {
        self.unet.config.sample_size * self.vae.factor()
    }

    /// What both sides of a picture must be multiples of, in pixels, to divide into the UNet's levels.
    pub fn unit(&self) -> usize {
        self.unet.config.halvings() * self.vae.factor()
    }

    /// The latents of `image` [1, 3, H, W]; `name` is for messages.
    ///
    /// # Errors
    /// If they are not finite: the VAE is broken.
    pub fn encoded(&self, image: &Tensor, name: &str) -> Result<Posterior> {
        let posterior = self.vae.encode(image)?;
        if !posterior.mean.sum_all()?.to_scalar::<f32>()?.is_finite() {
            bail!("the VAE of {} makes no finite latents of {name}", self.name);
        }
        Ok(posterior)
    }

    /// `image` [B, 3, H, W]'s latents from a normal draw `noise`, scaled for the denoiser.
    ///
    /// # Errors
    /// If shapes or devices do not fit.
    pub fn latents(&self, posterior: &Posterior, noise: &Tensor) -> candle_core::Result<Tensor> {
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

const UNET: Model = Model { stem: "unet/diffusion_pytorch_model", part: Some(Part::Unet) };
const VAE: Model = Model { stem: "vae/diffusion_pytorch_model", part: Some(Part::Vae) };
const TEXT: Model = Model { stem: "text_encoder/model", part: Some(Part::Text) };

/// A base whose parts are loaded one by one.
pub struct Parts {
    /// Where its files are.
    pub folder: Folder,
    /// Where it shall compute.
    pub device: Device,
    /// How its layers keep their weights.
    pub precision: Precision,
    /// What is added to them.
    pub loras: Arc<[Lora]>,
}

impl Base {
    /// Tensors that come in the place of the UNet's, with the changes that its LoRAs make: else those would be lost there.
    ///
    /// # Errors
    /// If a change does not fit.
    pub fn with_loras(&self, tensors: BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
        Ok(with_loras(tensors, Part::Unet, &self.parts.loras)?)
    }
}

impl Parts {
    /// # Errors
    /// As [`Base::load`], also below.
    pub fn unet(&self) -> Result<Unet> {
        Ok(Unet::load(&self.unet_weights()?, config(&self.folder, "unet/config.json")?)?)
    }

    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn vae(&self) -> Result<Vae> {
        // what is lost here shows in every picture
        let weights = self.weights(VAE)?.kept_in(self.precision.fine(&self.device));
        Ok(Vae::load(&weights, config(&self.folder, "vae/config.json")?)?)
    }

    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn text(&self) -> Result<ClipText> {
        Ok(ClipText::load(&self.text_weights()?, config(&self.folder, "text_encoder/config.json")?)?)
    }

    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn scheduler(&self) -> Result<Scheduler> {
        let file = sd1::SCHEDULER_FILE;
        let context = || format!("{} does not fit", self.folder.describe(file));
        Scheduler::from_json(&self.folder.text(file)?).with_context(context)
    }

    /// Side of the latents that the base was trained on.
    ///
    /// # Errors
    /// See [`unet`](Self::unet).
    pub fn latent_side(&self) -> Result<usize> {
        Ok(config::<UnetConfig>(&self.folder, "unet/config.json")?.sample_size)
    }

    /// The UNet's tensors with what is added to them.
    fn unet_weights(&self) -> Result<Weights> {
        Ok(self.weights(UNET)?.with_loras(Part::Unet, self.loras.clone()))
    }

    /// The text encoder's.
    fn text_weights(&self) -> Result<Weights> {
        Ok(self.weights(TEXT)?.with_loras(Part::Text, self.loras.clone()))
    }

    fn weights(&self, model: Model) -> Result<Weights> {
        Ok(self.folder.weights(model, &self.device)?.kept_in(self.precision))
    }
}

/// A configuration file of a model.
fn config<T: Config>(folder: &Folder, path: &str) -> Result<T> {
    T::from_json(&folder.text(path)?).with_context(|| format!("{} does not fit", folder.describe(path)))
}

/// The tokenizer of the text encoder of `config`.
fn tokenizer(folder: &Folder, prefix: &str, config: &TowerConfig) -> Result<Tokenizer> {
    let (at, length) = (|file: &str| format!("{prefix}{file}"), config.max_position_embeddings);
    let words = folder.text(&at("vocab.json")).and_then(|vocab| Ok((vocab, folder.text(&at("merges.txt"))?)));
    let loaded = match words {
        Ok((vocab, merges)) => Tokenizer::from_vocab(&vocab, &merges, length),
        Err(_) if folder.lacks_tokenizer() => Tokenizer::from_merges(sd1::MERGES, length),
        Err(error) => {
            let json = folder.text(&at("tokenizer.json")).with_context(|| {
                let place = folder.describe(prefix);
                format!("neither vocab.json and merges.txt ({error:#}) nor tokenizer.json in {place}")
            })?;
            Tokenizer::from_json(json.as_bytes(), length)
        }
    };
    let tokenizer = loaded.with_context(|| format!("the tokenizer in {}", folder.describe(prefix)))?;
    let (ids, embeddings) = (tokenizer.vocabulary(), config.vocab_size);
    ensure!(
        ids <= embeddings,
        "the tokenizer in {} has {ids} tokens, but the text encoder {embeddings}: they are not of one model",
        folder.describe(prefix)
    );
    Ok(tokenizer)
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

/// A digest of what the fingerprint leaves out: the autoencoder, the configurations, the tokenizer, the program.
fn identity(parts: &Parts, fingerprint: &str, tokenizer: &Tokenizer) -> Result<String> {
    let vae = self::fingerprint(&[&parts.weights(VAE)?])?;
    let mut all = format!("{fingerprint} {vae} {} {}", env!("CARGO_PKG_VERSION"), tokenizer.description()?);
    for file in ["unet/config.json", "vae/config.json", "text_encoder/config.json", "scheduler/scheduler_config.json"] {
        all += &parts.folder.text(file)?;
    }
    for lora in parts.loras.iter() {
        all += &format!(" {} {}", lora.digest, lora.weight);
    }
    Ok(digest(all.as_bytes(), 8))
}

/// A tensor of token ids [B, L].
///
/// # Errors
/// If the rows are not of one length.
pub fn ids_tensor(rows: &[&[u32]], device: &Device) -> candle_core::Result<Tensor> {
    let length = rows.first().map_or(0, |row| row.len());
    Tensor::from_vec(rows.concat(), (rows.len(), length), device)?.to_dtype(DType::U32)
}
