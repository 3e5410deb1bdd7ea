//! The operations on NVIDIA's GPUs: each kernel file beside what launches it, with the functions that `cpu` has.
//!
//! Kernels take f32 and bf16, sum in f32, and use no atomic sums: equal inputs give equal bits. Where they are not
//! compiled in, `no_cuda.rs` stands in for this module.

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod blend;
pub(crate) mod convolution;
mod launch;
pub(crate) mod linear;
pub(crate) mod norm;
mod product;
pub(crate) mod report;
mod weight;

use std::ffi::CStr;

use candle_core::cuda_backend::cudarc::driver::sys::{
    CUdevice_attribute as Attribute, CUmemPool_attribute as PoolAttribute,
};
use candle_core::cuda_backend::cudarc::driver::{DriverError, result, sys};
use candle_core::cuda_backend::set_gemm_reduced_precision_f32;
use candle_core::{CudaDevice, CudaStorage, Device, Error, Result};

use super::place::Memory;
use super::weight::Precision;
pub(crate) use weight::OnDevice;

/// Libraries that a device needs, under the names that they may have.
const LIBRARIES: [&[&CStr]; 4] = [
    &[c"libcuda.so.1"],
    &[c"libcublas.so.13", c"libcublas.so.12"],
    &[c"libcublasLt.so.13", c"libcublasLt.so.12"],
    &[c"libcurand.so.10"],
];

/// Those of them that the driver, if there is one, serves.
fn of_driver(names: &[&'static CStr]) -> impl Iterator<Item = &'static CStr> {
    let serves =
        |name: &&CStr| !name.to_bytes().ends_with(b".so.13") || served().is_none_or(|version| version >= 13000);
    names.iter().copied().filter(serves)
}

/// The name of the first of them that this machine has, and that its driver serves.
fn loaded(names: &[&'static CStr]) -> Option<&'static CStr> {
    // SAFETY: loading one of NVIDIA's libraries changes nothing that the program knows
    let load = |name: &CStr| unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    of_driver(names).find(|name| !load(name).is_null())
}

/// What to call them where this machine has none.
fn missing(names: &[&'static CStr]) -> String {
    of_driver(names).next().unwrap_or(names[0]).to_string_lossy().into_owned()
}

/// The newest version of CUDA that the driver serves, if there is one: 13000 is 13.0.
fn served() -> Option<i32> {
    loaded(LIBRARIES[0])?;
    let mut version = 0;
    // SAFETY: one number is written
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().is_ok().then_some(version)
}

/// What a device, by its handle, says of itself; 0 if it does not.
fn attribute(handle: sys::CUdevice, attribute: Attribute) -> i32 {
    // SAFETY: it is a device
    unsafe { result::device::get_attribute(handle, attribute) }.unwrap_or_default()
}

/// A device's compute capability.
fn capability(handle: sys::CUdevice) -> (i32, i32) {
    let part = |part| attribute(handle, part);
    (
        part(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
        part(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
    )
}

/// The least that the kernels here run on: that of an A100, for which they are compiled.
const LEAST_CAPABILITY: i32 = 8;

/// The device of that number.
///
/// # Errors
/// If the driver or a library is not on this machine, or there is no such device, or it is too old.
pub(crate) fn open(index: usize) -> Result<Device> {
    for names in LIBRARIES {
        if loaded(names).is_none() {
            let name = missing(names);
            let driver = names[0] == c"libcuda.so.1";
            let what = if driver { "NVIDIA's driver" } else { "a part of CUDA; see LD_LIBRARY_PATH" };
            candle_core::bail!("{name} is not on this machine: {what}")
        }
    }
    result::init().map_err(Error::wrap)?;
    let count = result::device::get_count().map_err(Error::wrap)?;
    let Some(ordinal) = i32::try_from(index).ok().filter(|&index| index < count) else {
        candle_core::bail!("there is no such GPU: this machine has {count}, counted from 0")
    };
    let (major, minor) = capability(result::device::get(ordinal).map_err(Error::wrap)?);
    if major < LEAST_CAPABILITY {
        candle_core::bail!("its compute capability is {major}.{minor}, and the kernels here need {LEAST_CAPABILITY}.0")
    }
    Device::new_cuda(index)
}

/// What is told to a device before anything computes there.
pub(crate) fn prepare(device: &CudaDevice, precision: Precision) -> Result<()> {
    set_gemm_reduced_precision_f32(precision == Precision::Tf32);
    // SAFETY: a program uses one stream of a device, from one thread: what it is told first happens first
    unsafe { device.disable_event_tracking() };
    // freed memory stays with the program: else it goes back at every synchronisation
    let mut most = u64::MAX;
    let release = PoolAttribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    let Some(pool) = pool(device).map_err(Error::wrap)? else { return Ok(()) };
    // SAFETY: the attribute is a number of 64 bits, which is copied
    unsafe { result::mem_pool::set_attribute(pool, release, (&raw mut most).cast()) }.map_err(Error::wrap)
}

/// The memory that a device's tensors come from; none where each allocation is the driver's, as on some virtual devices.
fn pool(device: &CudaDevice) -> std::result::Result<Option<sys::CUmemoryPool>, DriverError> {
    let handle = device.cuda_stream().context().cu_device();
    if attribute(handle, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED) == 0 {
        return Ok(None);
    }
    // SAFETY: it is a device
    unsafe { result::device::get_default_mem_pool(handle) }.map(Some)
}

/// A device's memory, if it tells.
pub(crate) fn memory(device: &CudaDevice) -> Option<Memory> {
    let (free, total) = result::mem_get_info().ok()?;
    let pool = pool(device).ok()?;
    let bytes = |attribute| {
        let mut bytes = 0u64;
        // SAFETY: the attribute is a number of 64 bits, which is written
        let told =
            pool.map(|pool| unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut bytes).cast()) });
        told.is_some_and(|told| told.is_ok()).then_some(bytes)
    };
    // the driver counts as taken what was freed and stays with the program
    let kept = bytes(PoolAttribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT).unwrap_or_default();
    let used = bytes(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT).unwrap_or(kept);
    let free = free as u64 + kept.saturating_sub(used);
    let peak = bytes(PoolAttribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH);
    Some(Memory { free, total: total as u64, peak })
}

/// Moves the storage out of a tensor that nobody else holds, and leaves one number there.
pub(crate) fn take(storage: &mut CudaStorage) -> Result<CudaStorage> {
    use candle_core::DType;
    use candle_core::backend::BackendStorage;
    let (device, dtype) = (storage.device().clone(), storage.dtype());
    // SAFETY: nobody reads it
    let rest = unsafe {
        match dtype {
            DType::F32 => CudaStorage::wrap_cuda_slice(device.alloc::<f32>(1)?, device),
            DType::BF16 => CudaStorage::wrap_cuda_slice(device.alloc::<half::bf16>(1)?, device),
            DType::F16 => CudaStorage::wrap_cuda_slice(device.alloc::<half::f16>(1)?, device),
            DType::F64 => CudaStorage::wrap_cuda_slice(device.alloc::<f64>(1)?, device),
            other => candle_core::bail!("only floating-point results have gradients, not {other:?}"),
        }
    };
    Ok(std::mem::replace(storage, rest))
}
