//! What training produces: a folder with the trained tensors, the settings that made them, and the
//! subject's photos, which sampling and evaluation look at.

pub mod formats;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::files::{Set, finish_set, read_text};
use crate::images::typed;
use crate::method::dreambooth::{self, Tuned};
use crate::method::eqdiff::{ConceptEmbedding, Customisation};
use crate::method::{Learned, MethodName};
use crate::model::tokenizer::PLACEHOLDER;
use crate::settings::Settings;
use crate::weights::Weights;

/// The file of the trained tensors.
pub const TENSORS: &str = "adapter.safetensors";
/// The file of the manifest.
pub const MANIFEST: &str = "adapter.toml";

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
    /// Training steps taken; 0 before the first checkpoint.
    pub steps: usize,
    /// The files of another program that it was made of, if it was not trained here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported: Vec<String>,
    /// How the base's weights were kept; empty in adapters of older versions.
    #[serde(default)]
    pub dtype: String,
    /// The preset that the settings began with.
    #[serde(default)]
    pub preset: String,
    /// The user's own class images, if the training has any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_images: Option<OwnImages>,
    /// All settings.
    pub settings: Settings,
}

/// A folder of the user's that a training depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OwnImages {
    /// Where it is.
    pub folder: PathBuf,
    /// Tells its content from others.
    pub digest: String,
}

/// Trained values beyond this belong to a training that diverged.
const LARGEST: f32 = 1e6;

impl Manifest {
    /// Whether it makes sense: it may come from somebody else.
    ///
    /// # Errors
    /// If it does not; the message has what is wrong.
    pub fn check(&self) -> Result<()> {
        self.settings.check()?;
        let texts = [&self.version, &self.placeholder, &self.subject, &self.class, &self.photos, &self.base];
        let texts = texts.into_iter().chain([&self.fingerprint, &self.preset, &self.dtype]).chain(&self.imported);
        if let Some(text) = texts.into_iter().find(|text| text.chars().any(char::is_control)) {
            bail!("{text:?} has control characters");
        }
        if self.placeholder != PLACEHOLDER {
            bail!("placeholder = {:?}: {PLACEHOLDER} stands for the subject", self.placeholder);
        }
        if self.class.trim().is_empty() || self.subject.trim().is_empty() {
            bail!("subject and class must not be empty");
        }
        check_side(self.side)
    }

    /// What stands for the subject in prompts.
    pub fn called(&self) -> String {
        self.settings.training.method.called(&self.class)
    }

    /// The manifest as TOML.
    ///
    /// # Errors
    /// Never; the library that writes TOML could.
    pub fn toml(&self) -> Result<String> {
        toml::to_string_pretty(self).context("cannot write the settings as TOML")
    }
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
        finish_set(folder)?;
        let toml = read_text(&path)
            .with_context(|| format!("{} is no adapter: cannot read {}", folder.display(), path.display()))?;
        let manifest: Manifest = toml::from_str(&toml).with_context(|| format!("{} does not fit", path.display()))?;
        manifest.check().with_context(|| format!("{} does not fit", path.display()))?;
        Ok(Self { folder: folder.to_path_buf(), manifest })
    }

    /// The trained parts, for the base that they were trained on. Where LoRAs change that, they change its keys and values
    /// here too.
    ///
    /// # Errors
    /// If `base` is another one, or tensors are missing, damaged or misshapen.
    pub fn tensors(&self, base: &Base) -> Result<BTreeMap<String, Tensor>> {
        if self.manifest.steps == 0 && self.manifest.imported.is_empty() {
            bail!(
                "the training in {} was stopped before its first step: eqdiff train --resume --out {}",
                self.folder.display(),
                typed(&self.folder)
            );
        }
        let (trained_on, given) = (&self.manifest.fingerprint, &base.fingerprint);
        if trained_on != given {
            bail!(
                "{} was trained on the base {} (fingerprint {trained_on}), not on {} ({given}): use --base {}",
                self.folder.display(),
                self.manifest.base,
                base.name,
                typed(&self.manifest.base)
            );
        }
        let tensors = load_tensors(&self.folder.join(TENSORS), &base.device)?;
        check_shapes(base, &tensors, &self.manifest.settings)
            .with_context(|| format!("{} does not fit", self.folder.join(TENSORS).display()))?;
        match self.manifest.settings.training.method {
            MethodName::DreamBooth => Ok(tensors), // the base's layers take them, and change them as their own
            _ => base.with_loras(tensors),
        }
    }

    /// What its `tensors` mean to `base`.
    ///
    /// # Errors
    /// If they are not those of its method.
    pub fn learned(&self, base: &Base, tensors: &BTreeMap<String, Tensor>) -> Result<Box<dyn Learned>> {
        let settings = &self.manifest.settings;
        Ok(match settings.training.method {
            MethodName::DreamBooth => Box::new(Tuned::from_tensors(base, &settings.dreambooth.identifier, tensors)?),
            _ => Box::new(Customisation::from_tensors(&base.unet, tensors)?),
        })
    }

    /// Where the subject's photos and masks are kept.
    pub fn photos(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("photos"), self.folder.join("masks"))
    }
}

