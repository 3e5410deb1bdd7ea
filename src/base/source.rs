//! Where the files of a model lie: in the program, in a directory, or on the Hugging Face hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;
use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};
use include_dir::{Dir, include_dir};

use super::{MINI, random};
use crate::weights::Weights;

static EMBEDDED: Dir = include_dir!("$CARGO_MANIFEST_DIR/assets/mini");

/// Stable Diffusion 1.4 as its authors published it.
const SD14: &str = "CompVis/stable-diffusion-v1-4";

/// A folder of model files.
pub enum Folder {
    /// Made up: see [`random`].
    Random,
    /// A part of the program.
    Embedded(&'static Dir<'static>),
    /// A directory on disk.
    Disk(PathBuf),
    /// A repository of the hub, or what the local cache has of it.
    Hub(Box<Hub>),
}

/// A repository of the Hugging Face hub.
pub struct Hub {
    id: String,
    cache: PathBuf,
    /// None if nothing may be downloaded.
    remote: Option<ApiRepo>,
}

impl Folder {
    /// `mini`, `sd14`, a directory, or `OWNER/NAME` on the hub.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn find(name: &str, offline: bool) -> Result<Self> {
        if name == MINI {
            return Ok(Self::Embedded(&EMBEDDED));
        }
        if name == random::RANDOM_SD14 {
            return Ok(Self::Random);
        }
        let id = if name == "sd14" { SD14 } else { name };
        if Path::new(id).is_dir() {
            return Ok(Self::Disk(PathBuf::from(id)));
        }
        let hub_like = id.split('/').count() == 2 && id.split('/').all(|part| !part.is_empty() && part != "..");
        if !hub_like || id.starts_with('.') {
            bail!("no base {name:?}: give mini, sd14, OWNER/NAME of the Hugging Face hub, or an existing directory");
        }
        Ok(Self::Hub(Box::new(Hub::new(id, offline)?)))
    }

    /// A folder beside the embedded base.
    ///
    /// # Errors
    /// If the program was built without it.
    pub fn embedded(name: &str) -> Result<Self> {
        EMBEDDED.get_dir(name).map(Self::Embedded).with_context(|| format!("no {name} is embedded in this program"))
    }

    /// Whether files may have to be downloaded.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Hub(_))
    }

    /// The full name of a file, for messages.
    pub fn describe(&self, path: &str) -> String {
        match self {
            Self::Random => format!("{}/{path}", random::RANDOM_SD14),
            Self::Embedded(_) => format!("the embedded {path}"),
            Self::Disk(folder) => folder.join(path).display().to_string(),
            Self::Hub(hub) => format!("{}/{path}", hub.id),
        }
    }

    /// A text file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn text(&self, path: &str) -> Result<String> {
        if let (Self::Random, Some(config)) = (self, random::config(path)) {
            return Ok(config.to_string());
        }
        // the random base borrows the embedded tokenizer
        let embedded = match self {
            Self::Random => Some(&EMBEDDED),
            Self::Embedded(dir) => Some(*dir),
            _ => None,
        };
        if let Some(dir) = embedded {
            let file = dir.get_file(dir.path().join(path)).and_then(|f| f.contents_utf8());
            return file.map(str::to_string).with_context(|| format!("no {path} is embedded in this program"));
        }
        let file = self.on_disk(path)?;
        std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
    }

    /// The safetensors file `stem`.safetensors, or its half-precision variant.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn weights(&self, stem: &str, device: &Device) -> Result<Weights> {
        let name = format!("{stem}.safetensors");
        if let Self::Random = self {
            return Weights::random(&self.describe(&name), device);
        }
        if let Self::Embedded(dir) = self {
            let file = dir.get_file(dir.path().join(&name)).with_context(|| format!("no {name} is embedded"))?;
            return Weights::embedded(&self.describe(&name), file.contents(), device);
        }
        let full = self.on_disk(&name);
        let found = match full {
            Ok(path) => path,
            // f32 is preferred, but a folder with the variant alone serves as well
            Err(error) => self.on_disk(&format!("{stem}.fp16.safetensors")).map_err(|_| error)?,
        };
        Weights::open(&found, device)
    }

    fn on_disk(&self, path: &str) -> Result<PathBuf> {
        match self {
            Self::Random | Self::Embedded(_) => bail!("{path} is not on disk"),
            Self::Disk(folder) => {
                let file = folder.join(path);
                if !file.is_file() {
                    bail!("{} is missing: {} is not a model in the diffusers layout", file.display(), folder.display());
                }
                Ok(file)
            }
            Self::Hub(hub) => hub.get(path),
        }
    }
}

impl Hub {
    fn new(id: &str, offline: bool) -> Result<Self> {
        let cache = cache_folder()?;
        let remote = if offline {
            None
        } else {
            let mut builder = ApiBuilder::from_cache(Cache::new(cache.clone())).with_progress(true);
            if let Ok(token) = std::env::var("HF_TOKEN") {
                builder = builder.with_token(Some(token));
            }
            if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
                builder = builder.with_endpoint(endpoint);
            }
            Some(builder.build().context("cannot set up the download from the Hugging Face hub")?.model(id.to_string()))
        };
        Ok(Self { id: id.to_string(), cache, remote })
    }

    fn get(&self, path: &str) -> Result<PathBuf> {
        if let Some(found) = Cache::new(self.cache.clone()).model(self.id.clone()).get(path) {
            return Ok(found);
        }
        match &self.remote {
            None => Err(anyhow!(
                "{path} of {} is not in {} and --offline forbids its download",
                self.id,
                self.cache.display()
            )),
            Some(remote) => remote.get(path).with_context(|| {
                format!(
                    "cannot download {path} of {} (no network? give a directory in the diffusers layout instead, or \
                     the embedded base with --base mini)",
                    self.id
                )
            }),
        }
    }
}

/// The hub's local cache, found by the rules of the Python tools.
fn cache_folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(cache) = variable("HF_HUB_CACHE") {
        return Ok(cache);
    }
    if let Some(home) = variable("HF_HOME") {
        return Ok(home.join("hub"));
    }
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let cache = cache.or_else(|| variable("USERPROFILE").map(|home| home.join(".cache")));
    Ok(cache.context("set HF_HOME: there is no home folder to keep downloads in")?.join("huggingface/hub"))
}
