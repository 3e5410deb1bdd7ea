//! What training produces: a folder with the trained tensors, the settings that made them, and the
//! subject's photos, which sampling and evaluation look at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::files::write_whole;
use crate::method::eqdiff::Customisation;
use crate::model::tokenizer::PLACEHOLDER;
use crate::settings::Settings;
use crate::weights::Weights;

const TENSORS: &str = "adapter.safetensors";
const MANIFEST: &str = "adapter.toml";

/// What an adapter was made of; `adapter.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The program's version.
    pub version: String,
    /// What stands for the subject in prompts.
    pub placeholder: String,
    /// The subject's name and its class word.
    pub subject: String,
    /// See `subject`.
    pub class: String,
    /// Digest of the photos and masks.
    pub photos: String,
    /// The base as the user named it.
    pub base: String,
    /// The base's fingerprint.
    pub fingerprint: String,
    /// Side of the training pictures in pixels.
    pub side: usize,
    /// Training steps taken.
    pub steps: usize,
    /// All settings.
    pub settings: Settings,
}

/// A trained adapter on disk.
pub struct Adapter {
    /// Its folder.
    pub folder: PathBuf,
    /// What it was made of.
    pub manifest: Manifest,
}

impl Adapter {
    /// Opens the adapter in `folder`.
    ///
    /// # Errors
    /// If there is none; the message says what is missing.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(MANIFEST);
        if !folder.is_dir() {
            bail!("there is no folder {}: train first (eqdiff train --subject dog), or name another", folder.display());
        }
        let toml = std::fs::read_to_string(&path)
            .with_context(|| format!("{} is no adapter: cannot read {}", folder.display(), path.display()))?;
        let manifest = toml::from_str(&toml).with_context(|| format!("{} does not fit", path.display()))?;
        Ok(Self { folder: folder.to_path_buf(), manifest })
    }

    /// The trained parts, for the base that they were trained on.
    ///
    /// # Errors
    /// If `base` is another one, or tensors are missing, damaged or misshapen.
    pub fn customisation(&self, base: &Base) -> Result<Customisation> {
        let (trained_on, given) = (&self.manifest.fingerprint, &base.fingerprint);
        if trained_on != given {
            bail!(
                "{} was trained on the base {} (fingerprint {trained_on}), not on {} ({given}): use --base {}",
                self.folder.display(),
                self.manifest.base,
                base.name,
                self.manifest.base
            );
        }
        let tensors = load_tensors(&self.folder.join(TENSORS), &base.device)?;
        check_shapes(base, &tensors, &self.manifest.settings)
            .with_context(|| format!("{} does not fit", self.folder.join(TENSORS).display()))?;
        Ok(Customisation::from_tensors(&base.unet, &tensors)?)
    }

    /// Where the subject's photos and masks are kept.
    pub fn photos(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("photos"), self.folder.join("masks"))
    }
}

/// Writes tensors and manifest; a failure leaves the files of before.
///
/// # Errors
/// If the folder cannot be written.
pub fn save(folder: &Path, manifest: &Manifest, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    let metadata = [
        ("format", "pt".to_string()),
        ("modelspec.sai_model_spec", "1.0.0".into()),
        ("modelspec.architecture", "stable-diffusion-v1/eqdiff".into()),
        ("modelspec.title", manifest.subject.clone()),
        ("modelspec.resolution", format!("{0}x{0}", manifest.side)),
        ("modelspec.usage_hint", format!("{} {}", PLACEHOLDER, manifest.class)),
    ];
    save_tensors(&folder.join(TENSORS), tensors, &metadata)?;
    let toml = toml::to_string_pretty(manifest).context("cannot write the settings as TOML")?;
    write_whole(&folder.join(MANIFEST), toml.as_bytes())
}

/// Writes safetensors under a temporary name first.
///
/// # Errors
/// If the file cannot be written.
pub fn save_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>, metadata: &[(&str, String)]) -> Result<()> {
    let tensors: BTreeMap<&str, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), tensor.detach().to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    let mut bytes = safetensors::serialize(tensors, Some(metadata)).context("cannot serialise tensors")?;
    sort_metadata(&mut bytes)?;
    write_whole(path, &bytes)
}

/// The library writes the metadata in a random order; equal runs shall give equal files.
fn sort_metadata(bytes: &mut [u8]) -> Result<()> {
    let (length, rest) = bytes.split_first_chunk_mut::<8>().context("no header")?;
    let header = &mut rest[..u64::from_le_bytes(*length) as usize];
    let mut json: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(header)?;
    if let Some(serde_json::Value::Object(metadata)) = json.get_mut("__metadata__") {
        metadata.sort_keys();
    }
    let sorted = serde_json::to_vec(&json)?; // as long as before, but for the spaces that pad it
    header[..sorted.len()].copy_from_slice(&sorted);
    Ok(())
}

/// All tensors of a file.
///
/// # Errors
/// If it is missing or damaged.
pub fn load_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let weights = Weights::open(path, device)?;
    weights.names().into_iter().map(|name| Ok((name.clone(), weights.any(&name)?))).collect()
}

fn check_shapes(base: &Base, tensors: &BTreeMap<String, Tensor>, settings: &Settings) -> Result<()> {
    let init = base.text.token_embedding(0)?;
    for (name, initial) in Customisation::initial(&base.unet, &init, settings.fdte.enabled, settings.rra.enabled)? {
        match tensors.get(&name) {
            None => bail!("{name} is missing"),
            Some(tensor) if tensor.dims() != initial.dims() => {
                bail!("{name} has shape {:?}, expected {:?}", tensor.dims(), initial.dims())
            }
            Some(_) => {}
        }
    }
    Ok(())
}
