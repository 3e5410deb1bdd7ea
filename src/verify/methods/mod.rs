//! The methods that Equilibrated Diffusion is compared with, a file each.

mod concepts;
mod dreambooth;
mod dreammatcher;
mod elite;

use std::path::Path;

use anyhow::Result;

use super::case::Checks;
use crate::base::Base;

/// The case that is there if all are.
const FIRST: &str = "textual_inversion.json";

/// Whether a folder holds these cases.
pub(super) fn are_in(folder: &Path) -> bool {
    folder.join(FIRST).is_file()
}

/// All of them.
pub(super) fn methods(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    concepts::textual_inversion(folder, base, checks)?;
    concepts::custom_diffusion(folder, base, checks)?;
    concepts::custom_diffusion_sample(folder, base, checks)?;
    dreambooth::dreambooth(folder, base, checks)?;
    dreammatcher::matching(folder, base, checks)?;
    dreammatcher::pictures(folder, "dreammatcher", base, checks)?;
    dreammatcher::pictures(folder, "dreammatcher_guided", base, checks)?;
    elite::elite(folder, base, checks)
}
