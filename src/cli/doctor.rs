//! `eqdiff doctor`.

use anyhow::Result;
use clap::Args;

use super::output::print;
use super::{Outcome, device_name};
use crate::app::Usage;
use crate::base::device;
use crate::machine::available_memory;
use crate::ops::{Precision, cuda_report, level, memory};
use crate::verify::kernels::kernels;

/// Arguments of `doctor`.
#[derive(Args)]
pub(super) struct DoctorArgs {
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto", value_parser = device_name)]
    device: String,
    /// The precision in which operations are checked [default: the one that the device is best used with]
    #[arg(long)]
    dtype: Option<Precision>,
}

const GIB: f64 = (1u64 << 30) as f64;

/// Says what was found, then checks every operation of the device against the processor's.
pub(super) fn run(args: &DoctorArgs) -> Result<Outcome> {
    print(format!(
        "eqdiff {} on {} threads with {}",
        env!("CARGO_PKG_VERSION"),
        rayon::current_num_threads(),
        level().name()
    ))?;
    if let Some(bytes) = available_memory() {
        print(format!("{:.1} GiB of memory are free", bytes as f64 / GIB))?;
    }
    for line in cuda_report() {
        print(line)?;
    }
    let (device, warning) = device(&args.device)?;
    if let Some(warning) = warning {
        print(format!("Warning: {warning}"))?;
    }
    let precision = args.dtype.unwrap_or_else(|| Precision::of(&device));
    precision.check(&device).map_err(|error| Usage(format!("--dtype {precision}: {error}")))?;
    let place = if device.is_cpu() { "the processor" } else { "the device" };
    if let Some(memory) = memory(&device) {
        print(format!("The device has {:.1} of {:.1} GiB free", memory.free as f64 / GIB, memory.total as f64 / GIB))?;
    }
    print(format!("Every operation in {precision} on {place} against f32 on the processor, forward and backward:"))?;
    let (mut failed, mut printed) = (0, Ok(()));
    kernels(&device, precision, &mut |check, took| {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        failed += !check.passed() as usize;
        if printed.is_ok() {
            let (error, ms) = (check.error, took.as_secs_f64() * 1e3);
            printed =
                print(format!("{verdict:<6} {error:.1e} (bound {:.0e}) {ms:>9.2} ms  {}", check.bound, check.name));
        }
    })?;
    printed?;
    print(match failed {
        0 => "Nothing is wrong".to_string(),
        _ => format!(
            "{failed} operations are wrong here: compute with --device cpu, and report this with the lines above"
        ),
    })?;
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
}
