//! Files that change as a whole: what is on the disk is what was there before, or what was written, never
//! a part of it, whenever the program is killed or the disk is full.
//!
//! Content goes to a file of a unique name in the same folder, is synced and renamed, and the folder is
//! synced too. A temporary file of a process that died is called `.eqdiff-*.part`; [`Lock::sweep`]
//! removes those.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use tempfile::{NamedTempFile, TempDir};

/// How names of temporary files begin and end.
const PARTIAL: (&str, &str) = (".eqdiff-", ".part");

/// What a set of files is to become, until all of them are.
const JOURNAL: &str = ".eqdiff-set";

/// Whoever holds it writes into its folder alone.
const LOCK: &str = ".eqdiff-lock";

/// Writes a file; an older one of that name is replaced.
///
/// # Errors
/// If it cannot be written; the message names it, and what was there stays.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        staged(path, bytes)?.persist(path).map_err(|error| error.error)?;
        sync_folder(path)
    };
    write().with_context(|| cannot_write(path))
}

/// Writes a file, unless there is one of that name already: then that one stays and the answer is false.
///
/// # Errors
/// If it cannot be written; the message names it.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<bool> {
    let write = || match staged(path, bytes)?.persist_noclobber(path) {
        Ok(_) => sync_folder(path).map(|()| true),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error.error),
    };
    write().with_context(|| cannot_write(path))
}

/// Files of one folder that belong together: after a crash all of them are old or all are new, once [`finish_set`] has
/// run there.
pub struct Set<'a> {
    folder: &'a Path,
    parts: Vec<(&'a str, NamedTempFile)>,
}

impl<'a> Set<'a> {
    /// An empty set.
    pub fn new(folder: &'a Path) -> Self {
        Self { folder, parts: Vec::new() }
    }

    /// Puts a file's content on the disk, under another name so far.
    ///
    /// # Errors
    /// If it cannot be written; the message names it.
    pub fn add(&mut self, name: &'a str, bytes: &[u8]) -> Result<()> {
        let path = self.folder.join(name);
        if path.is_dir() {
            bail!("cannot write {}: a folder has that name", path.display());
        }
        self.parts.push((name, staged(&path, bytes).with_context(|| cannot_write(&path))?));
        Ok(())
    }

    /// Gives all files their names.
    ///
    /// # Errors
    /// If the folder cannot be written; all that was there stays.
    pub fn commit(self) -> Result<()> {
        let mut journal = String::new();
        let mut parts = Vec::with_capacity(self.parts.len());
        for (name, part) in self.parts {
            let file = part.path().file_name().unwrap_or_default().to_string_lossy();
            journal += &format!("{file}\t{name}\n");
            parts.push(part.into_temp_path());
        }
        // from here on the set is written: whoever comes next finishes it
        write_whole(&self.folder.join(JOURNAL), journal.as_bytes())?;
        for part in parts {
            part.keep().with_context(|| cannot_write(self.folder))?;
        }
        finish_set(self.folder)
    }
}

/// Finishes a set whose writer died after the point of no return. Without one there is nothing to do.
///
/// # Errors
/// If files cannot be renamed, or the folder's journal is not one that a [`Set`] wrote.
pub fn finish_set(folder: &Path) -> Result<()> {
    let path = folder.join(JOURNAL);
    let journal = match fs::read_to_string(&path) {
        Ok(journal) => journal,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    for line in journal.lines() {
        let (part, name) = line.split_once('\t').with_context(|| format!("{} is damaged", path.display()))?;
        // the folder may come from somebody else: nothing outside it is touched
        if !is_partial(part) || !is_plain(part) || !is_plain(name) {
            bail!("{} is damaged: {line:?}", path.display());
        }
        let target = folder.join(name);
        match fs::rename(folder.join(part), &target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {} // was renamed before the crash
            Err(error) => return Err(error).with_context(|| cannot_write(&target)),
        }
    }
    sync_folder(&path).with_context(|| cannot_write(folder))?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| cannot_write(&path)),
        _ => Ok(()),
    }
}

