//! A base that has an adapter's tensors for its own.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
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
/// text encoder have names that begin with `text_encoder.`. They may have gigabytes: `go_on` is asked again and again.
///
/// # Errors
/// If the base's files are not at hand, cannot be copied, or lack some of the tensors, or what `go_on` says.
pub(super) fn write(
    base: &Folder,
    file: &str,
    tensors: &BTreeMap<String, Tensor>,
    out: &Path,
    go_on: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let unpacked;
    let written = match base {
        Folder::Single(single) => {
            let target = out.join(file);
            copy(single, &target, go_on)?;
            vec![target]
        }
        Folder::Disk(folder) => copied(folder, out, go_on)?,
        Folder::Embedded(dir) => {
            unpacked = tempfile::tempdir().context("cannot make a temporary folder for the embedded base")?;
            dir.extract(unpacked.path()).context("cannot unpack the embedded base")?;
            copied(unpacked.path(), out, go_on)?
        }
        Folder::Hub(hub) => {
            // in the cache a repository's files lie as they do in it, but for those that nobody has asked for
            let unet = hub.get("unet/config.json")?;
            copied(unet.ancestors().nth(2).context("the hub's cache has no folders")?, out, go_on)?
        }
        Folder::Random => bail!("made-up weights have no files"),
    };
    let [unet, text] = models(tensors.clone());
    let text: BTreeMap<String, Tensor> = text.into_iter().map(|(k, v)| (format!("text_model.{k}"), v)).collect();
    let mut count = 0;
    for path in written {
        go_on()?;
        count += overwrite(&path, &unet)? + overwrite(&path, &text)?;
    }
    if count < tensors.len() {
        bail!("the base has {count} of the {} trained tensors, in safetensors files", tensors.len());
    }
    Ok(())
}

/// Copies a folder in the diffusers layout, without pickles, which would keep the base's own values; gives the files of
/// the UNet and the text encoder.
fn copied(folder: &Path, out: &Path, go_on: &dyn Fn() -> Result<()>) -> Result<Vec<PathBuf>> {
    let mut weights = Vec::new();
    write_index(folder, out)?;
    let defaults = folder.join("eqdiff.toml");
    if defaults.is_file() {
        copy(&defaults, &out.join("eqdiff.toml"), go_on)?;
    }
    for part in FOLDERS {
        let (from, to) = (folder.join(part), out.join(part));
        let context = || format!("cannot read the folder {}", from.display());
        fs::create_dir(&to).with_context(|| format!("cannot make the folder {}", to.display()))?;
        for entry in fs::read_dir(&from).with_context(context)? {
            let path = entry.with_context(context)?.path();
            let kind = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
            if !path.is_file() || !["safetensors", "json", "txt"].contains(&kind.as_str()) {
                continue;
            }
            let target = to.join(path.file_name().unwrap_or_default());
            copy(&path, &target, go_on)?;
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
    write_whole(&out.join(INDEX), text.as_bytes())
}

fn json_of<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let context = || format!("cannot use {}", path.display());
    serde_json::from_str(&read_text(path).with_context(context)?).with_context(context)
}

/// Bytes that are copied at once: a moment's work on any disk.
const PIECE: u64 = 64 << 20;

/// Copies a file's content, and not its permissions: it shall be written to.
fn copy(from: &Path, to: &Path, go_on: &dyn Fn() -> Result<()>) -> Result<()> {
    let context = || format!("cannot copy {} to {}", from.display(), to.display());
    let mut source = fs::File::open(from).with_context(context)?;
    let mut target = fs::File::create(to).with_context(context)?;
    loop {
        go_on()?;
        if std::io::copy(&mut source.by_ref().take(PIECE), &mut target).with_context(context)? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::app::Interrupted;

    #[test]
    fn it_ends_where_it_is_stopped() -> Result<()> {
        let base = Folder::Disk(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/golden/model").into());
        let asked = Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            if asked.get() > 2 { bail!(Interrupted) } else { Ok(()) }
        };
        let out = tempfile::tempdir()?;
        let error = write(&base, "x", &BTreeMap::new(), out.path(), &go_on).unwrap_err();
        assert!(error.is::<Interrupted>() && asked.get() == 3, "{error:#}");
        let out = tempfile::tempdir()?;
        write(&base, "x", &BTreeMap::new(), out.path(), &|| Ok(()))?;
        let file = "unet/diffusion_pytorch_model.safetensors";
        let golden = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/golden/model")).join(file);
        assert!(fs::read(out.path().join(file))? == fs::read(golden)?);
        Ok(())
    }
}
