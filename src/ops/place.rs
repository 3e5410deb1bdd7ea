//! Where an operation runs, asked in one place.

use candle_core::{DType, Device, Result, Tensor};

use super::cuda;
use super::weight::Precision;

/// What computes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The kernels of [`cpu`](super::cpu).
    Cpu,
    /// The kernels of [`cuda`].
    Cuda,
    /// candle's operations, on any device and in any precision: the reference of all kernels.
    Composed,
}

/// What computes an operation on `x`.
pub(crate) fn place(x: &Tensor) -> Place {
    match (x.device(), x.dtype()) {
        (Device::Cpu, DType::F32) => Place::Cpu,
        (Device::Cuda(_), DType::F32 | DType::BF16) => Place::Cuda,
        _ => Place::Composed,
    }
}

/// The CUDA device of that number.
///
/// # Errors
/// If this build or this machine has no such device.
pub fn cuda_device(index: usize) -> Result<Device> {
    cuda::open(index)
}

/// How many CUDA devices this machine has.
pub fn cuda_cards() -> usize {
    cuda::report::cards()
}

/// Sentences on what this build and this machine have for CUDA.
pub fn cuda_report() -> Vec<String> {
    cuda::report::report()
}

/// Tells a device what it has to know before anything computes there in `precision`.
///
/// # Errors
/// If it has no such precision, or refuses.
pub fn prepare(device: &Device, precision: Precision) -> Result<()> {
    precision.check(device).map_err(candle_core::Error::msg)?;
    match device {
        Device::Cuda(device) => cuda::prepare(device, precision),
        _ => Ok(()),
    }
}

/// What a device can do in a second, by what its driver says of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Bytes that its memory moves.
    pub bandwidth: f64,
    /// Operations of its tensor cores in products of bf16, two for each value that is multiplied and added.
    pub products: f64,
}

/// The limits of a device, if they are known.
pub fn limits(device: &Device) -> Option<Limits> {
    match device {
        Device::Cuda(device) => cuda::report::limits(device),
        _ => None,
    }
}

/// A device's own memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What nobody has taken.
    pub free: u64,
    /// All of it.
    pub total: u64,
    /// The most that tensors of this program have taken so far, if it tells.
    pub peak: Option<u64>,
}

/// The memory of a device that has its own, if it tells.
pub fn memory(device: &Device) -> Option<Memory> {
    match device {
        Device::Cuda(device) => cuda::memory(device),
        _ => None,
    }
}