/// Makes a folder and those above it.
///
/// # Errors
/// If it cannot be made; the message names it.
pub fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
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
        let open = || File::options().create(true).truncate(false).write(true).open(&path);
        let file = open().with_context(|| cannot_write(&path))?;
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            // a file system without locks: better without than not at all
            Ok(()) | Err(fs::TryLockError::Error(_)) => Ok(Some(Self { folder: folder.to_path_buf(), _file: file })),
        }
    }

    /// Removes what processes left unfinished that died in this folder.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn sweep(&self) -> Result<()> {
        finish_set(&self.folder)?;
        for entry in entries(&self.folder)? {
            if is_partial(&entry) {
                let _ = fs::remove_file(self.folder.join(entry)); // it only takes space
            }
        }
        Ok(())
    }
}

/// Whether a folder has nothing in it but what this module leaves there.
///
/// # Errors
/// If it cannot be read.
pub fn is_empty(folder: &Path) -> Result<bool> {
    Ok(entries(folder)?.iter().all(|name| name == LOCK || is_partial(name)))
}

fn entries(folder: &Path) -> Result<Vec<String>> {
    let read = fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let names = read.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    names.collect::<io::Result<_>>().with_context(|| format!("cannot read the folder {}", folder.display()))
}

fn is_partial(name: &str) -> bool {
    name.starts_with(PARTIAL.0) && name.ends_with(PARTIAL.1)
}

/// Whether a name stays in its folder.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None))
}

/// The content of `path` under a temporary name, synced.
fn staged(path: &Path, bytes: &[u8]) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PARTIAL.0).suffix(PARTIAL.1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666)); // less the user's mask, as for any file
    }
    let mut file = builder.tempfile_in(folder_of(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
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
        ErrorKind::ReadOnlyFilesystem => Some("the file system is read-only: choose another folder with --out"),
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
        assert!(!write_new(&path, b"three")? && write_new(&folder.path().join("b.txt"), b"b")?);
        assert_eq!((content(&path), entries(folder.path())?.len()), ("two".into(), 2));
        let error = write_whole(&folder.path().join("none/a.txt"), b"").unwrap_err();
        assert!(error.to_string().contains("none"), "{error:#}");
        Ok(())
    }

    #[test]
    #[cfg(unix)]
    fn links_are_replaced_and_not_followed() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (outside, inside) = (folder.path().join("outside"), folder.path().join("in"));
        fs::create_dir(&inside)?;
        fs::write(&outside, "precious")?;
        for name in ["a.txt", "a.part", LOCK] {
            std::os::unix::fs::symlink(&outside, inside.join(name))?;
        }
        write_whole(&inside.join("a.txt"), b"new")?;
        assert!(Lock::take(&inside).is_err());
        assert_eq!((content(&outside).as_str(), content(&inside.join("a.txt")).as_str()), ("precious", "new"));
        Ok(())
    }

    #[test]
    fn a_set_that_was_interrupted_is_finished() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let mut set = Set::new(folder.path());
        set.add("a", b"1")?;
        set.add("b", b"1")?;
        set.commit()?;
        assert_eq!([content(&at("a")), content(&at("b"))], ["1", "1"]);
        // killed after the first rename
        fs::write(at(JOURNAL), ".eqdiff-x.part\ta\n.eqdiff-y.part\tb\n")?;
        fs::write(at("a"), "2")?;
        fs::write(at(".eqdiff-y.part"), "2")?;
        finish_set(folder.path())?;
        assert_eq!([content(&at("a")), content(&at("b"))], ["2", "2"]);
        assert_eq!(entries(folder.path())?.len(), 2);
        for hostile in ["../x\ta", ".eqdiff-x.part\t../a", ".eqdiff-/../x.part\ta", "a\tb", "nonsense"] {
            fs::write(at(JOURNAL), hostile)?;
            assert!(finish_set(folder.path()).is_err(), "{hostile}");
        }
        Ok(())
    }

    #[test]
    fn one_process_at_a_time() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let lock = Lock::take(folder.path())?.context("the lock")?;
        assert!(Lock::take(folder.path())?.is_none());
        fs::write(folder.path().join(".eqdiff-abc.part"), "")?;
        assert!(is_empty(folder.path())?);
        lock.sweep()?;
        assert_eq!(entries(folder.path())?, [LOCK]);
        drop(lock);
        assert!(Lock::take(folder.path())?.is_some());
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
