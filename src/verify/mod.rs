//! Checks this build on this device against recorded PyTorch cases, through the code that trains,
//! samples and evaluates.

mod case;
pub mod kernels;
mod methods;
mod metrics;
mod models;
mod samplers;
mod sampling;
mod step;
mod training;

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use include_dir::{Dir, include_dir};

use crate::base::Base;
use crate::ops::{Keep, Precision};
pub use case::Check;
use case::Checks;

/// A small set of cases that is part of the program.
static EMBEDDED: Dir = include_dir!("$CARGO_MANIFEST_DIR/assets/golden");

/// Runs all cases in `folder` (none: the embedded ones) and tells `show` of each check.
///
/// # Errors
/// If the cases cannot be read. A check that fails is no error.
pub fn run(folder: Option<&Path>, device: &Device, precision: Precision, show: &mut dyn FnMut(&Check)) -> Result<()> {
    let unpacked;
    let folder = match folder {
        Some(folder) => folder,
        None => {
            unpacked = tempfile::tempdir().context("cannot make a temporary folder for the embedded cases")?;
            EMBEDDED.extract(unpacked.path()).context("cannot unpack the embedded cases")?;
            unpacked.path()
        }
    };
    if !folder.join("model").is_dir() {
        bail!("{} holds no recorded cases: there is no folder `model` in it", folder.display());
    }
    let least_bound = match precision {
        Precision::F32 => 0.,
        Precision::Tf32 => case::TF32,
        Precision::F16 | Precision::Bf16 => case::HALF,
    };
    let mut checks = Checks::new(show, least_bound);
    // folders that scripts recorded one kind of case in have no other
    let ours = folder.join("first_step.json").is_file();
    if !ours && !methods::are_in(folder) {
        bail!("{} holds no recorded cases: there is a `model`, but no case of it", folder.display());
    }
    let name = folder.join("model").display().to_string();
    if ours {
        models::bands(folder, &mut checks)?;
        models::tokens(folder, &mut checks)?;
        samplers::samplers(folder, device, &mut checks)?;
    }
    let base = Base::load(&name, true, device, precision)?;
    if ours {
        own(folder, &base, &mut checks)?;
    }
    // matching decides between neighbours: less precision would decide otherwise
    if methods::are_in(folder) && precision == Precision::F32 {
        methods::methods(folder, &base, &mut checks)?;
    }
    Ok(())
}

/// Equilibrated Diffusion.
fn own(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    models::vae(folder, base, checks)?;
    // one step with each way to keep what the gradient needs
    step::step(folder, "first_step", base, Keep::ALL, checks)?;
    step::step(folder, "step", base, Keep::INPUTS, checks)?;
    // cases recorded by older scripts do not have this one
    if folder.join("paper_step.safetensors").is_file() {
        step::step(folder, "paper_step", base, Keep::ALL, checks)?;
    }
    sampling::sample(folder, base, checks)?;
    metrics::metrics(folder, &base.device, checks)
}
