//! Writing files so that they are either there as a whole or not at all.

use std::path::Path;

use anyhow::{Context, Result};

/// Writes a file that is either there as a whole or not at all.
///
/// # Errors
/// If it cannot be written; the message names it.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("part");
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial); // what is left of it is of no use
    }
    written.with_context(|| format!("cannot write {} (is the disk full?)", path.display()))
}
