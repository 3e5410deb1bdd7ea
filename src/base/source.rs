//! Where the files of a model lie: in the program, in a directory, in one file, or on the Hugging Face hub.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Device;
use include_dir::{Dir, include_dir};

use super::hub::{self, Hub};
use super::{MINI, sd1};
use crate::images::typed;
use crate::weights::{self, Part, Weights, foreign};

static EMBEDDED: Dir = include_dir!("$CARGO_MANIFEST_DIR/assets/mini");

/// Stable Diffusion 1.4 as its authors published it.
const SD14: &str = "CompVis/stable-diffusion-v1-4";

/// A model of a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// The folder and the files' names up to the ending.
    pub stem: &'static str,
    /// Which part of a single file it is, if there are single files with it.
    pub part: Option<Part>,
}

/// A folder of model files.
pub enum Folder {
    /// Made up: see `sd1`.
    Random,
    /// A part of the program.
    Embedded(&'static Dir<'static>),
    /// A directory on disk.
    Disk(PathBuf),
    /// One file in the original layout.
    Single(PathBuf),
    /// A repository of the hub, or what the local cache has of it.
    Hub(Box<Hub>),
}

impl Folder {
    /// `mini`, `sd14`, a directory, a file in the original layout, or `OWNER/NAME` on the hub. Nothing is asked from the
    /// network yet.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn find(name: &str, offline: bool) -> Result<Self> {
        if name == MINI {
            return Ok(Self::Embedded(&EMBEDDED));
        }
        if name == sd1::RANDOM_SD14 {
            return Ok(Self::Random);
        }
        let id = if name == "sd14" { SD14 } else { name };
        let path = Path::new(id);
        if path.is_dir() {
            return Ok(Self::Disk(path.to_path_buf()));
        }
        if path.is_file() {
            return Ok(Self::Single(path.to_path_buf()));
        }
        let named_so =
            foreign(path).is_some() || path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors"));
        if named_so || !hub::is_id(id) {
            bail!(
                "no base {name:?}: there is no such file or directory; give mini, sd14, OWNER/NAME of the Hugging Face \
                 hub, a directory in the diffusers layout or a safetensors file"
            );
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
            Self::Random => format!("{}/{path}", sd1::RANDOM_SD14),
            Self::Embedded(_) => format!("the embedded {path}"),
            Self::Disk(folder) => folder.join(path).display().to_string(),
            Self::Single(file) => match beside(file, path) {
                Some(found) => found.display().to_string(),
                None => format!("Stable Diffusion 1.x's {path} for {}", file.display()),
            },
            Self::Hub(hub) => format!("{}/{path}", hub.id()),
        }
    }

    /// Whether there is a file of that name here already.
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Embedded(dir) => dir.get_file(dir.path().join(path)).is_some(),
            Self::Disk(folder) => folder.join(path).exists(),
            Self::Random | Self::Single(_) | Self::Hub(_) => false,
        }
    }

    /// A text file.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn text(&self, path: &str) -> Result<String> {
        let config = match self {
            Self::Random => sd1::config(path),
            Self::Single(file) if beside(file, path).is_none() => sd1::config(path),
            _ => None,
        };
        if let Some(config) = config {
            return match self {
                Self::Single(file) if path == sd1::SCHEDULER_FILE => Ok(schedule(file).unwrap_or(config.to_string())),
                _ => Ok(config.to_string()),
            };
        }
        if let Self::Embedded(dir) = self {
            let file = dir.get_file(dir.path().join(path)).and_then(|f| f.contents_utf8());
            return file.map(str::to_string).with_context(|| format!("no {path} is embedded in this program"));
        }
        weights::text(&self.on_disk(path)?)
    }

    /// Whether there is no tokenizer: in random weights, or beside a single file, where repositories have one.
    pub fn lacks_tokenizer(&self) -> bool {
        match self {
            Self::Random => true,
            Self::Single(file) => !file.with_file_name("tokenizer").is_dir(),
            _ => false,
        }
    }

    /// The tensors of a model.
    ///
    /// # Errors
    /// If there are none, or a file is damaged.
    pub fn weights(&self, model: Model, device: &Device) -> Result<Weights> {
        let names = candidates(model);
        let found = match self {
            Self::Random => return Ok(Weights::random(&self.describe(&names[0]), device)),
            Self::Embedded(dir) => {
                let file = &names[0];
                let found = dir.get_file(dir.path().join(file)).with_context(|| format!("no {file} is embedded"))?;
                return Weights::embedded(&self.describe(file), found.contents(), device);
            }
            Self::Single(file) => {
                let part = model.part.with_context(|| format!("{} is a file, not a folder", file.display()))?;
                return Weights::original(file, part, device);
            }
            Self::Disk(_) => match self.present(&names).first() {
                Some(name) => self.on_disk(name)?,
                None => return Err(self.missing(&names[0])),
            },
            Self::Hub(hub) => hub.first(&names)?,
        };
        match found.extension().and_then(|ending| ending.to_str()) {
            Some("json") => {}
            Some("bin") => return Weights::open_or_unpickle(&found, device),
            _ => return Weights::open(&found, device),
        }
        let folder = model.stem.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        Weights::sharded(&found, |shard| self.on_disk(&format!("{folder}{shard}")), device)
    }

    /// Which of several files with the same model is used, if there are several.
    pub fn choice(&self, model: Model) -> Option<String> {
        match &self.present(&candidates(model))[..] {
            [first, others @ ..] if !others.is_empty() => {
                Some(format!("{} is used, not {}", self.describe(first), others.join(", ")))
            }
            _ => None,
        }
    }

    fn present(&self, names: &[String]) -> Vec<String> {
        let Self::Disk(folder) = self else { return Vec::new() };
        names.iter().filter(|name| folder.join(name).is_file()).cloned().collect()
    }

    fn on_disk(&self, path: &str) -> Result<PathBuf> {
        match self {
            Self::Random | Self::Embedded(_) => bail!("{path} is not on disk"),
            Self::Disk(folder) => {
                let file = folder.join(path);
                if file.is_file() { Ok(file) } else { Err(self.missing(path)) }
            }
            Self::Single(file) => beside(file, path).with_context(|| format!("no {path} beside {}", file.display())),
            Self::Hub(hub) => hub.get(path),
        }
    }

    /// Why `path` is not there, and what is there instead.
    fn missing(&self, path: &str) -> anyhow::Error {
        let full = PathBuf::from(self.describe(path));
        let inside = |folder: &Path| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
            files.sort();
            files
        };
        let weights = path.ends_with(".safetensors");
        let neighbours = full.parent().filter(|_| weights).map(inside).unwrap_or_default();
        let other = neighbours.iter().find_map(|file| foreign(file).map(|what| (file, what)));
        if let Some((file, what)) = other {
            return anyhow::anyhow!("{} is missing, and {} is {what}", full.display(), file.display());
        }
        let Self::Disk(folder) = self else { return anyhow::anyhow!("{} is missing", full.display()) };
        let whole = inside(folder)
            .into_iter()
            .find(|file| file.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")));
        let hint = match whole {
            Some(file) if !folder.join("model_index.json").is_file() => {
                format!(" (is the base the file in it, --base {}?)", typed(file))
            }
            _ => String::new(),
        };
        anyhow::anyhow!(
            "{} is missing: {} is not a model in the diffusers layout{hint}",
            full.display(),
            folder.display()
        )
    }
}

