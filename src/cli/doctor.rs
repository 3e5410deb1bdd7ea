//! `eqdiff doctor`.

use anyhow::Result;
use candle_core::Device;
use clap::Args;

use super::output::print;
use super::{Outcome, device_name};
use crate::app::Usage;
use crate::base::device;
use crate::machine::available_memory;
use crate::ops::{Precision, cuda_report, level, limits, memory};
use crate::verify::kernels::kernels;
use crate::verify::speed::{Speed, speeds};

/// Arguments of `doctor`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto", value_parser = device_name)]
    device: String,
    /// The precision in which operations are checked [default: the one that the device is best used with]
    #[arg(long)]
    dtype: Option<Precision>,
    /// Time the heaviest operations too, beside what the device's memory and tensor cores allow
    #[arg(long)]
    speed: bool,
}

const EXAMPLES: &str = "\
Examples:
  eqdiff doctor                                 # what this machine has, and whether it computes rightly
  eqdiff doctor --device cuda --dtype bf16 --speed";

const GIB: f64 = (1u64 << 30) as f64;

/// Times what is heavy, where the device's limits are known.
fn speed(device: &Device, precision: Precision) -> Result<()> {
    let Some(limits) = limits(device) else {
        return print("Only of a CUDA device is it known what it allows: nothing was timed");
    };
    let (bandwidth, products) = (limits.bandwidth / 1e9, limits.products / 1e12);
    print(format!("By its driver the device moves {bandwidth:.0} GB/s and multiplies {products:.0} TFLOP/s in bf16"))?;
    let mut printed = Ok(());
    speeds(device, precision, limits, &mut |Speed { name, took, limit }| {
        if printed.is_ok() {
            let (took, limit, share) = (took * 1e3, limit * 1e3, 100. * limit / took);
            printed = print(format!("{took:>9.3} ms, {limit:>7.3} at best ({share:>3.0} %)  {name}"));
        }
    })?;
    printed
}

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
    if args.speed {
        speed(&device, precision)?;
    }
    print(match failed {
        0 => "Nothing is wrong".to_string(),
        _ => format!(
            "{failed} operations are wrong here: compute with --device cpu, and report this with the lines above"
        ),
    })?;
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
}
