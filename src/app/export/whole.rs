//! Whole models that were trained, in the diffusers layout.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::{DType, Tensor};

use crate::adapter::serialised;
use crate::base::Folder;
use crate::files::{make_folder, stage_folder, write_whole};
use crate::method::dreambooth::models;
use crate::ops::Precision;

/// Writes the UNet of an adapter's `tensors`, and the text encoder if it was trained, with their configurations, and `page`
/// beside them. In half precision they take half the room.
///
/// # Errors
/// If something cannot be written.
pub(super) fn write(
    base: &Folder,
    tensors: BTreeMap<String, Tensor>,
    precision: Precision,
    (page, text): (&str, &[u8]),
    out: &Path,
) -> Result<PathBuf> {
    let staged = stage_folder(out)?;
    let dtype = match precision {
        Precision::F32 | Precision::Tf32 => DType::F32,
        Precision::F16 => DType::F16,
        Precision::Bf16 => DType::BF16,
    };
    let [unet, encoder] = models(tensors);
    let prefixed = encoder.into_iter().map(|(name, tensor)| (format!("text_model.{name}"), tensor)).collect();
    for (folder, stem, tensors) in [("unet", "diffusion_pytorch_model", unet), ("text_encoder", "model", prefixed)] {
        if tensors.is_empty() {
            continue;
        }
        let tensors: BTreeMap<String, Tensor> =
            tensors.into_iter().map(|(name, tensor)| Ok((name, tensor.to_dtype(dtype)?))).collect::<Result<_>>()?;
        let place = staged.path().join(folder);
        make_folder(&place)?;
        write_whole(&place.join(format!("{stem}.safetensors")), &serialised(&tensors, &[("format", "pt".into())])?)?;
        write_whole(&place.join("config.json"), base.text(&format!("{folder}/config.json"))?.as_bytes())?;
    }
    write_whole(&staged.path().join(page), text)?;
    staged.place(out)?.with_context(|| format!("{} is there already", out.display()))
}
