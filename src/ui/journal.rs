//! What no other file says: which jobs there are, and which pictures somebody likes.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process::Process;
use crate::files::{read_text, write_whole};

/// What is done: a command of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Mask,
    Train,
    Draw,
    Evaluate,
    Export,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// It waits for its turn.
    Queued,
    Running,
    /// All was done.
    Done,
    /// Somebody stopped it; it can go on.
    Stopped,
    /// It said why it could not.
    Failed,
    /// It ended without a word: killed, or out of memory. It can go on.
    Died,
}

/// A command that was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub id: u64,
    pub kind: Kind,
    /// In words.
    pub title: String,
    /// The adapter that it makes or uses, by its folder's name; none: the base alone.
    pub adapter: Option<String>,
    pub arguments: Vec<String>,
    pub state: State,
    /// Seconds since 1970.
    pub asked: u64,
    pub began: Option<u64>,
    pub ended: Option<u64>,
    /// What runs it.
    pub process: Option<Process>,
    /// Why it failed.
    pub word: Option<String>,
}

/// All of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Journal {
    pub jobs: Vec<Job>,
    /// The number of the last job, which is never given again.
    pub last: u64,
    /// Pictures as `FOLDER/FILE`.
    pub stars: BTreeSet<String>,
}

const FILE: &str = "journal.json";

impl Journal {
    /// Reads what a folder's page knew when it was closed. A journal that nobody can read is put aside: it is a list of
    /// what was done, and what was done is elsewhere.
    ///
    /// # Errors
    /// If the file is there and cannot be read or put aside.
    pub(super) fn read(folder: &Path) -> Result<(Self, Option<String>)> {
        let path = Self::path(folder);
        let text = match read_text(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok((Self::default(), None)),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match serde_json::from_str(&text) {
            Ok(journal) => Ok((journal, None)),
            Err(error) => {
                let aside = folder.join("journal-damaged.json");
                std::fs::rename(&path, &aside).with_context(|| format!("cannot put {} aside", path.display()))?;
                let (path, aside) = (path.display(), aside.display());
                let text = format!("{path} is damaged ({error}): it is {aside} now, and the list of jobs begins anew");
                Ok((Self::default(), Some(text)))
            }
        }
    }

    /// Writes it as a whole.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        write_whole(&Self::path(folder), &serde_json::to_vec_pretty(self)?)
    }

    fn path(folder: &Path) -> PathBuf {
        folder.join(FILE)
    }

    pub(super) fn job(&mut self, id: u64) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.id == id)
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_journal_is_put_aside() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (mut journal, warning) = Journal::read(folder.path())?;
        assert!(journal.jobs.is_empty() && warning.is_none());
        journal.stars.insert("clock/a.png".into());
        journal.write(folder.path())?;
        assert_eq!(Journal::read(folder.path())?.0.stars, journal.stars);
        std::fs::write(Journal::path(folder.path()), "{")?;
        let (journal, warning) = Journal::read(folder.path())?;
        assert!(journal.stars.is_empty() && warning.is_some_and(|text| text.contains("journal-damaged.json")));
        assert_eq!(std::fs::read_to_string(folder.path().join("journal-damaged.json"))?, "{");
        Ok(())
    }
}
