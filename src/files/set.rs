//! Files that change together.

use std::fs;
use std::io::ErrorKind;
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use super::{cannot_write, is_partial, read_text, staged, sync_folder, write_whole};

/// What a set of files is to become, until all of them are.
const JOURNAL: &str = ".eqdiff-set";

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
        // by what was written, not by what is there: a reader that finishes an older set may remove the journal
        finish(self.folder, &journal)
    }
}

/// Gives what lies in a folder under temporary names the names beside those, as a set: files, or folders with all that
/// is in them.
///
/// # Errors
/// As [`Set::commit`].
pub(super) fn settle(folder: &Path, parts: &[(String, String)]) -> Result<()> {
    let journal: String = parts.iter().map(|(part, name)| format!("{part}\t{name}\n")).collect();
    write_whole(&folder.join(JOURNAL), journal.as_bytes())?;
    finish(folder, &journal)
}

/// Finishes a set whose writer died after the point of no return. Without one there is nothing to do.
///
/// # Errors
/// If files cannot be renamed, or the folder's journal is not one that a [`Set`] wrote.
pub fn finish_set(folder: &Path) -> Result<()> {
    let path = folder.join(JOURNAL);
    match read_text(&path) {
        Ok(journal) => finish(folder, &journal),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Gives the parts that a journal lists their names, and removes it.
fn finish(folder: &Path, journal: &str) -> Result<()> {
    let path = folder.join(JOURNAL);
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

/// Whether a name stays in its folder.
fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

#[cfg(test)]
mod tests {
    use super::super::entries;
    use super::*;

    fn content(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
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
}
