//! The folders of an adapter's evaluations: which one is for a request, and which are finished.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::adapter::Adapter;
use crate::evaluation::scores::Evaluation;
use crate::files::{numbered, read_text, stage_folder, write_whole};

/// The first folder's name, with which those of all begin.
const FIRST: &str = "evaluation";

/// The scores of a finished one.
pub const SCORES: &str = "evaluation.json";

/// The file that says what an evaluation was asked for.
const ASKED: &str = "asked.toml";

/// What decides which pictures of the adapter an evaluation has; those of the base alone lie in a folder beside them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)] // the names of what is drawn with
pub(super) struct Asked {
    /// Tells what was learnt.
    pub(super) adapter: String,
    pub(super) base: String,
    pub(super) steps: usize,
    pub(super) guidance: f64,
    pub(super) limit: Option<usize>,
    pub(super) seed: String,
    pub(super) dtype: String,
    /// The steps that the adapter had taken. It decides nothing, since `adapter` does, and older versions did not write
    /// it; but it tells whether the adapter was trained on since without reading all that was learnt.
    pub(super) trained: Option<usize>,
}

impl Asked {
    fn read(folder: &Path) -> Option<Self> {
        toml::from_str(&read_text(&folder.join(ASKED)).ok()?).ok()
    }
}

/// The folder of an evaluation: one that an earlier call of the same request began, or a new one.
///
/// # Errors
/// If it cannot be made.
pub(super) fn place(adapter: &Path, asked: &Asked) -> Result<PathBuf> {
    let text = toml::to_string(asked).context("cannot write down what was asked for")?;
    for n in 1.. {
        let folder = numbered(&adapter.join(FIRST), n);
        if folder.is_symlink() {
            continue; // nothing of ours: it may lead anywhere
        }
        if !folder.exists() {
            let staged = stage_folder(&folder)?;
            write_whole(&staged.path().join(ASKED), text.as_bytes())?;
            staged.place(&folder)?; // none: another evaluation was faster, perhaps of the same
        }
        let is_same = |known: Asked| Asked { trained: asked.trained, ..known } == *asked;
        if Asked::read(&folder).is_some_and(is_same) {
            return Ok(folder);
        }
    }
    bail!("there is no free name for an evaluation in {}", adapter.display())
}

/// An evaluation that is finished.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its folder's name.
    pub name: String,
    /// What it found.
    pub found: Evaluation,
    /// The steps that the adapter had taken, where it has taken others since.
    pub older: Option<usize>,
}

/// All finished evaluations of an adapter. The last one is what to show: the youngest of its present state, else of the
/// state before.
pub fn finished(adapter: &Adapter) -> Vec<Finished> {
    let entries = std::fs::read_dir(&adapter.folder).into_iter().flatten().flatten();
    // links are nothing of ours
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = folders.filter_map(|entry| entry.file_name().into_string().ok());
    let mut all: Vec<_> = names
        .filter_map(|name| {
            let (number, folder) = (number(&name)?, adapter.folder.join(&name));
            let scores = folder.join(SCORES);
            let found = serde_json::from_str(&read_text(&scores).ok()?).ok()?;
            let taken = Asked::read(&folder).and_then(|asked| asked.trained);
            let older = taken.filter(|&steps| steps != adapter.manifest.steps);
            let time = scores.metadata().and_then(|meta| meta.modified()).ok();
            Some(((older.unwrap_or(usize::MAX), time, number), Finished { name, found, older }))
        })
        .collect();
    all.sort_by_key(|(order, _)| *order);
    all.into_iter().map(|(_, finished)| finished).collect()
}

/// Whether a folder of an adapter has the name of an evaluation.
pub fn is_evaluation(name: &str) -> bool {
    number(name).is_some()
}

/// The number of an evaluation, as [`numbered`] names them.
fn number(name: &str) -> Option<usize> {
    match name.strip_prefix(FIRST)? {
        "" => Some(1),
        rest => rest.strip_prefix('-')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_finds_its_folder_again() -> Result<()> {
        let adapter = tempfile::tempdir()?;
        let asked = Asked {
            adapter: "a".into(),
            base: "b".into(),
            steps: 2,
            guidance: 7.5,
            limit: None,
            seed: "0".into(),
            dtype: "f32".into(),
            trained: Some(4),
        };
        let first = place(adapter.path(), &asked)?;
        assert_eq!(first, adapter.path().join("evaluation"));
        let other = place(adapter.path(), &Asked { limit: Some(3), ..asked.clone() })?;
        assert_eq!(other, adapter.path().join("evaluation-2"));
        assert_eq!(place(adapter.path(), &asked)?, first);
        // as older versions wrote it down
        let text = std::fs::read_to_string(first.join(ASKED))?.replace("trained = 4", "baseline = true");
        std::fs::write(first.join(ASKED), text)?;
        assert_eq!(place(adapter.path(), &asked)?, first);
        Ok(())
    }

    #[test]
    fn evaluations_are_told_by_their_names() {
        assert!(["evaluation", "evaluation-2", "evaluation-10"].into_iter().all(is_evaluation));
        assert!(!["evaluations", "evaluation-x", "evaluation-", "photos", ""].into_iter().any(is_evaluation));
    }
}
