//! Checks this build on this device against recorded PyTorch cases, through the code that trains,
//! samples and evaluates.

mod case;
pub mod kernels;
mod methods;
mod metrics;
mod models;
mod samplers;
mod sampling;
pub mod speed;
mod step;
mod training;

use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::Device;
use include_dir::{Dir, include_dir};

use crate::base::Base;
use crate::ops::{Keep, Precision};
pub use case::Check;
use case::{Checks, Least};

/// A small set of cases that is part of the program.
static EMBEDDED: Dir = include_dir!("$CARGO_MANIFEST_DIR/assets/golden");

/// The kinds of cases, in the order in which they run.
pub const CASES: [&str; 9] =
    ["texts", "samplers", "vae", "first_step", "step", "paper_step", "sample", "metrics", "methods"];

/// Runs the cases of `kinds` (none: all) in `folder` (none: the embedded ones) and tells `show` of each check.
///
/// # Errors
/// If the cases cannot be read. A check that fails is no error.
pub fn run(
    folder: Option<&Path>,
    kinds: &[String],
    device: &Device,
    precision: Precision,
    show: &mut dyn FnMut(&Check),
) -> Result<()> {
    let asked = |kind: &str| kinds.is_empty() || kinds.iter().any(|asked| asked == kind);
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
    let mut checks = Checks::new(show, Least::of(device, precision));
    // folders that scripts recorded one kind of case in have no other
    let ours = folder.join("first_step.json").is_file();
    if !ours && !methods::are_in(folder) {
        bail!("{} holds no recorded cases: there is a `model`, but no case of it", folder.display());
    }
    let name = folder.join("model").display().to_string();
    if ours && asked("texts") {
        models::bands(folder, &mut checks)?;
        models::tokens(folder, &mut checks)?;
    }
    if ours && asked("samplers") {
        samplers::samplers(folder, device, &mut checks)?;
    }
    let base = Base::load(&name, true, device, precision)?;
    if ours {
        own(folder, &asked, &base, &mut checks)?;
    }
    // matching decides between neighbours: less precision would decide otherwise
    if asked("methods") && methods::are_in(folder) && precision == Precision::F32 {
        methods::methods(folder, &base, &mut checks)?;
    }
    Ok(())
}

/// Equilibrated Diffusion.
fn own(folder: &Path, asked: &impl Fn(&str) -> bool, base: &Base, checks: &mut Checks) -> Result<()> {
    if asked("vae") {
        models::vae(folder, base, checks)?;
    }
    // one step with each way to keep what the gradient needs; cases recorded by older scripts do not have the last one
    for (name, keep) in [("first_step", Keep::ALL), ("step", Keep::INPUTS), ("paper_step", Keep::ALL)] {
        if asked(name) && (name != "paper_step" || folder.join("paper_step.safetensors").is_file()) {
            step::step(folder, name, base, keep, checks)?;
        }
    }
    if asked("sample") {
        sampling::sample(folder, base, checks)?;
    }
    if asked("metrics") {
        metrics::metrics(folder, &base.device, checks)?;
    }
    Ok(())
}
