//! A base that has an adapter's tensors for its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::adapter::formats::merged::overwrite;
use crate::base::Folder;
use crate::files::{read_text, write_whole};
use crate::method::dreambooth::models;

/// What says of a base in the diffusers layout which parts it has.
const INDEX: &str = "model_index.json";

/// The parts.
const FOLDERS: [&str; 5] = ["unet", "vae", "text_encoder", "tokenizer", "scheduler"];

/// Those of them that training may change.
const TRAINED: [&str; 2] = ["unet", "text_encoder"];

/// Copies the files of `base` into the folder `out`, in the layout that they have, and puts `tensors` into them; those of a
/// text encoder have names that begin with `text_encoder.`.
///
/// # Errors
/// If the base's files are not at hand, cannot be copied, or lack some of the tensors.
pub(super) fn write(base: &Folder, file: &str, tensors: &BTreeMap<String, Tensor>, out: &Path) -> Result<()> {
    let unpacked;
    let written = match base {
        Folder::Single(single) => {
            let target = out.join(file);
            copy(single, &target)?;
            vec![target]
        }
        Folder::Disk(folder) => copied(folder, out)?,
        Folder::Embedded(dir) => {
            unpacked = tempfile::tempdir().context("cannot make a temporary folder for the embedded base")?;
            dir.extract(unpacked.path()).context("cannot unpack the embedded base")?;
            copied(unpacked.path(), out)?
        }
        Folder::Hub(hub) => {
            // in the cache a repository's files lie as they do in it, but for those that nobody has asked for
            let unet = hub.get("unet/config.json")?;
            copied(unet.ancestors().nth(2).context("the hub's cache has no folders")?, out)?
        }
        Folder::Random => bail!("made-up weights have no files"),
    };
    let [unet, text] = models(tensors.clone());
    let text: BTreeMap<String, Tensor> = text.into_iter().map(|(k, v)| (format!("text_model.{k}"), v)).collect();
    let mut count = 0;
    for path in written {
        count += overwrite(&path, &unet)? + overwrite(&path, &text)?;
    }
    if count < tensors.len() {
        bail!("the base has {count} of the {} trained tensors, in safetensors files", tensors.len());
    }
    Ok(())
}

/// Copies a folder in the diffusers layout, without pickles, which would keep the base's own values; gives the files of
/// the UNet and the text encoder.
fn copied(folder: &Path, out: &Path) -> Result<Vec<PathBuf>> {
    let mut weights = Vec::new();
    write_index(folder, out)?;
    let defaults = folder.join("eqdiff.toml");
    if defaults.is_file() {
        copy(&defaults, &out.join("eqdiff.toml"))?;
    }
    for part in FOLDERS {
        let (from, to) = (folder.join(part), out.join(part));
        let context = || format!("cannot read the folder {}", from.display());
        fs::create_dir(&to).with_context(|| format!("cannot make the folder {}", to.display()))?;
        for entry in fs::read_dir(&from).with_context(context)? {
            let path = entry.with_context(context)?.path();
            let kind = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if !path.is_file() || !["safetensors", "json", "txt"].contains(&kind) {
                continue;
            }
            let target = to.join(path.file_name().unwrap_or_default());
            copy(&path, &target)?;
            if TRAINED.contains(&part) && kind == "safetensors" {
                weights.push(target);
            }
        }
    }
    let (length, tokenizer) = (out.join("text_encoder/config.json"), out.join("tokenizer/tokenizer_config.json"));
    if !tokenizer.exists() {
        // without it transformers' tokenizer fills texts up to no length at all
        let config: Value = json_of(&length)?;
        let told = json!({"tokenizer_class": "CLIPTokenizer", "model_max_length": config["max_position_embeddings"]});
        write_whole(&tokenizer, told.to_string().as_bytes())?;
    }
    Ok(weights)
}

/// Writes what pipelines of diffusers go by: the base's own where it has it, without the parts that are not copied.
fn write_index(folder: &Path, out: &Path) -> Result<()> {
    let path = folder.join(INDEX);
    let mut index: Map<String, Value> = if path.is_file() {
        json_of(&path)?
    } else {
        let scheduler: Value = json_of(&folder.join("scheduler/scheduler_config.json"))?;
        let scheduler = scheduler["_class_name"].as_str().unwrap_or("DDIMScheduler");
        let parts = [
            ("unet", ["diffusers", "UNet2DConditionModel"]),
            ("vae", ["diffusers", "AutoencoderKL"]),
            ("text_encoder", ["transformers", "CLIPTextModel"]),
            ("tokenizer", ["transformers", "CLIPTokenizer"]),
            ("scheduler", ["diffusers", scheduler]),
        ];
        let parts = parts.map(|(part, class)| (part.to_string(), json!(class)));
        parts.into_iter().chain([("_class_name".into(), json!("StableDiffusionPipeline"))]).collect()
    };
    let absent = ["safety_checker", "feature_extractor"].map(String::from);
    index.extend(absent.map(|part| (part, Value::Null)));
    for (part, class) in &mut index {
        if (class.is_array() || class.is_null()) && !FOLDERS.contains(&part.as_str()) {
            *class = json!([null, null]);
        }
    }
    index.insert("requires_safety_checker".into(), json!(false));
    let text = serde_json::to_string_pretty(&index).context("cannot write the index")?;
    Ok(write_whole(&out.join(INDEX), text.as_bytes())?)
}

fn json_of<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let context = || format!("cannot use {}", path.display());
    serde_json::from_str(&read_text(path).with_context(context)?).with_context(context)
}

/// Copies a file's content, and not its permissions: it shall be written to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = || std::io::copy(&mut fs::File::open(from)?, &mut fs::File::create(to)?);
    copied().with_context(|| format!("cannot copy {} to {}", from.display(), to.display())).map(drop)
}
