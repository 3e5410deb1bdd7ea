//! Bases with an adapter's keys and values in the place of their own: copies of safetensors files in which nothing but those
//! values differ, in whatever precision they are stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata};

use crate::weights::Part;

/// Writes those of `tensors` over their namesakes in the safetensors file `path`, whose names may be today's or those of the
/// original layout; gives how many there were.
///
/// # Errors
/// If the file is damaged, cannot be written, or has a tensor of another shape or type.
pub fn overwrite(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<usize> {
    overwrite_in(path, tensors).with_context(|| format!("cannot put keys and values into {}", path.display()))
}

fn overwrite_in(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<usize> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let (start, metadata) = header(&mut file)?;
    let stored = metadata.tensors();
    let names: Vec<&str> = stored.keys().map(String::as_str).collect();
    let original = Part::Unet.names(&names);
    let original: BTreeMap<&str, &str> = original.iter().map(|(now, then)| (now.as_str(), *then)).collect();
    let mut count = 0;
    for (name, tensor) in tensors {
        let Some(info) = stored.get(original.get(name.as_str()).copied().unwrap_or(name)) else { continue };
        if info.shape != tensor.dims() {
            bail!("{name} has shape {:?} there, {:?} in the adapter", info.shape, tensor.dims());
        }
        file.seek(SeekFrom::Start(start + info.data_offsets.0 as u64))?;
        file.write_all(&encoded(tensor, info.dtype).with_context(|| name.clone())?)?;
        count += 1;
    }
    file.sync_all()?;
    Ok(count)
}

/// Where the tensors' bytes begin, and what the file says of them.
fn header(file: &mut File) -> Result<(u64, Metadata)> {
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let (length, whole) = (u64::from_le_bytes(length), file.metadata()?.len());
    if length > whole {
        bail!("it is no safetensors file, or cut short");
    }
    let mut bytes = vec![0; 8 + length as usize];
    file.rewind()?;
    file.read_exact(&mut bytes)?;
    let metadata: Metadata = serde_json::from_slice(&bytes[8..])?;
    let start = 8 + length;
    if metadata.tensors().values().any(|info| start + info.data_offsets.1 as u64 > whole) {
        bail!("it is cut short");
    }
    Ok((start, metadata))
}

/// A tensor's bytes.
fn encoded(tensor: &Tensor, dtype: Dtype) -> Result<Vec<u8>> {
    let as_type = |dtype| -> Result<Tensor> { Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(dtype)?) };
    Ok(match dtype {
        Dtype::F32 => as_type(DType::F32)?.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::F16 => as_type(DType::F16)?.to_vec1::<half::f16>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Dtype::BF16 => as_type(DType::BF16)?.to_vec1::<half::bf16>()?.iter().flat_map(|x| x.to_le_bytes()).collect(),
        other => bail!("{other:?} is no type of weights"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_namesakes_change() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("unet.safetensors");
        let device = Device::Cpu;
        let now = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight";
        let then = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight";
        let tuned = BTreeMap::from([(now.to_string(), Tensor::new(&[[1.5f32, -2.]], &device)?)]);
        for (name, dtype) in [(now, DType::F32), (now, DType::F16), (then, DType::BF16)] {
            let before = Tensor::zeros((1, 2), dtype, &device)?;
            // the original layout is known by its downsamplers
            let op = "model.diffusion_model.input_blocks.3.0.op.weight";
            let file = [(name, before.clone()), ("other", before.clone()), (op, before)];
            let file = file.map(|(name, tensor)| (name.to_string(), tensor)).into_iter().collect();
            candle_core::safetensors::save(&file, &path)?;
            assert_eq!(overwrite(&path, &tuned)?, 1, "{name}");
            let after = candle_core::safetensors::load(&path, &device)?;
            assert_eq!(after[name].to_dtype(DType::F32)?.to_vec2::<f32>()?, [[1.5, -2.]]);
            assert_eq!(
                (after[name].dtype(), after["other"].to_dtype(DType::F32)?.to_vec2::<f32>()?),
                (dtype, vec![vec![0.; 2]])
            );
        }
        let wide = BTreeMap::from([("other".to_string(), Tensor::zeros((1, 3), DType::F32, &device)?)]);
        let said = overwrite(&path, &wide).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(said.contains("unet.safetensors") && said.contains("[1, 3]"), "{said}");
        std::fs::write(&path, b"no tensors at all")?;
        assert!(overwrite(&path, &tuned).is_err());
        Ok(())
    }
}
