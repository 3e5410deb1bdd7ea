//! Files that change as a whole: what is on the disk is what was there before, or what was written, never
//! a part of it, whenever the program is killed or the disk is full.
//!
//! Content goes to a file of a unique name in the same folder, is synced and renamed, and the folder is
//! synced too. A temporary file of a process that died is called `.eqdiff-*.part`; [`Lock::sweep`] and
//! [`sweep_old`] remove those.

mod folder;
mod set;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

pub use folder::{Lock, StagedFolder, is_free, numbered, stage_folder, sweep_old};
pub use set::{Set, finish_set};

/// How names of temporary files begin and end.
const PARTIAL: (&str, &str) = (".eqdiff-", ".part");

/// Writes a file; an older one of that name is replaced.
///
/// # Errors
/// If it cannot be written; the message names it, and what was there stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    write_bit_by_bit(path, |file| Ok(file.write_all(bytes)?))
}

/// The same for content that is written as it comes, however much it is.
///
/// # Errors
/// As [`write_whole`], or what `content` says.
pub fn write_bit_by_bit(path: &Path, content: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let write = || {
        let mut file = io::BufWriter::new(partial(path)?);
        content(&mut file)?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        anyhow::Ok(sync_folder(path)?)
    };
    write().with_context(|| cannot_write(path))
}

/// A text of ours, if it is an ordinary file of a size that we write: what comes from somebody else may be a pipe, a
/// device, or a terabyte of nothing.
///
/// # Errors
/// If it is not, or cannot be read.
pub fn read_text(path: &Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is no ordinary file"));
    }
    if meta.len() > LONGEST_TEXT {
        let text = format!("its {} MiB are more than any text has", meta.len() >> 20);
        return Err(io::Error::new(ErrorKind::InvalidInput, text));
    }
    fs::read_to_string(path)
}

/// Bytes of the losses of a million steps.
const LONGEST_TEXT: u64 = 256 << 20;

/// Makes a folder and those above it.
///
/// # Errors
/// If it cannot be made; the message names it.
pub fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Makes a folder in one that may come from somebody else: it must not be a link, which could lead anywhere.
///
/// # Errors
/// If it is one, or cannot be made; the message names it.
pub fn make_own_folder(folder: &Path) -> Result<()> {
    if folder.is_symlink() {
        bail!("{} is a link, which no program of ours makes: files would land elsewhere", folder.display());
    }
    make_folder(folder)
}

/// Makes sure that files can be written into a folder, which is made if need be: a mistake that is better
/// found before hours of work than after them.
///
/// # Errors
/// If they cannot; the message names the folder.
pub fn check_writable(folder: &Path) -> Result<()> {
    make_folder(folder)?;
    let probe = folder.join("probe");
    staged(&probe, b"").map(drop).with_context(|| format!("cannot write into the folder {}", folder.display()))
}

/// Makes sure that a file can be written, and makes the folder that it goes to.
///
/// # Errors
/// If it cannot; the message names it.
pub fn check_target(file: &Path) -> Result<()> {
    if file.is_dir() {
        bail!("cannot write {}: it is a folder", file.display());
    }
    check_writable(folder_of(file))
}

fn entries(folder: &Path) -> Result<Vec<String>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let names = read.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().with_context(|| format!("cannot read the folder {}", folder.display()))
}

/// Whether that is a name of what is not finished.
pub fn is_partial(name: &str) -> bool {
    name.starts_with(PARTIAL.0) && name.ends_with(PARTIAL.1)
}

/// The content of `path` under a temporary name, synced.
fn staged(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = partial(path)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// An empty file under a temporary name beside `path`.
fn partial(path: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL.0).suffix(PARTIAL.1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666)); // less the user's mask, as for any file
    }
    builder.tempfile_in(folder_of(path))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A rename is on the disk when its folder is.
fn sync_folder(path: &Path) -> io::Result<()> {
    if !cfg!(unix) {
        return Ok(()); // elsewhere folders cannot be opened
    }
    match File::open(folder_of(path)).and_then(|folder| folder.sync_all()) {
        // some network and user-space file systems do not sync folders
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// The first `bytes` bytes of the SHA-256 of `content`, in hexadecimal.
pub fn digest(content: &[u8], bytes: usize) -> String {
    Sha256::digest(content).iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// What helps against an error, where the system's word for it does not say.
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    let kind = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?.kind();
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some("the disk is full: make room and go on"),
        ErrorKind::FileTooLarge => Some("a limit of file sizes was hit (ulimit -f)"),
        ErrorKind::ReadOnlyFilesystem => {
            Some("the file system is read-only: work on a copy, or choose another folder where --out is an option")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn files_are_replaced_as_a_whole_and_nothing_else_is_left() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a.txt");
        write_whole(&path, b"one")?;
        write_whole(&path, b"two")?;
        assert_eq!((content(&path), entries(folder.path())?.len()), ("two".into(), 1));
        let error = write_whole(&folder.path().join("none/a.txt"), b"").unwrap_err();
        assert!(error.to_string().contains("none"), "{error:#}");
        Ok(())
    }

    #[test]
    #[cfg(unix)]
    fn only_ordinary_texts_are_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("a");
        fs::write(&path, "text")?;
        assert_eq!(read_text(&path)?, "text");
        File::options().write(true).open(&path)?.set_len(1 << 40)?; // takes no room
        for wrong in [path.as_path(), Path::new("/dev/zero"), folder.path()] {
            assert!(read_text(wrong).is_err(), "{}", wrong.display());
        }
        Ok(())
    }

    #[test]
    #[cfg(unix)]
    fn links_are_replaced_and_not_followed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (outside, inside) = (folder.path().join("outside"), folder.path().join("in"));
        fs::create_dir(&inside)?;
        fs::write(&outside, "precious")?;
        for name in ["a.txt", "a.part", ".eqdiff-lock"] {
            std::os::unix::fs::symlink(&outside, inside.join(name))?;
        }
        write_whole(&inside.join("a.txt"), b"new")?;
        assert!(Lock::take(&inside).is_err());
        assert_eq!((content(&outside).as_str(), content(&inside.join("a.txt")).as_str()), ("precious", "new"));
        Ok(())
    }
}
