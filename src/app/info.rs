//! What a file or folder is: adapters, weights of other programs, bases, pictures.

use std::path::Path;

use anyhow::{Result, bail};
use candle_core::Device;

use super::runs::Run;
use crate::adapter::formats::release;
use crate::adapter::{Adapter, MANIFEST};
use crate::images::png::read_parameters;
use crate::images::{self, Written, shown, typed};
use crate::method::eqdiff::ConceptEmbedding;
use crate::weights::{Lora, Weights, header_text};

/// What something is, in a word or two, and names and values of all that is known of it.
#[derive(Debug)]
pub struct Info {
    /// What it is.
    pub kind: String,
    /// What is known of it.
    pub facts: Vec<(String, String)>,
}

/// Looks at a file or folder.
///
/// # Errors
/// If it cannot be read, is damaged, or nothing that this program knows; the message names it.
pub fn info(path: &Path) -> Result<Info> {
    if path.is_dir() {
        return folder(path);
    }
    if !path.is_file() {
        bail!("there is no file {}", shown(path));
    }
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
    match ending.as_deref() {
        Some("safetensors" | "bin" | "ckpt" | "pt" | "pth") => weights(path),
        _ => picture(path),
    }
}

fn folder(path: &Path) -> Result<Info> {
    if path.join(MANIFEST).is_file() {
        let run = Run::of(Adapter::open(path)?);
        return Ok(Info { kind: "adapter of eqdiff".into(), facts: owned(run.facts()) });
    }
    if path.join("unet").is_dir() {
        let parts = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"];
        let there: Vec<&str> = parts.into_iter().filter(|part| path.join(part).is_dir()).collect();
        let facts = vec![("parts", there.join(", "))];
        return Ok(Info { kind: "base in the diffusers layout".into(), facts: owned(facts) });
    }
    bail!("{} is neither an adapter ({MANIFEST}) nor a base (unet/)", shown(path))
}

fn weights(path: &Path) -> Result<Info> {
    let weights = Weights::open_or_unpickle(path, &Device::Cpu)?;
    let names = weights.names();
    let values: usize =
        names.iter().filter_map(|name| weights.shape(name)).map(|shape| shape.iter().product::<usize>()).sum();
    let mut facts = owned(vec![("tensors", names.len().to_string()), ("values", values.to_string())]);
    if let Some(shape) = names.first().and_then(|name| weights.shape(name)) {
        facts.push(("first".into(), format!("{} {shape:?}", names[0])));
    }
    let has = |part: &str| names.iter().any(|name| name.contains(part));
    let kind = if names.iter().any(|name| name == ConceptEmbedding::LOW) {
        "tensors of an adapter of eqdiff: their folder is the adapter"
    } else if names.len() > 1 && has("lora") {
        let lora = Lora::open(path, 1., &Device::Cpu)?;
        facts.push(("changes".into(), format!("{} matrices", lora.changed().count())));
        facts.push(("rank".into(), lora.ranks()));
        facts.push(("draw with".into(), format!("eqdiff sample --lora {}", typed(path))));
        "LoRA"
    } else if names.iter().any(|name| name == release::BANDS) {
        "embeddings of both bands, of the released code"
    } else if has("_custom_diffusion.weight") {
        "Custom Diffusion weights"
    } else if names.len() == 1 && weights.shape(&names[0]).is_some_and(|shape| shape.len() <= 2) {
        "textual inversion embedding"
    } else if has("model.diffusion_model.") {
        "Stable Diffusion in the original layout, or a part of it"
    } else if has("down_blocks.") && has("attn2") {
        "UNet in the diffusers layout"
    } else if has("encoder.down_blocks.") || has("decoder.up_blocks.") {
        "VAE in the diffusers layout"
    } else if has("text_model.encoder.") {
        "text encoder in the diffusers layout"
    } else if has("mask_decoder.iou_token") {
        "Segment Anything"
    } else {
        "weights of a kind that is not known here"
    };
    facts.extend(header_text(path).unwrap_or_default()); // a pickle has none
    Ok(Info { kind: kind.into(), facts })
}

fn picture(path: &Path) -> Result<Info> {
    let read = images::read(path)?;
    let (width, height) = read.image.dimensions();
    let mut facts = vec![("size".to_string(), format!("{width}x{height}"))];
    let Some(Written { prompt, negative, settings }) = read_parameters(path)? else {
        return Ok(Info { kind: "picture that does not say how it was drawn".into(), facts });
    };
    facts.push(("prompt".into(), prompt));
    if !negative.is_empty() {
        facts.push(("negative prompt".into(), negative));
    }
    facts.extend(settings);
    facts.push(("draw like it".into(), format!("eqdiff sample --like {}", typed(path))));
    Ok(Info { kind: "picture that was drawn".into(), facts })
}

fn owned(facts: Vec<(&'static str, String)>) -> Vec<(String, String)> {
    facts.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}
