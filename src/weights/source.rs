//! Where the bytes of a checkpoint lie.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

use anyhow::{Context, ensure};

use super::foreign;

/// A file, or bytes of the program. A file is read piece by piece, never mapped: pages of a map stay counted as the
/// program's memory beside what was made of them, and a file that is cut while it is mapped ends the process.
pub(super) enum Source {
    /// Part of the program.
    Embedded(&'static [u8]),
    /// Made of a file in another format.
    Made(Vec<u8>),
    /// On disk, with its length when it was opened.
    File(File, u64),
}

impl Source {
    /// Opens a file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        // asked before it is opened: a pipe would wait for its writer
        if !std::fs::metadata(path)?.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "it is not a file"));
        }
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok(Self::File(file, length))
    }

    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Embedded(bytes) => bytes.len() as u64,
            Self::Made(bytes) => bytes.len() as u64,
            Self::File(_, length) => *length,
        }
    }

    /// Fills `buffer` from byte `at` on; an error if there are not as many bytes any more.
    pub(super) fn read(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        match self {
            Self::Embedded(bytes) => copy(bytes, buffer, at),
            Self::Made(bytes) => copy(bytes, buffer, at),
            Self::File(file, _) => read_at(file, buffer, at),
        }
    }
}

fn copy(bytes: &[u8], buffer: &mut [u8], at: u64) -> Result<()> {
    let rest = usize::try_from(at).ok().and_then(|at| bytes.get(at..)).and_then(|rest| rest.get(..buffer.len()));
    buffer.copy_from_slice(rest.ok_or(ErrorKind::UnexpectedEof)?);
    Ok(())
}

/// The whole of a text file of a model, which has a few megabytes at most.
///
/// # Errors
/// If it cannot be read, is too large for text, or is a file of another kind.
pub fn text(path: &Path) -> anyhow::Result<String> {
    const MOST: u64 = 64 << 20;
    let context = || format!("cannot use {}", path.display());
    let source = Source::open(path).with_context(context)?;
    ensure!(source.len() <= MOST, "{} has {} bytes: no text of a model is so long", path.display(), source.len());
    let mut bytes = vec![0; source.len() as usize];
    source.read(&mut bytes, 0).with_context(context)?;
    foreign::refuse(&bytes).with_context(context)?;
    String::from_utf8(bytes).with_context(|| format!("{} is no text", path.display()))
}

#[cfg(unix)]
fn read_at(file: &File, buffer: &mut [u8], at: u64) -> Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut buffer: &mut [u8], mut at: u64) -> Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, at)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => {
                buffer = &mut buffer[count..];
                at += count as u64;
            }
        }
    }
    Ok(())
}
