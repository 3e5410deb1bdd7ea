//! What this machine has for CUDA.

use candle_core::cuda_backend::cudarc::driver::result::device;
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::{LIBRARIES, loaded};

/// Sentences on the libraries, the driver and its devices.
pub(crate) fn report() -> Vec<String> {
    let mut lines = Vec::new();
    for names in LIBRARIES {
        lines.push(match loaded(names) {
            Some(name) => format!("{} is here", name.to_string_lossy()),
            None => format!("{} is not here", names[0].to_string_lossy()),
        });
    }
    if loaded(LIBRARIES[0]).is_none() {
        return lines;
    }
    let mut version = 0;
    // SAFETY: one number is written
    if unsafe { sys::cuDriverGetVersion(&mut version) }.result().is_ok() {
        lines.push(format!("The driver serves CUDA {}.{}", version / 1000, version % 1000 / 10));
    }
    match device::get_count() {
        Ok(count) => lines.extend((0..count).map(describe)),
        Err(error) => lines.push(format!("The driver gives no devices: {error}")),
    }
    lines
}

fn describe(ordinal: i32) -> String {
    let Ok(handle) = device::get(ordinal) else { return format!("cuda:{ordinal} cannot be asked") };
    // SAFETY: it is a device
    let attribute = |attribute| unsafe { device::get_attribute(handle, attribute) }.unwrap_or_default();
    let (major, minor) = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
    );
    let name = device::get_name(handle).unwrap_or_else(|_| "a device".into());
    // SAFETY: it is a device
    let gib = unsafe { device::total_mem(handle) }.unwrap_or_default() >> 30;
    let suits = if major < 8 { ": the kernels here need 8.0" } else { "" };
    format!("cuda:{ordinal} is {name} with {gib} GiB, compute capability {major}.{minor}{suits}")
}
