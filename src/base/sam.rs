//! Finding and loading Segment Anything.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use candle_core::Device;

use super::hub::Hub;
use crate::model::Sam;
use crate::weights::Weights;

/// The repository of the published weights as safetensors, under the names of the program that candle shows them with.
const REPOSITORY: &str = "lmz/candle-sam";

/// What its files are called here.
const PUBLISHED: [(&str, &str); 2] =
    [("mobile", "mobile_sam-tiny-vitt.safetensors"), ("vit-b", "sam_vit_b_01ec64.safetensors")];

/// Loads `mobile` (MobileSAM) or `vit-b` from the hub or its local cache, or a file with the published names: safetensors, or the
/// pickle as it is published.
///
/// # Errors
/// If there is no such file, or it is damaged or something else; the message names it.
pub fn load_sam(name: &str, offline: bool, device: &Device) -> Result<Sam> {
    let published = PUBLISHED.iter().find(|(short, _)| *short == name);
    let file = match published {
        Some((_, file)) => Hub::new(REPOSITORY, offline)?
            .get_or(file, || "no network? give the file itself, .safetensors or .pth".into())?,
        None => PathBuf::from(name),
    };
    let names = PUBLISHED.map(|(short, _)| short).join(", ");
    ensure!(published.is_some() || Path::new(name).is_file(), "{name} is no file: give {names}, or a file");
    let weights = Weights::open_or_unpickle(&file, device)?;
    Sam::load(&weights).with_context(|| format!("cannot load Segment Anything from {}", file.display()))
}
