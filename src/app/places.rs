//! Where things go unless something else is asked for, and what was done there last.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{Observer, Usage};
use crate::files::{is_free, make_folder, write_whole};

/// Where results go.
pub const OUTPUTS: &str = "outputs";

/// The adapter that was trained last, as far as there is something to draw with.
pub const LAST_ADAPTER: &str = "last-adapter.txt";

/// The training that began last.
pub const LAST_TRAINING: &str = "last-training.txt";

/// Makes sure that a new folder can get that name.
///
/// # Errors
/// [`Usage`] if something is there already.
pub fn check_unused(folder: &Path) -> Result<()> {
    if !is_free(folder)? {
        bail!(Usage(format!("{} is there already: name another folder with --out", folder.display())));
    }
    Ok(())
}

/// Remembers a folder under `name`. Where nothing can be remembered, names have to be given: no reason to fail.
pub fn remember(name: &str, folder: &Path, observer: &mut dyn Observer) {
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    let outputs = Path::new(OUTPUTS);
    let written =
        make_folder(outputs).and_then(|()| write_whole(&outputs.join(name), full.as_os_str().as_encoded_bytes()));
    if let Err(error) = written {
        observer.warn(&format!("{} has to be named from now on: {error:#}", folder.display()));
    }
}

/// The adapter that was named, or the one trained last.
///
/// # Errors
/// [`Usage`] if there is none.
pub fn adapter(named: Option<&Path>) -> Result<PathBuf> {
    recalled(
        LAST_ADAPTER,
        named,
        "no adapter was trained here yet: eqdiff train --subject dog, or name the folder of one",
    )
}

/// The training that was named, or the one that began last.
///
/// # Errors
/// [`Usage`] if there is none.
pub fn training(named: Option<&Path>) -> Result<PathBuf> {
    let none = "there is no training to go on with here: name its folder with --out";
    // trainings of older versions are remembered as adapters only
    recalled(LAST_TRAINING, named, none).or_else(|_| recalled(LAST_ADAPTER, named, none))
}

fn recalled(name: &str, named: Option<&Path>, none: &str) -> Result<PathBuf> {
    if let Some(folder) = named {
        return Ok(folder.to_path_buf());
    }
    let last = std::fs::read(Path::new(OUTPUTS).join(name)).map_err(|_| Usage(none.into()))?;
    path_of(last.strip_suffix(b"\n").unwrap_or(&last)) // an editor adds one
}

/// The path that was written as its bytes.
#[cfg(unix)]
fn path_of(bytes: &[u8]) -> Result<PathBuf> {
    Ok(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes).into())
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> Result<PathBuf> {
    Ok(std::str::from_utf8(bytes)?.into())
}
