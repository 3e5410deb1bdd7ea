//! Reading safetensors checkpoints by the names of their tensors.

mod builder;
mod checkpoint;
mod foreign;
mod header;
mod lora;
mod original;
mod pickle;
mod random;
mod source;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{Device, Tensor};
use half::f16;

use crate::ops::Precision;
use checkpoint::Checkpoint;
use source::Source;
use values::Failure;

pub use foreign::by_name as foreign;
pub use header::text as header_text;
pub use lora::{Lora, with_loras};
pub use original::Part;
pub use source::text;

/// The tensors of one checkpoint, or those under a prefix of their names.
///
/// Whatever precision is stored (f32, f16, bf16), tensors come out in f32. Each is read from its file when it is asked
/// for, and nothing of the file stays in memory.
#[derive(Clone)]
pub struct Weights {
    file: Arc<Checkpoint>,
    prefix: String,
    device: Device,
    precision: Precision,
    /// Every tensor that is asked for is made up.
    random: bool,
    /// What is added to the tensors of a model.
    loras: Option<(Part, Arc<[Lora]>)>,
    /// What comes in the place of its namesakes.
    replaced: Arc<BTreeMap<String, Tensor>>,
}

impl Weights {
    /// Opens a file on disk and checks what it says of its tensors.
    ///
    /// # Errors
    /// If the file cannot be read, is cut short, or is not safetensors; the message names it.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Ok(Self::of(Checkpoint::open(path)?, device))
    }

    /// Opens a checkpoint in several files. `index` says which tensor is in which, and `find` where a file lies.
    ///
    /// # Errors
    /// As [`open`](Self::open), also if a file or a tensor in it is missing.
    pub fn sharded(index: &Path, find: impl Fn(&str) -> Result<PathBuf>, device: &Device) -> Result<Self> {
        Ok(Self::of(Checkpoint::sharded(index, find)?, device))
    }

    /// Opens one model of a single file for all of Stable Diffusion 1.x, its tensors under today's names.
    ///
    /// # Errors
    /// As [`open`](Self::open), also if the file is something else; the message says what.
    pub fn original(path: &Path, part: Part, device: &Device) -> Result<Self> {
        Ok(Self::of(Checkpoint::open(path)?.part(part)?, device))
    }

    /// Weights that are part of the program.
    ///
    /// # Errors
    /// If `bytes` are not safetensors.
    pub fn embedded(name: &str, bytes: &'static [u8], device: &Device) -> Result<Self> {
        Ok(Self::of(Checkpoint::of(name.to_string(), Source::Embedded(bytes))?, device))
    }

    /// A safetensors file, or a pickled dictionary of tensors, as PyTorch writes it. The pickle's instructions are read, not
    /// run; what they do not say of tensors is left out.
    ///
    /// # Errors
    /// As [`open`](Self::open), also if it is empty, or a pickle holds no tensors.
    pub fn open_or_unpickle(path: &Path, device: &Device) -> Result<Self> {
        let name = path.display().to_string();
        let source = Source::open(path).with_context(|| format!("cannot open {name}"))?;
        ensure!(source.len() > 0, "the file {name} is empty (an incomplete copy?)");
        let mut start = [0; 64];
        let start = &mut start[..source.len().min(64) as usize];
        source.read(start, 0).with_context(|| format!("cannot read {name}"))?;
        if !pickle::begins(start) {
            // what it is tells more than what it is called; a header of safetensors may begin like anything
            if foreign(path).is_some() {
                foreign::refuse(start).with_context(|| format!("the file {name} cannot be used"))?;
            }
            return Self::open(path, device);
        }
        let tensors = pickle::tensors(path).with_context(|| format!("the pickle {name} cannot be used"))?;
        ensure!(!tensors.is_empty(), "the pickle {name} holds no tensors");
        let source = Source::Made(safetensors::serialize(tensors, None)?);
        Ok(Self::of(Checkpoint::of(name, source)?, device))
    }

    /// Random weights for every tensor that a model of today's layout asks for.
    pub fn random(name: &str, device: &Device) -> Self {
        Self { random: true, ..Self::of(Checkpoint::empty(name), device) }
    }

    fn of(file: Checkpoint, device: &Device) -> Self {
        let (file, device) = (Arc::new(file), device.clone());
        Self {
            file,
            prefix: String::new(),
            device,
            precision: Precision::F32,
            random: false,
            loras: None,
            replaced: Arc::default(),
        }
    }

    /// The tensors below `name`.
    pub fn pp(&self, name: impl fmt::Display) -> Self {
        Self { prefix: self.full(&name.to_string()), ..self.clone() }
    }

    /// The same tensors for layers that keep their weights in `precision`.
    pub fn kept_in(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// The same tensors of that model with the changes that LoRAs make of them, whatever comes in the place of which.
    pub fn with_loras(self, part: Part, loras: Arc<[Lora]>) -> Self {
        Self { loras: Some((part, loras)), ..self }
    }

    /// The same checkpoint with `tensors` in the place of their namesakes. What layers make of variables is trained.
    pub fn replaced(self, tensors: BTreeMap<String, Tensor>) -> Self {
        Self { replaced: Arc::new(tensors), ..self }
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

    /// Names of all tensors of the checkpoint, in order.
    pub fn names(&self) -> Vec<String> {
        self.file.names().map(str::to_string).collect()
    }

    /// Whether there is a tensor of that name, or one below it.
    pub fn has(&self, name: &str) -> bool {
        if self.random {
            return random::has(name);
        }
        let full = self.full(name);
        self.file.get(&full).is_some() || self.file.has_below(&format!("{full}."))
    }

    /// The tensor `name` of exactly that shape, in f32.
    ///
    /// # Errors
    /// If it is missing or has another shape; the message has both shapes and the file.
    pub fn get(&self, shape: &[usize], name: &str) -> candle_core::Result<Tensor> {
        if let Some(tensor) = self.replaced.get(&self.full(name)) {
            // a linear map may be kept as a 1x1 convolution
            if tensor.elem_count() != shape.iter().product::<usize>() {
                let have = tensor.dims();
                candle_core::bail!("{} has shape {have:?}, expected {shape:?}", self.full(name));
            }
            let tensor = self.changed(name, tensor.clone())?;
            return if tensor.dims() == shape { Ok(tensor) } else { tensor.reshape(shape) };
        }
        if self.random {
            return random::tensor(&self.full(name), shape)?.to_device(&self.device);
        }
        // before anything is read
        if let Some(((file, _), stored)) = self.file.get(&self.full(name))
            && stored.shape != shape
        {
            candle_core::bail!("{} in {file} has shape {:?}, expected {shape:?}", self.full(name), stored.shape);
        }
        self.any(name)
    }

    /// A matrix that some writers store as a 1x1 convolution: [out, in] or [out, in, 1, 1].
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn matrix(&self, (rows, columns): (usize, usize), name: &str) -> candle_core::Result<Tensor> {
        let replaced = self.replaced.contains_key(&self.full(name));
        if !replaced && self.shape(name).is_some_and(|shape| shape == [rows, columns, 1, 1]) {
            return self.any(name)?.reshape((rows, columns));
        }
        self.get(&[rows, columns], name)
    }

    /// The tensor `name` whatever its shape, floats in f32 and integers as they are.
    ///
    /// # Errors
    /// If it is missing, of a type that has no use here, not finite, or cannot be read any more.
    pub fn any(&self, name: &str) -> candle_core::Result<Tensor> {
        let full = self.full(name);
        let Some(((file, source), stored)) = self.file.get(&full) else {
            candle_core::bail!("{full} is missing in {}", self.file.name);
        };
        let tensor = values::tensor(source, stored, &self.device).map_err(|failure| {
            candle_core::Error::msg(match failure {
                Failure::Read(error) => format!("cannot read {full} in {file}: {error} (was the file changed?)"),
                Failure::NotFinite => format!("{full} in {file} has values that are NaN or infinite: it is damaged"),
                Failure::Other(error) => format!("{full} in {file} ({:?}): {error}", stored.dtype),
            })
        })?;
        self.changed(name, tensor)
    }

    /// The tensor `name` with the changes of the LoRAs.
    fn changed(&self, name: &str, tensor: Tensor) -> candle_core::Result<Tensor> {
        let Some((part, loras)) = &self.loras else { return Ok(tensor) };
        loras.iter().try_fold(tensor, |tensor, lora| match lora.change(*part, &self.full(name), tensor.dims())? {
            Some(change) => tensor + change.to_device(&self.device)?,
            None => Ok(tensor),
        })
    }

    /// The shape of `name`, if there is such a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        if let Some(tensor) = self.replaced.get(&self.full(name)) {
            return Some(tensor.dims());
        }
        self.file.get(&self.full(name)).map(|(_, stored)| stored.shape.as_slice())
    }

    /// The first `count` values of a tensor in half precision, without reading the rest.
    ///
    /// # Errors
    /// As [`any`](Self::any).
    pub fn first_values(&self, name: &str, count: usize) -> candle_core::Result<Vec<f16>> {
        let full = self.full(name);
        let Some(((file, source), stored)) = self.file.get(&full) else {
            candle_core::bail!("{full} is missing in {}", self.file.name);
        };
        let read = values::first(source, stored, count);
        read.map_err(|error| candle_core::Error::msg(format!("cannot read {full} in {file}: {error}")))
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
    use std::collections::HashMap;

    use candle_core::DType;

    use super::*;

    fn save(path: &Path, tensors: &[(&str, Tensor)]) -> Result<()> {
        let tensors: HashMap<_, _> = tensors.iter().map(|(name, tensor)| (name.to_string(), tensor.clone())).collect();
        Ok(candle_core::safetensors::save(&tensors, path)?)
    }

    fn said<T>(result: Result<T, impl std::fmt::Display>) -> String {
        result.err().map(|error| format!("{error:#}")).unwrap_or_default()
    }

    #[test]
    fn errors_name_tensor_shapes_and_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("unet.safetensors");
        save(&path, &[("conv_in.weight", Tensor::zeros((2, 3), DType::F16, &Device::Cpu)?)])?;
        let weights = Weights::open(&path, &Device::Cpu)?.pp("conv_in");
        assert_eq!(weights.get(&[2, 3], "weight")?.dtype(), DType::F32);
        let error = said(weights.get(&[3, 2], "weight"));
        for part in ["conv_in.weight", "[2, 3]", "[3, 2]", "unet.safetensors"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(said(weights.get(&[3], "bias")).contains("conv_in.bias is missing"));
        let bytes = std::fs::read(&path)?;
        std::fs::write(&path, &bytes[..bytes.len() - 4])?;
        // cut after it was opened, and before
        let error = said(weights.get(&[2, 3], "weight"));
        assert!(error.contains("conv_in.weight") && error.contains("unet.safetensors"), "{error}");
        let error = said(Weights::open(&path, &Device::Cpu));
        assert!(error.contains("unet.safetensors") && error.contains("cut short"), "{error}");
        assert!(said(Weights::open(folder.path(), &Device::Cpu)).contains("not a file"));
        assert!(said(Weights::open(&path.with_extension("ckpt"), &Device::Cpu)).contains("pickle"));
        Ok(())
    }

    #[test]
    fn files_are_what_they_hold_before_what_they_are_called() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let said_of = |path: &Path| said(Weights::open_or_unpickle(path, &Device::Cpu));
        for ending in ["pt", "bin", "safetensors"] {
            let path = folder.path().join(format!("toy.{ending}"));
            let lost = said_of(&path);
            assert!(lost.contains("cannot open") && lost.contains("toy.") && !lost.contains("ickle"), "{lost}");
            for (bytes, part) in [
                (&b""[..], "is empty"),
                (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
                (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
            ] {
                std::fs::write(&path, bytes)?;
                let said = said_of(&path);
                assert!(said.contains(part) && said.contains("toy.") && !said.contains("ickle"), "{said}");
            }
        }
        let path = folder.path().join("toy.pt");
        for bytes in [&b"\x80\x02}q\x00."[..], b"something else"] {
            std::fs::write(&path, bytes)?;
            assert!(said_of(&path).contains("toy.pt") && said_of(&path).contains("pickle"), "{}", said_of(&path));
        }
        std::fs::remove_file(&path)?;
        std::fs::create_dir(&path)?;
        assert!(said_of(&path).contains("not a file"), "{}", said_of(&path));
        Ok(())
    }

    #[test]
    fn values_that_are_not_finite_are_refused() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("vae.safetensors");
        let tensors =
            [("good", Tensor::new(&[1f32, 2.], &Device::Cpu)?), ("bad", Tensor::new(&[1f32, f32::NAN], &Device::Cpu)?)];
        save(&path, &tensors)?;
        let weights = Weights::open(&path, &Device::Cpu)?;
        assert_eq!(weights.get(&[2], "good")?.to_vec1::<f32>()?, [1., 2.]);
        let error = said(weights.get(&[2], "bad"));
        assert!(error.contains("bad in ") && error.contains("vae.safetensors") && error.contains("NaN"), "{error}");
        Ok(())
    }

    #[test]
    fn shards_are_one_checkpoint() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let tensor = |value: f32| Tensor::new(&[value], &Device::Cpu);
        save(&at("1.safetensors"), &[("a.weight", tensor(1.)?), ("unlisted", tensor(9.)?)])?;
        save(&at("2.safetensors"), &[("a.bias", tensor(2.)?), ("b", tensor(3.)?)])?;
        let open = |map: &str| -> Result<Weights> {
            let index = at("model.safetensors.index.json");
            std::fs::write(&index, format!(r#"{{"metadata": {{"total_size": 1}}, "weight_map": {map}}}"#))?;
            let find = |shard: &str| {
                ensure!(at(shard).is_file(), "{shard} is missing");
                Ok(at(shard))
            };
            Weights::sharded(&index, find, &Device::Cpu)
        };
        let weights = open(r#"{"a.weight": "1.safetensors", "b": "2.safetensors", "a.bias": "2.safetensors"}"#)?;
        assert_eq!(weights.names(), ["a.bias", "a.weight", "b"]);
        assert!(weights.has("a") && !weights.has("unlisted"));
        assert_eq!(weights.pp("a").get(&[1], "bias")?.to_vec1::<f32>()?, [2.]);
        assert_eq!(weights.get(&[1], "a.weight")?.to_vec1::<f32>()?, [1.]);
        for (map, part) in [
            (r#"{"b": "3.safetensors"}"#, "3.safetensors is missing"),
            (r#"{"c": "2.safetensors"}"#, "c should be in"),
            (r#"{"b": "../2.safetensors"}"#, "\"../2.safetensors\""),
            (r#"{"b": "/etc/2.safetensors"}"#, "no name of a file beside it"),
            (r#"{"b": "x\\2.safetensors"}"#, "no name of a file beside it"),
            (r#"{"b": ".."}"#, "no name of a file beside it"),
            (r#"{"b": ""}"#, "no name of a file beside it"),
            (r#"{"b": "pytorch_model.bin"}"#, "pytorch_model.bin"),
            (r#"{"b": 7}"#, "cannot be used"),
        ] {
            let said = said(open(map));
            assert!(said.contains(part) && said.contains("model.safetensors.index.json"), "{map}: {said}");
        }
        Ok(())
    }
}
