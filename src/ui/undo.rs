//! What is deleted is moved away first, so that it can come back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::answer::{Answer, missing};
use super::names::is_plain;
use crate::files::{make_folder, read_text, write_whole};

/// Hidden, so that no command takes it for a subject or an adapter.
const REMOVED: &str = ".removed";
const RECORD: &str = "removed.json";

/// How long what was removed is kept.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What was removed at once.
#[derive(Serialize, Deserialize)]
struct Record {
    /// Where each thing was, relative to the section.
    moved: Vec<PathBuf>,
    /// What was made in its place.
    made: Vec<PathBuf>,
}

/// Moves things of a section (`subjects`, `outputs`) away, and gives the word by which they come back. Of those that are
/// `made` instead, coming back is the end.
pub(super) fn remove(section: &Path, things: &[PathBuf], made: &[PathBuf]) -> Result<String> {
    let id: String = rand::random::<[u8; 8]>().iter().map(|byte| format!("{byte:02x}")).collect();
    let folder = section.join(REMOVED).join(&id);
    make_folder(&folder)?;
    let relative = |paths: &[PathBuf]| -> Result<Vec<PathBuf>> {
        paths.iter().map(|path| Ok(path.strip_prefix(section)?.to_path_buf())).collect()
    };
    let record = Record { moved: relative(things)?, made: relative(made)? };
    write_whole(&folder.join(RECORD), &serde_json::to_vec(&record)?)?;
    for (i, thing) in things.iter().enumerate() {
        let moved = fs::rename(thing, folder.join(i.to_string()));
        moved.with_context(|| format!("cannot remove {}", thing.display()))?;
    }
    Ok(id)
}

/// Brings back what was removed.
pub(super) fn put_back(section: &Path, id: &str) -> Answer<()> {
    let folder = section.join(REMOVED).join(id);
    if !is_plain(id) || !folder.is_dir() {
        return Err(missing("such thing to bring back any more"));
    }
    Ok(back(section, &folder)?)
}

fn back(section: &Path, folder: &Path) -> Result<()> {
    let record: Record = serde_json::from_str(&read_text(&folder.join(RECORD))?)?;
    for path in record.moved.iter().chain(&record.made) {
        if path.components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
            bail!("{} is damaged", folder.join(RECORD).display());
        }
    }
    for made in &record.made {
        let _ = fs::remove_file(section.join(made)); // what is not there is gone already
    }
    for (i, thing) in record.moved.iter().enumerate() {
        let (kept, place) = (folder.join(i.to_string()), section.join(thing));
        if kept.exists() {
            if place.exists() {
                bail!("something else is called {} by now", place.display());
            }
            place.parent().map(make_folder).transpose()?;
            fs::rename(kept, &place).with_context(|| format!("cannot bring back {}", place.display()))?;
        }
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

/// Ends for good what was removed long ago.
pub(super) fn purge(section: &Path) {
    for entry in fs::read_dir(section.join(REMOVED)).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|meta| meta.modified()).ok();
        if age.and_then(|time| SystemTime::now().duration_since(time).ok()).is_some_and(|age| age > KEPT) {
            let _ = fs::remove_dir_all(entry.path()); // it only takes space
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_comes_back() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let section = folder.path();
        let at = |name: &str| section.join(name);
        fs::create_dir(at("clock"))?;
        fs::write(at("clock/a.png"), "old")?;
        let id = remove(section, &[at("clock/a.png")], &[at("clock/b.png")])?;
        fs::write(at("clock/b.png"), "new")?;
        assert!(!at("clock/a.png").exists());
        put_back(section, &id).map_err(|refusal| anyhow::anyhow!(refusal.text))?;
        assert_eq!(fs::read_to_string(at("clock/a.png"))?, "old");
        assert!(!at("clock/b.png").exists() && put_back(section, &id).is_err() && put_back(section, "../..").is_err());
        // a whole folder, in whose place another one was made meanwhile
        let id = remove(section, &[at("clock")], &[])?;
        fs::create_dir(at("clock"))?;
        assert!(put_back(section, &id).is_err() && section.join(REMOVED).join(&id).is_dir());
        Ok(())
    }
}
