//! Folders that appear as a whole, and that one process at a time writes into.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::set::settle;
use super::{PARTIAL, cannot_write, entries, finish_set, folder_of, is_partial, make_folder, sync_folder};

/// Whoever holds it writes into its folder alone.
const LOCK: &str = ".eqdiff-lock";

/// A folder that is filled under a temporary name, and removed again unless it is placed.
pub struct StagedFolder {
    dir: TempDir,
    /// Whether it is in the folder that it is to become, which was there already.
    inside: bool,
}

/// A folder for what is to appear at `wanted` or beside it as a whole. What processes that died left there is removed.
///
/// # Errors
/// If folders cannot be made there.
pub fn stage_folder(wanted: &Path) -> Result<StagedFolder> {
    // an empty folder is filled where it is: it may be the working directory, a link or another disk, whose place no
    // other folder can take
    let inside = wanted.is_dir() && is_empty(wanted)?;
    let above = if inside { wanted } else { folder_of(wanted) };
    make_folder(above)?;
    let _ = sweep_old(above); // else it only takes space
    let made = tempfile::Builder::new().prefix(PARTIAL.0).suffix(PARTIAL.1).tempdir_in(above);
    let dir = made.with_context(|| format!("cannot make a folder in {}", above.display()))?;
    Ok(StagedFolder { dir, inside })
}

impl StagedFolder {
    /// Where it is so far.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Gives it its name, the one that it was made for; none if something is there already.
    ///
    /// # Errors
    /// If that cannot be done.
    pub fn place(self, folder: &Path) -> Result<Option<PathBuf>> {
        if self.inside {
            return Ok(self.fill(folder)?.then(|| folder.to_path_buf()));
        }
        if folder.exists() || folder.is_symlink() {
            return Ok(None);
        }
        match fs::rename(self.path(), folder) {
            Ok(()) => {
                open_to_others(folder)?;
                let _ = self.dir.keep();
                sync_folder(folder).with_context(|| cannot_write(folder))?;
                Ok(Some(folder.to_path_buf()))
            }
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot make the folder {}", folder.display())),
        }
    }

