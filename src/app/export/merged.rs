//! A base that has an adapter's tensors for its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;

use crate::adapter::formats::merged::overwrite;
use crate::base::Folder;
use crate::method::dreambooth::models;

/// What a base in the diffusers layout is told by.
const INDEX: &str = "model_index.json";

/// What it consists of beside that.
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
            // in the cache a repository's files lie as they do in it
            let index = hub.get(INDEX)?;
            copied(index.parent().context("the hub's cache has no folders")?, out)?
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
    for name in [INDEX, "eqdiff.toml"].map(|name| folder.join(name)).iter().filter(|path| path.is_file()) {
        copy(name, &out.join(name.file_name().unwrap_or_default()))?;
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
    Ok(weights)
}

/// Copies a file's content, and not its permissions: it shall be written to.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = || std::io::copy(&mut fs::File::open(from)?, &mut fs::File::create(to)?);
    copied().with_context(|| format!("cannot copy {} to {}", from.display(), to.display())).map(drop)
}
