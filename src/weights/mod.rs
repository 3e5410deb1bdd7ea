//! Reading safetensors checkpoints by the names of their tensors.

mod random;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device, Tensor};
use half::f16;
use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use crate::ops::Precision;

/// The tensors of one safetensors file, or those under a prefix of their names.
///
/// Whatever precision is stored (f32, f16, bf16), tensors come out in f32.
#[derive(Clone)]
pub struct Weights {
    file: Arc<Checkpoint>,
    prefix: String,
    device: Device,
    precision: Precision,
}

struct Checkpoint {
    name: String,
    bytes: Bytes,
    metadata: Metadata,
    data_start: usize,
}

enum Bytes {
    Embedded(&'static [u8]),
    Mapped(Mmap),
    /// None: every tensor that is asked for is made up.
    Random,
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Embedded(bytes) => bytes,
            Bytes::Mapped(map) => map,
            Bytes::Random => &[],
        }
    }
}

impl Weights {
    /// Opens a file on disk; its pages are read when tensors are asked for.
    ///
    /// # Errors
    /// If the file cannot be read, is cut short, or is not safetensors; the message names it.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        let name = path.display().to_string();
        if path.extension().is_some_and(|e| e == "bin" || e == "ckpt" || e == "pt" || e == "pth") {
            bail!("{name} is a Python pickle, which may run code when it is opened: convert it to safetensors first");
        }
        let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
        // SAFETY: a map is undefined behaviour only if another process cuts the file while we read it;
        // checkpoints are written under a temporary name and renamed.
        let map = unsafe { Mmap::map(&file) }.with_context(|| format!("cannot read {name}"))?;
        Self::new(name, Bytes::Mapped(map), device)
    }

    /// Weights that are part of the program.
    ///
    /// # Errors
    /// If `bytes` are not safetensors.
    pub fn embedded(name: &str, bytes: &'static [u8], device: &Device) -> Result<Self> {
        Self::new(name.to_string(), Bytes::Embedded(bytes), device)
    }

    /// Random weights for every tensor that a model of today's layout asks for.
    ///
    /// # Errors
    /// Never; the library that reads metadata could.
    pub fn random(name: &str, device: &Device) -> Result<Self> {
        let metadata = Metadata::new(None, Vec::new())?;
        Ok(Self::of(Checkpoint { name: name.into(), bytes: Bytes::Random, metadata, data_start: 0 }, device))
    }

    fn of(file: Checkpoint, device: &Device) -> Self {
        Self { file: Arc::new(file), prefix: String::new(), device: device.clone(), precision: Precision::F32 }
    }

    fn is_random(&self) -> bool {
        matches!(self.file.bytes, Bytes::Random)
    }

    fn new(name: String, bytes: Bytes, device: &Device) -> Result<Self> {
        let slice = bytes.as_slice();
        let damaged = || format!("{name} is not a whole safetensors file (cut short by a broken download?)");
        SafeTensors::deserialize(slice).with_context(damaged)?;
        let (header, metadata) = SafeTensors::read_metadata(slice).with_context(damaged)?;
        let file = Checkpoint { name, bytes, metadata, data_start: header + 8 };
        Ok(Self::of(file, device))
    }

    /// The tensors below `name`.
    pub fn pp(&self, name: impl fmt::Display) -> Self {
        Self { prefix: self.full(&name.to_string()), ..self.clone() }
    }

    /// The same tensors for layers that keep their weights in `precision`.
    pub fn kept_in(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// How layers shall keep their weights; tensors come out in f32 all the same.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The file that the tensors come from.
    pub fn file(&self) -> &str {
        &self.file.name
    }

    /// The prefix of this view, e.g. `mid_block.attentions.0`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Names of all tensors of the file.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.file.metadata.tensors().into_keys().collect();
        names.sort();
        names
    }

    /// Whether there is a tensor of that name, or one below it.
    pub fn has(&self, name: &str) -> bool {
        if self.is_random() {
            return random::has(name);
        }
        let full = self.full(name);
        let below = format!("{full}.");
        self.file.metadata.info(&full).is_some()
            || self.file.metadata.tensors().keys().any(|key| key.starts_with(&below))
    }

    /// The tensor `name` of exactly that shape, in f32.
    ///
    /// # Errors
    /// If it is missing or has another shape; the message has both shapes and the file.
    pub fn get(&self, shape: &[usize], name: &str) -> candle_core::Result<Tensor> {
        if self.is_random() {
            return random::tensor(&self.full(name), shape)?.to_device(&self.device);
        }
        let tensor = self.any(name)?;
        if tensor.dims() != shape {
            let full = self.full(name);
            candle_core::bail!("{full} in {} has shape {:?}, expected {shape:?}", self.file.name, tensor.dims());
        }
        Ok(tensor)
    }

    /// A matrix that some writers store as a 1x1 convolution: [out, in] or [out, in, 1, 1].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn matrix(&self, (rows, columns): (usize, usize), name: &str) -> candle_core::Result<Tensor> {
        if self.shape(name).is_some_and(|shape| shape == [rows, columns, 1, 1]) {
            return self.any(name)?.reshape((rows, columns));
        }
        self.get(&[rows, columns], name)
    }

    /// The tensor `name` whatever its shape, floats in f32 and integers as they are.
    ///
    /// # Errors
    /// If it is missing or of a type that has no use here.
    pub fn any(&self, name: &str) -> candle_core::Result<Tensor> {
        let full = self.full(name);
        let Some(info) = self.file.metadata.info(&full) else {
            candle_core::bail!("{full} is missing in {}", self.file.name);
        };
        let (start, end) = info.data_offsets;
        let bytes = &self.file.bytes.as_slice()[self.file.data_start + start..self.file.data_start + end];
        let dtype = match info.dtype {
            safetensors::Dtype::BOOL => DType::U8,
            dtype => DType::try_from(dtype)
                .map_err(|_| candle_core::Error::Msg(format!("{full} in {} is {dtype:?}", self.file.name)))?,
        };
        let tensor = Tensor::from_raw_buffer(bytes, dtype, &info.shape, &Device::Cpu)?;
        let tensor = if dtype.is_float() { tensor.to_dtype(DType::F32)? } else { tensor };
        tensor.to_device(&self.device)
    }

    /// The shape of `name`, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.file.metadata.info(&self.full(name)).map(|info| info.shape.as_slice())
    }

    /// The first `count` values of a tensor in half precision, without reading the rest.
    ///
    /// # Errors
    /// As [`any`](Self::any).
    pub fn first_values(&self, name: &str, count: usize) -> candle_core::Result<Vec<f16>> {
        let full = self.full(name);
        let Some(info) = self.file.metadata.info(&full) else {
            candle_core::bail!("{full} is missing in {}", self.file.name);
        };
        let bytes = &self.file.bytes.as_slice()[self.file.data_start + info.data_offsets.0..];
        let elements = info.shape.iter().product::<usize>().min(count);
        Ok(match info.dtype {
            safetensors::Dtype::F32 => {
                bytes.as_chunks().0.iter().take(elements).map(|b| f16::from_f32(f32::from_le_bytes(*b))).collect()
            }
            safetensors::Dtype::F16 => {
                bytes.as_chunks().0.iter().take(elements).map(|b| f16::from_le_bytes(*b)).collect()
            }
            safetensors::Dtype::BF16 => bytes
                .as_chunks()
                .0
                .iter()
                .take(elements)
                .map(|b| f16::from_f32(half::bf16::from_le_bytes(*b).to_f32()))
                .collect(),
            _ => Vec::new(),
        })
    }

    /// The device that tensors are put on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_string() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_tensor_shapes_and_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("unet.safetensors");
        let tensor = Tensor::zeros((2, 3), DType::F16, &Device::Cpu)?;
        candle_core::safetensors::save(&[("conv_in.weight", tensor)].into(), &path)?;
        let weights = Weights::open(&path, &Device::Cpu)?.pp("conv_in");
        assert_eq!(weights.get(&[2, 3], "weight")?.dtype(), DType::F32);
        let error = weights.get(&[3, 2], "weight").unwrap_err().to_string();
        for part in ["conv_in.weight", "[2, 3]", "[3, 2]", "unet.safetensors"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(weights.get(&[3], "bias").unwrap_err().to_string().contains("conv_in.bias is missing"));
        let bytes = std::fs::read(&path)?;
        std::fs::write(&path, &bytes[..bytes.len() - 4])?;
        let error = Weights::open(&path, &Device::Cpu).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(error.contains("unet.safetensors"), "{error}");
        Ok(())
    }
}
