//! `eqdiff verify`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::observer::say;
use super::output::print;
use super::{Outcome, device_name};
use crate::app::Usage;
use crate::base::device;
use crate::ops::Precision;
use crate::verify;

const EXAMPLES: &str = "\
Examples:
  eqdiff verify                                           # everything, on the device that there is
  eqdiff verify --device cuda --dtype bf16 --only vae,step  # a part of it";

/// Arguments of `verify`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct VerifyArgs {
    /// A folder of recorded cases (scripts/golden makes them) [default: a small set in the program]
    #[arg(value_name = "CASES")]
    folder: Option<PathBuf>,
    /// The same
    #[arg(long, value_name = "FOLDER", conflicts_with = "folder", hide = true)]
    cases: Option<PathBuf>,
    /// Of these kinds alone: texts, samplers, vae, first_step, step, paper_step, sample, metrics, methods [default: all]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    only: Vec<String>,
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto", value_parser = device_name)]
    device: String,
    /// How weights are kept: f32; f16 or bf16, results within 2e-2; tf32 on a CUDA device, within 5e-3 (of gradients and
    /// trained weights on a device docs/cuda.md has the bounds)
    #[arg(long, default_value = "f32")]
    dtype: Precision,
}

/// Prints a line for each check.
pub(super) fn run(args: &VerifyArgs) -> Result<Outcome> {
    let (mut passed, mut failed, mut printed) = (0, 0, Ok(()));
    let (device, warning) = device(&args.device)?;
    if let Some(warning) = warning {
        say(&format!("Warning: {warning}"));
    }
    args.dtype.check(&device).map_err(|error| Usage(format!("--dtype {}: {error}", args.dtype)))?;
    if let Some(kind) = args.only.iter().find(|kind| !verify::CASES.contains(&kind.as_str())) {
        bail!(Usage(format!("--only {kind}: one of {}", verify::CASES.join(", "))));
    }
    let folder = args.folder.as_deref().or(args.cases.as_deref());
    verify::run(folder, &args.only, &device, args.dtype, &mut |check| {
        let verdict = if check.passed() { "ok" } else { "FAILED" };
        if printed.is_ok() {
            printed = print(format!("{verdict:<6} {:.1e} (bound {:.0e})  {}", check.error, check.bound, check.name));
        }
        *(if check.passed() { &mut passed } else { &mut failed }) += 1;
    })?;
    printed?;
    if passed + failed == 0 {
        let more = if args.dtype == Precision::F32 { "" } else { "; --dtype f32 has more" };
        bail!(Usage(format!("--only {}: there is no such case in {}{more}", args.only.join(","), args.dtype)));
    }
    print(format!("{passed} checks passed, {failed} failed"))?;
    Ok(if failed == 0 { Outcome::Done } else { Outcome::Failed })
}
