//! What this machine has for CUDA.

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::result::{device, init};
use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;

use super::{LEAST_CAPABILITY, LIBRARIES, capability, loaded, missing, served};
use crate::ops::place::Limits;

/// Sentences on the libraries, the driver and its devices.
pub(crate) fn report() -> Vec<String> {
    let mut lines = Vec::new();
    for names in LIBRARIES {
        lines.push(match loaded(names) {
            Some(name) => format!("{} is here", name.to_string_lossy()),
            None => format!("{} is not here", missing(names)),
        });
    }
    let Some(version) = served() else { return lines };
    lines.push(format!("The driver serves CUDA {}.{}", version / 1000, version % 1000 / 10));
    match init().and_then(|()| device::get_count()) {
        Ok(count) => lines.extend((0..count).map(describe)),
        Err(error) => lines.push(format!("The driver gives no devices: {error}")),
    }
    lines
}

/// How many devices there are, by a driver that is in use.
pub(crate) fn cards() -> usize {
    device::get_count().map_or(0, |count| count as usize)
}

/// Products that a multiprocessor's tensor cores add up between two beats of its clock, in bf16, by compute capability
/// (NVIDIA's descriptions of the architectures: GA100, GA102, AD102, GH100).
fn products_a_beat(major: i32, minor: i32) -> Option<f64> {
    match (major, minor) {
        (8, 0) => Some(1024.),
        (8, _) => Some(512.),
        (9, 0) => Some(2048.),
        _ => None,
    }
}

/// What the driver's numbers allow, where the architecture is known.
pub(crate) fn limits(device: &CudaDevice) -> Option<Limits> {
    let stream = device.cuda_stream();
    let attribute = |attribute| stream.context().attribute(attribute).ok().map(f64::from);
    let (major, minor) = capability(stream.context().cu_device());
    // clocks are in kHz; memory moves bits at both edges of its clock
    let bits = attribute(Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
    let bandwidth = 2e3 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)? * bits / 8.;
    let beats = 1e3 * attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
    let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let products = 2. * products_a_beat(major, minor)? * multiprocessors * beats;
    (bandwidth > 0. && products > 0.).then_some(Limits { bandwidth, products })
}

fn describe(ordinal: i32) -> String {
    let Ok(handle) = device::get(ordinal) else { return format!("cuda:{ordinal} cannot be asked") };
    let (major, minor) = capability(handle);
    let name = device::get_name(handle).unwrap_or_else(|_| "a device".into());
    // SAFETY: it is a device
    let gib = unsafe { device::total_mem(handle) }.unwrap_or_default() >> 30;
    let suits =
        if major < LEAST_CAPABILITY { format!(": the kernels here need {LEAST_CAPABILITY}.0") } else { String::new() };
    format!("cuda:{ordinal} is {name} with {gib} GiB, compute capability {major}.{minor}{suits}")
}