/// A file where repositories have it that also hold a single file.
fn beside(file: &Path, path: &str) -> Option<PathBuf> {
    Some(file.with_file_name(path)).filter(|path| path.is_file())
}

/// The schedule of a single file that predicts v: a tensor in it says so, or the configuration of the original
/// programs, which has its name.
fn schedule(file: &Path) -> Option<String> {
    let weights = Weights::open(file, &Device::Cpu).ok()?;
    let original = std::fs::read_to_string(file.with_extension("yaml")).unwrap_or_default();
    let value =
        |line: &str| Some(line.trim().strip_prefix("parameterization:")?.trim().trim_matches(['"', '\'']) == "v");
    if !weights.has("v_pred") && !original.lines().filter_map(value).any(|is_v| is_v) {
        return None;
    }
    let json = serde_json::json!({"prediction_type": "v_prediction", "rescale_betas_zero_snr": weights.has("ztsnr")});
    Some(json.to_string())
}

/// The files that may hold a model. f32 is preferred, but what is there in half precision, in shards or without the moving
/// average serves as well. Models that are no part of a base may be a pickle, as some encoders are published: they are small
/// enough to be read as a whole, while a base is asked for tensor by tensor.
fn candidates(model: Model) -> Vec<String> {
    let endings = [
        ".safetensors",
        ".safetensors.index.json",
        ".fp16.safetensors",
        ".safetensors.index.fp16.json",
        ".non_ema.safetensors",
    ];
    let mut files: Vec<String> = endings.iter().map(|ending| format!("{}{ending}", model.stem)).collect();
    let folder = model.stem.strip_suffix("model").filter(|_| model.part.is_none());
    files.extend(folder.map(|folder| format!("{folder}pytorch_model.bin")));
    files
}

#[cfg(test)]
mod tests {
    use anyhow::Result;

    use super::*;
    use crate::model::Scheduler;

    #[test]
    fn encoders_may_be_pickles() -> Result<()> {
        let place = tempfile::tempdir()?;
        let toy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pickles/toy.pt");
        std::fs::copy(&toy, place.path().join("pytorch_model.bin"))?;
        let folder = Folder::Disk(place.path().to_path_buf());
        let encoder = Model { stem: "model", part: None };
        let names = folder.weights(encoder, &Device::Cpu)?.names();
        assert_eq!(names, Weights::open_or_unpickle(&toy, &Device::Cpu)?.names());
        let text = folder.weights(Model { part: Some(Part::Text), ..encoder }, &Device::Cpu).map(|_| ());
        assert!(text.is_err_and(|error| error.to_string().contains("pickle")));
        std::fs::write(place.path().join("model.safetensors"), "")?;
        assert!(folder.weights(encoder, &Device::Cpu).is_err(), "safetensors come first");
        Ok(())
    }

    #[test]
    fn single_files_may_predict_v() -> Result<()> {
        let place = tempfile::tempdir()?;
        let file = place.path().join("x.safetensors");
        let predicts_v = |tensors: &[&str]| -> Result<bool> {
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![0], &[])?;
            std::fs::write(&file, safetensors::serialize(tensors.iter().map(|name| (name, view.clone())), None)?)?;
            let text = Folder::Single(file.clone()).text(sd1::SCHEDULER_FILE)?;
            Scheduler::from_json(&text)?;
            Ok(text.contains("v_prediction"))
        };
        assert!(!predicts_v(&["x"])? && predicts_v(&["v_pred"])? && predicts_v(&["v_pred", "ztsnr"])?);
        for (yaml, v) in
            [("    parameterization: \"v\"\n", true), ("  parameterization: eps\n", false), ("x: v\n", false)]
        {
            std::fs::write(file.with_extension("yaml"), format!("model:\n{yaml}"))?;
            assert_eq!(predicts_v(&["x"])?, v, "{yaml}");
        }
        Ok(())
    }
}