    /// Moves all that is in it to the folder around it, as a set; not if something is there already.
    fn fill(self, folder: &Path) -> Result<bool> {
        if !is_empty(folder)? {
            return Ok(false);
        }
        // against others that fill it too; what is moved may bring a lock of its own, in the place of this one
        let Some(lock) = Lock::take(folder)? else { return Ok(false) };
        if !is_empty(folder)? {
            return Ok(false); // they were faster
        }
        let names = entries(self.path())?;
        let own = self.path().file_name().unwrap_or_default().to_string_lossy();
        let own = own.trim_end_matches(PARTIAL.1);
        let mut parts = Vec::with_capacity(names.len());
        for (i, name) in names.into_iter().enumerate() {
            let part = format!("{own}-{i}{}", PARTIAL.1);
            fs::rename(self.path().join(&name), folder.join(&part)).with_context(|| cannot_write(folder))?;
            parts.push((part, name));
        }
        let bare = parts.iter().all(|(_, name)| name != LOCK);
        settle(folder, &parts)?;
        drop(lock);
        if bare {
            let _ = fs::remove_file(folder.join(LOCK)); // it does no harm there
        }
        Ok(true)
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
                    this.dir.disable_cleanup(true);
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
/// some minutes, and folders in which nobody has touched anything.
///
/// # Errors
/// If the folder cannot be read, or has a damaged journal of a set.
pub fn sweep_old(folder: &Path) -> Result<()> {
    finish_set(folder)?; // its parts may be old too
    for name in entries(folder)?.into_iter().filter(|name| is_partial(name)) {
        let path = folder.join(name);
        if touched(&path).is_some_and(|time| time.elapsed().is_ok_and(|age| age > Duration::from_secs(600))) {
            remove(&path);
        }
    }
    Ok(())
}

/// When a file was written last, or any in a folder: copying a large one takes longer than its folder stays young.
fn touched(path: &Path) -> Option<SystemTime> {
    let meta = path.symlink_metadata().ok()?;
    let below = if meta.is_dir() { entries(path).unwrap_or_default() } else { Vec::new() };
    below.iter().filter_map(|name| touched(&path.join(name))).chain(meta.modified().ok()).max()
}

/// Removes a file, or a folder with what is in it. Where that fails, it only takes space.
fn remove(path: &Path) {
    let _ = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        _ => fs::remove_file(path),
    };
}

/// Whether something new can get that name: nothing is there, not even a link to nothing, or a folder with nothing in
/// it. A set that was left unfinished there is finished first.
///
/// # Errors
/// If the folder cannot be read, or has a damaged journal of a set.
pub fn is_free(folder: &Path) -> Result<bool> {
    if !folder.is_dir() {
        return Ok(!folder.exists() && !folder.is_symlink());
    }
    finish_set(folder)?;
    is_empty(folder)
}

/// Whether a folder has nothing in it but what this module leaves there.
fn is_empty(folder: &Path) -> Result<bool> {
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
        let hour = SystemTime::now() - Duration::from_secs(3600);
        File::create(&old)?.set_modified(hour)?;
        // a folder is as young as what is in it
        let (left, busy) = (folder.path().join(".eqdiff-left.part"), folder.path().join(".eqdiff-busy.part"));
        for (stage, file) in [(&left, &old), (&busy, &young)] {
            fs::create_dir(stage)?;
            fs::rename(file, stage.join("unet"))?;
            File::open(stage)?.set_modified(hour)?;
        }
        sweep_old(folder.path())?;
        assert!(!left.exists() && busy.join("unet").exists());
        // a process that died after the point of no return: its parts are no rubbish
        File::create(&old)?.set_modified(hour)?;
        fs::write(folder.path().join(".eqdiff-set"), ".eqdiff-old.part\tours\n")?;
        sweep_old(folder.path())?;
        assert!(!old.exists() && folder.path().join("ours").exists());
        fs::remove_file(folder.path().join("ours"))?;
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
        assert_eq!(entries(&folder.path().join("runs"))?.len(), 2, "what was not placed is gone");
        // what died there long ago goes when the next folder is made
        let left = folder.path().join("runs/.eqdiff-left.part");
        File::create(&left)?.set_modified(SystemTime::now() - Duration::from_secs(3600))?;
        stage_folder(&stem)?;
        assert!(!left.exists());
        Ok(())
    }

    #[test]
    fn empty_folders_are_filled_where_they_are() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let empty = folder.path().join("empty");
        fs::create_dir(&empty)?;
        let staged = |wanted: &Path| -> Result<StagedFolder> {
            let staged = stage_folder(wanted)?;
            fs::create_dir(staged.path().join("photos"))?;
            fs::write(staged.path().join("photos/a"), "1")?;
            fs::write(staged.path().join("b"), "2")?;
            Ok(staged)
        };
        let (one, two) = (staged(&empty)?, staged(&empty)?);
        assert!(one.path().starts_with(&empty) && is_free(&empty)?);
        assert_eq!(one.place(&empty)?, Some(empty.clone()));
        assert!(two.place(&empty)?.is_none() && !is_free(&empty)?);
        let mut names = entries(&empty)?;
        names.sort();
        assert_eq!(names, ["b", "photos"], "no lock, no stage, no journal");
        assert_eq!([content(&empty.join("photos/a")), content(&empty.join("b"))], ["1", "2"]);
        Ok(())
    }

    #[test]
    #[cfg(unix)]
    fn folders_behind_links_are_filled_and_locks_go_along() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (real, link, nothing) =
            (folder.path().join("real"), folder.path().join("link"), folder.path().join("nothing"));
        fs::create_dir(&real)?;
        std::os::unix::fs::symlink(&real, &link)?;
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &nothing)?;
        assert!(is_free(&link)? && !is_free(&nothing)? && is_free(&folder.path().join("new"))?);
        let staged = stage_folder(&link)?;
        let lock = Lock::take(staged.path())?.context("the lock")?;
        assert!(staged.place(&link)?.is_some() && link.is_symlink());
        assert!(Lock::take(&real)?.is_none(), "whoever made it has it");
        drop(lock);
        assert!(Lock::take(&real)?.is_some());
        Ok(())
    }
}