/// Adds tensors and manifest to the files of a checkpoint.
///
/// # Errors
/// If a tensor's values are those of a training that diverged, or the files cannot be written.
pub fn save(set: &mut Set, manifest: &Manifest, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
    for (name, tensor) in tensors {
        check_values(name, tensor).with_context(|| {
            format!("step {} is not saved: the training diverged, lower the learning rate", manifest.steps)
        })?;
    }
    let metadata = [
        ("format", "pt".to_string()),
        ("modelspec.sai_model_spec", "1.0.0".into()),
        ("modelspec.architecture", "stable-diffusion-v1/eqdiff".into()),
        ("modelspec.title", manifest.subject.clone()),
        ("modelspec.resolution", format!("{0}x{0}", manifest.side)),
        ("modelspec.usage_hint", manifest.called()),
    ];
    set.add(TENSORS, &serialised(tensors, &metadata)?)?;
    set.add(MANIFEST, manifest.toml()?.as_bytes())
}

/// Tensors in the layout of safetensors; equal tensors give equal bytes.
///
/// # Errors
/// If they cannot be copied from their device.
pub fn serialised(tensors: &BTreeMap<String, Tensor>, metadata: &[(&str, String)]) -> Result<Vec<u8>> {
    let tensors: BTreeMap<&str, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| Ok((name.as_str(), tensor.detach().to_device(&Device::Cpu)?.contiguous()?)))
        .collect::<Result<_>>()?;
    let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
    let mut bytes = safetensors::serialize(tensors, Some(metadata)).context("cannot serialise tensors")?;
    sort_metadata(&mut bytes)?;
    Ok(bytes)
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

/// Bytes of the largest file that is taken for an adapter: Stable Diffusion 1.x's have a tenth of it.
const LARGEST_FILE: u64 = 4 << 30;

/// All tensors of a file.
///
/// # Errors
/// If it is missing, damaged or absurdly large.
pub fn load_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
    if bytes > LARGEST_FILE {
        bail!("{} has {} MiB: no adapter is so large", path.display(), bytes >> 20);
    }
    all_tensors(path, device)
}

/// The same without a bound, of a file that this program wrote.
///
/// # Errors
/// If it is missing or damaged.
pub fn all_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>> {
    let weights = Weights::open(path, device)?;
    weights.names().into_iter().map(|name| Ok((name.clone(), weights.any(&name)?))).collect()
}

fn check_shapes(base: &Base, tensors: &BTreeMap<String, Tensor>, settings: &Settings) -> Result<()> {
    let init = base.text.token_embedding(0)?;
    let of_concept = |fdte, rra| -> Result<BTreeMap<String, Vec<usize>>> {
        let initial = Customisation::initial(&base.unet, &init, fdte, rra)?;
        Ok(initial.into_iter().map(|(name, tensor)| (name, tensor.dims().to_vec())).collect())
    };
    let expected = match settings.training.method {
        MethodName::Eqdiff => of_concept(settings.fdte.enabled, settings.rra.enabled)?,
        MethodName::CustomDiffusion => of_concept(false, false)?,
        MethodName::TextualInversion => BTreeMap::from([(ConceptEmbedding::LOW.to_string(), init.dims().to_vec())]),
        MethodName::DreamBooth => dreambooth::shapes(base, settings.dreambooth.text_encoder)?,
    };
    for (name, shape) in expected {
        match tensors.get(&name) {
            None => bail!("{name} is missing"),
            Some(tensor) if tensor.dims() != shape => {
                bail!("{name} has shape {:?}, expected {shape:?}", tensor.dims())
            }
            Some(tensor) => check_values(&name, tensor)?,
        }
    }
    Ok(())
}

/// Whether a tensor's values are those of something that was trained.
///
/// # Errors
/// If they are not finite, or absurdly large; the message has the name.
pub fn check_values(name: &str, tensor: &Tensor) -> Result<()> {
    let values = tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>()?;
    match values.iter().find(|value| value.is_nan() || value.abs() > LARGEST) {
        Some(value) => bail!("{name} has the value {value}, which is not finite or absurdly large"),
        None => Ok(()),
    }
}

/// Whether pictures of `side` pixels are of a size that anybody trains or draws.
fn check_side(side: usize) -> Result<()> {
    if (8..=8192).contains(&side) { Ok(()) } else { bail!("side = {side}: 8 to 8192 pixels") }
}
