//! Folders that appear as a whole, and that one process at a time writes into.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::{PARTIAL, cannot_write, entries, finish_set, folder_of, is_partial, make_folder, sync_folder};

/// Whoever holds it writes into its folder alone.
const LOCK: &str = ".eqdiff-lock";

/// A folder that is filled under a temporary name, and removed again unless it is placed.
pub struct StagedFolder(TempDir);

/// A folder for what is to appear at `wanted` or beside it as a whole.
///
/// # Errors
/// If folders cannot be made there.
pub fn stage_folder(wanted: &Path) -> Result<StagedFolder> {
    let above = folder_of(wanted);
    make_folder(above)?;
    let made = tempfile::Builder::new().prefix(PARTIAL.0).suffix(PARTIAL.1).tempdir_in(above);
    Ok(StagedFolder(made.with_context(|| format!("cannot make a folder in {}", above.display()))?))
}

impl StagedFolder {
    /// Where it is so far.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Gives it its name; none if something is there already.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn place(self, folder: &Path) -> Result<Option<PathBuf>> {
        if folder.is_dir() && is_empty(folder)? {
            let _ = fs::remove_file(folder.join(LOCK));
            let _ = fs::remove_dir(folder); // else it is not empty any more, and the next line says so
        }
        if folder.exists() || folder.is_symlink() {
            return Ok(None);
        }
        match fs::rename(self.path(), folder) {
            Ok(()) => {
                open_to_others(folder)?;
                let _ = self.0.keep();
                sync_folder(folder).with_context(|| cannot_write(folder))?;
                Ok(Some(folder.to_path_buf()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
        }
    }

    /// Gives it the first name of `stem`, `stem-2`, `stem-3`... that is free.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn place_beside(self, stem: &Path) -> Result<PathBuf> {
        let mut this = self;
        for n in 1.. {
            let folder = numbered(stem, n);
            if folder.exists() {
                continue;
            }
            match fs::rename(this.path(), &folder) {
                Err(_) if folder.exists() => {} // somebody else was faster
                Err(error) => return Err(error).with_context(|| format!("cannot make {}", folder.display())),
                Ok(()) => {
                    open_to_others(&folder)?;
                    this.0.disable_cleanup(true);
                    sync_folder(&folder).with_context(|| cannot_write(&folder))?;
                    return Ok(folder);
                }
            }
        }
        bail!("there is no free name like {}", stem.display())
    }
}

/// Temporary folders are closed to other users; what is placed is an ordinary folder.
fn open_to_others(_folder: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let above = fs::metadata(folder_of(_folder)).map_or(0o755, |above| above.permissions().mode() & 0o777);
        fs::set_permissions(_folder, fs::Permissions::from_mode(above | 0o700))
            .with_context(|| cannot_write(_folder))?;
    }
    Ok(())
}

/// `stem`, `stem-2`, `stem-3`...
pub fn numbered(stem: &Path, n: usize) -> PathBuf {
    let mut name = stem.as_os_str().to_owned();
    if n > 1 {
        name.push(format!("-{n}"));
    }
    PathBuf::from(name)
}

/// The right to write into a folder; given back when it is dropped or its process ends.
#[derive(Debug)]
pub struct Lock {
    folder: PathBuf,
    /// Closing it gives the lock back.
    _file: File,
}

impl Lock {
    /// Takes the lock of a folder that exists; none if another process has it.
    ///
    /// # Errors
    /// If the lock's file cannot be made.
    pub fn take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        if path.is_symlink() {
            bail!("{} is a link, which no program of ours makes", path.display());
        }
        if path.exists() && !path.is_file() {
            bail!("{} is no ordinary file, which no program of ours makes", path.display());
        }
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = open().with_context(|| cannot_write(&path))?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            // a file system without locks: better without than not at all
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(Some(Self { folder: folder.to_path_buf(), _file: file })),
        }
    }

    /// Takes the lock as soon as no other process has it; none if `wanted` says meanwhile that it is needed no more.
    ///
    /// # Errors
    /// As [`take`](Self::take), or what `wanted` says.
    pub fn wait(folder: &Path, mut wanted: impl FnMut() -> Result<bool>) -> Result<Option<Self>> {
        while wanted()? {
            if let Some(lock) = Self::take(folder)? {
                return Ok(Some(lock));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(None)
    }

    /// Removes what processes left unfinished that died in this folder.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn sweep(&self) -> Result<()> {
        finish_set(&self.folder)?;
        for entry in entries(&self.folder)? {
            if is_partial(&entry) {
                remove(&self.folder.join(entry));
            }
        }
        Ok(())
    }
}

/// Removes what processes left unfinished in a folder that several may write into: files that nobody has touched for
/// some minutes.
///
/// # Errors
/// If the folder cannot be read.
pub fn sweep_old(folder: &Path) -> Result<()> {
    for name in entries(folder)?.into_iter().filter(|name| is_partial(name)) {
        let path = folder.join(name);
        let touched = path.symlink_metadata().and_then(|file| file.modified());
        if touched.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > Duration::from_secs(600))) {
            remove(&path);
        }
    }
    Ok(())
}

/// Removes a file, or a folder with what is in it. Where that fails, it only takes space.
fn remove(path: &Path) {
    let _ = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// Whether a folder has nothing in it but what this module leaves there.
///
/// # Errors
/// If it cannot be read.
pub fn is_empty(folder: &Path) -> Result<bool> {
    Ok(entries(folder)?.iter().all(|name| name == LOCK || is_partial(name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn one_process_at_a_time() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let lock = Lock::take(folder.path())?.context("the lock")?;
        assert!(Lock::take(folder.path())?.is_none());
        fs::write(folder.path().join(".eqdiff-abc.part"), "")?;
        assert!(is_empty(folder.path())?);
        fs::create_dir(folder.path().join(".eqdiff-abd.part"))?;
        fs::write(folder.path().join(".eqdiff-abd.part/photo"), "")?;
        lock.sweep()?;
        assert_eq!(entries(folder.path())?, [LOCK]);
        drop(lock);
        assert!(Lock::take(folder.path())?.is_some());
        let (old, young) = (folder.path().join(".eqdiff-old.part"), folder.path().join(".eqdiff-young.part"));
        fs::write(&young, "")?;
        let hour = std::time::SystemTime::now() - Duration::from_secs(3600);
        File::create(&old)?.set_modified(hour)?;
        sweep_old(folder.path())?;
        assert!(!old.exists() && young.exists());
        fs::write(folder.path().join("theirs"), "")?;
        assert!(!is_empty(folder.path())?);
        Ok(())
    }

    #[test]
    fn folders_appear_as_a_whole_under_a_free_name() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let stem = folder.path().join("runs/dog");
        let staged = || -> Result<StagedFolder> {
            let staged = stage_folder(&stem)?;
            fs::write(staged.path().join("a"), "1")?;
            Ok(staged)
        };
        let names = [staged()?.place_beside(&stem)?, staged()?.place_beside(&stem)?];
        assert_eq!(names, [stem.clone(), numbered(&stem, 2)]);
        assert_eq!(content(&stem.join("a")), "1");
        assert!(staged()?.place(&stem)?.is_none());
        let empty = folder.path().join("runs/empty");
        fs::create_dir(&empty)?;
        assert!(staged()?.place(&empty)?.is_some());
        assert_eq!(entries(&folder.path().join("runs"))?.len(), 3, "what was not placed is gone");
        Ok(())
    }
}
