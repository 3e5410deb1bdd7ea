//! What is done of a study: one line for each finished cell, in a file for each training, which one process at a time
//! appends to. Put together in the order of the plan they are the study's ledger, whoever did which part, and however
//! often it was interrupted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::cells::{Cell, Training};
use super::plan::{Method, Plan};
use crate::evaluation::scores::{Group, Scores};
use crate::files::write_bit_by_bit;

/// The ledger of a whole study, in its folder.
pub const LEDGER: &str = "ledger.jsonl";

/// The ledger of a training, in its folder.
pub const CELLS: &str = "cells.jsonl";

/// Where a study keeps a training.
pub fn training_folder(study: &Path, training: &Training) -> PathBuf {
    study.join("trainings").join(&training.id)
}

/// Where a study keeps what a training comes to.
pub fn adapter_folder(study: &Path, training: &Training) -> PathBuf {
    training_folder(study, training).join("adapter")
}

/// Where a study keeps a training's pictures.
pub fn pictures_folder(study: &Path, training: &Training) -> PathBuf {
    training_folder(study, training).join("pictures")
}

/// Where a study keeps a cell's picture.
pub fn picture(study: &Path, training: &Training, cell: &Cell) -> PathBuf {
    pictures_folder(study, training).join(format!("{}.png", cell.id))
}

/// A finished cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Training and cell.
    pub id: String,
    /// The subject's name.
    pub subject: String,
    /// The method's name.
    pub method: String,
    /// The training's seed.
    pub seed: u64,
    /// The prompt's list.
    pub group: Group,
    /// The prompt's template.
    pub prompt: String,
    /// Which of the prompt's pictures, from 0.
    pub picture: usize,
    /// What the encoders say.
    #[serde(flatten)]
    pub scores: Scores,
    /// How much of each attribute the base's judge finds as it should be; empty where there is no judge.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub judge: BTreeMap<String, f32>,
}

impl Entry {
    /// The entry of a cell.
    pub fn new(training: &Training, cell: &Cell, scores: Scores, judge: Vec<(&str, f32)>) -> Self {
        Self {
            id: id(training, cell),
            subject: training.subject.name.clone(),
            method: training.method.name.clone(),
            seed: training.seed,
            group: cell.group,
            prompt: cell.template.into(),
            picture: cell.picture,
            scores,
            judge: judge.into_iter().map(|(attribute, share)| (attribute.into(), share)).collect(),
        }
    }

    fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self).context("cannot write a cell as JSON")? + "\n")
    }
}

fn id(training: &Training, cell: &Cell) -> String {
    format!("{}/{}", training.id, cell.id)
}

/// The ledger of a training, open for appending. Whoever holds it has the lock of its folder.
pub struct Ledger {
    path: PathBuf,
    file: File,
    done: HashSet<String>,
}

impl Ledger {
    /// Opens the ledger in a training's folder, and cuts off a last line that a process could not finish.
    ///
    /// # Errors
    /// If it cannot be read or written, or is damaged or of another version.
    pub fn open(folder: &Path) -> Result<Self> {
        let path = folder.join(CELLS);
        let context = || format!("cannot open {}", path.display());
        let file = File::options().create(true).read(true).append(true).open(&path).with_context(context)?;
        let (mut done, mut whole) = (HashSet::new(), 0);
        read(&path, |entry, end| {
            if !done.insert(entry.id.clone()) {
                bail!("{} has {} twice: {AGAIN}", path.display(), entry.id);
            }
            whole = end;
            Ok(())
        })?;
        if file.metadata().with_context(context)?.len() > whole {
            file.set_len(whole).and_then(|()| file.sync_all()).with_context(context)?;
        }
        Ok(Self { path, file, done })
    }

    /// Whether a cell is finished.
    pub fn has(&self, training: &Training, cell: &Cell) -> bool {
        self.done.contains(&id(training, cell))
    }

    /// Appends finished cells; they are on the disk when it returns.
    ///
    /// # Errors
    /// If they cannot be written, or one is there already.
    pub fn append(&mut self, entries: &[Entry]) -> Result<()> {
        let mut lines = String::new();
        for entry in entries {
            if !self.done.insert(entry.id.clone()) {
                bail!("{} is in {} already", entry.id, self.path.display());
            }
            lines += &entry.line()?;
        }
        let written = self.file.write_all(lines.as_bytes()).and_then(|()| self.file.sync_data());
        written.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Hands over the entries of a ledger, each with the number of bytes up to its end. Without a file there are none; what
/// a process died over at the end is left out.
///
/// # Errors
/// If it cannot be read, is damaged or of another version, or what `entry` says.
pub fn read(path: &Path, mut entry: impl FnMut(Entry, u64) -> Result<()>) -> Result<()> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file.with_context(|| format!("cannot read {}", path.display()))?,
    };
    let (mut reader, mut line, mut end, mut torn) = (BufReader::new(file), Vec::new(), 0, None);
    for number in 1.. {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line).with_context(|| format!("cannot read {}", path.display()))?;
        if bytes == 0 {
            break;
        }
        end += bytes as u64;
        let whole = line.strip_suffix(b"\n").unwrap_or_default();
        match (serde_json::from_slice(whole), torn) {
            (Ok(known), None) => entry(known, end)?,
            (Ok(_), Some(torn)) => bail!("line {torn} of {} is damaged: {AGAIN}", path.display()),
            // nothing of it may be cut off
            (Err(_), _) if serde_json::from_slice::<Map<String, Value>>(whole).is_ok() => {
                bail!("line {number} of {} is of another version of this program: {AGAIN}", path.display())
            }
            _ => torn = torn.or(Some(number)),
        }
    }
    Ok(())
}

/// What helps against a damaged ledger.
const AGAIN: &str = "remove this file, and the same study command scores its pictures again";

/// How much of a study is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Finished cells.
    pub done: usize,
    /// All cells.
    pub all: usize,
}

/// What [`merge`] found.
pub struct Merged<'a> {
    /// How much is done.
    pub progress: Progress,
    /// The methods that do not count, since nothing of them is done and their files are not there.
    pub left_out: Vec<&'a Method>,
    /// Why trainings' ledgers could not be read: nothing of them is done.
    pub damaged: Vec<Error>,
}

/// Puts the ledgers of all trainings together in the order of the plan, and hands over each entry under the names that
/// the plan has for its subject and method. Cells of other plans are left out.
///
/// # Errors
/// If the whole ledger cannot be written.
pub fn merge<'a>(plan: &'a Plan, study: &Path, mut tell: impl FnMut(&Entry)) -> Result<Merged<'a>> {
    let (mut by_method, mut damaged): (BTreeMap<&str, Progress>, _) = (BTreeMap::new(), Vec::new());
    write_bit_by_bit(&study.join(LEDGER), |file| {
        for training in plan.trainings()? {
            let mut known = HashMap::new();
            let path = training_folder(study, &training).join(CELLS);
            let whole = read(&path, |entry, _| {
                known.insert(entry.id.clone(), entry);
                Ok(())
            });
            if let Err(error) = whole {
                known.clear();
                damaged.push(error);
            }
            let (subject, method) = (&training.subject.name, &training.method.name);
            let progress = by_method.entry(method).or_default();
            for cell in training.cells() {
                progress.all += 1;
                if let Some(entry) = known.remove(&id(&training, &cell)) {
                    progress.done += 1;
                    let entry = Entry { subject: subject.clone(), method: method.clone(), ..entry };
                    file.write_all(entry.line()?.as_bytes())?;
                    tell(&entry);
                }
            }
        }
        Ok(())
    })?;
    let of = |method: &Method| by_method.get(method.name.as_str()).copied().unwrap_or_default();
    let (left_out, counted): (Vec<&Method>, Vec<&Method>) =
        plan.methods.iter().partition(|method| of(method).done == 0 && !method.is_there());
    let add = |sum: Progress, one: Progress| Progress { done: sum.done + one.done, all: sum.all + one.all };
    let progress = counted.into_iter().map(of).fold(Progress::default(), add);
    Ok(Merged { progress, left_out, damaged })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Precision;

    fn entry(id: &str) -> Entry {
        let [subject, method, prompt] = ["dog", "F", "a {}"].map(String::from);
        let (seed, group, picture, scores) = (3, Group::Stylised, 0, Scores::default());
        Entry { id: id.into(), subject, method, seed, group, prompt, picture, scores, judge: BTreeMap::new() }
    }

    #[test]
    fn the_plan_says_what_things_are_called() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let plan = |name: &str| -> Result<Plan> {
            let file = folder.path().join("any.toml");
            let subjects = "subjects = [{ folder = \"dog\" }]";
            let text = format!("title = \"t\"\n{subjects}\n[[methods]]\nname = {name:?}\npreset = \"a\"");
            std::fs::write(&file, text)?;
            Plan::read(&file, Precision::F32, true)
        };
        let first = plan("A: one")?;
        let training = first.trainings()?.into_iter().next().context("no training")?;
        let cell = training.cells().next().context("no cell")?;
        std::fs::create_dir_all(training_folder(folder.path(), &training))?;
        let scored = Entry::new(&training, &cell, Scores::default(), Vec::new());
        Ledger::open(&training_folder(folder.path(), &training))?.append(&[scored])?;
        let mut names = Vec::new();
        let renamed = plan("A? one")?;
        let merged = merge(&renamed, folder.path(), |entry| names.push(entry.method.clone()))?;
        assert_eq!((names, merged.progress.done, merged.left_out.len()), (vec!["A? one".to_string()], 1, 0));
        assert!(merged.damaged.is_empty());
        // of what is damaged nothing counts
        let path = training_folder(folder.path(), &training).join(CELLS);
        std::fs::write(&path, std::fs::read_to_string(&path)? + "nonsense\n" + &entry("b").line()?)?;
        let merged = merge(&renamed, folder.path(), |_| ())?;
        let said = format!("{:#}", merged.damaged.first().context("no damage")?);
        assert!(merged.progress.done == 0 && said.contains("line 2 of") && said.contains("remove this file"), "{said}");
        Ok(())
    }

    #[test]
    fn lines_that_were_torn_are_cut_off() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(CELLS);
        let two = entry("a").line()? + &entry("b").line()?;
        for cut in two.len() - 20..two.len() {
            std::fs::write(&path, &two[..cut])?;
            let mut ledger = Ledger::open(folder.path())?;
            assert!(ledger.append(&[entry("a")]).is_err());
            ledger.append(&[entry("b")])?;
            assert_eq!(std::fs::read_to_string(&path)?, two);
        }
        // blocks of a disk that lost its power
        std::fs::write(&path, two.clone() + "\0\0\0\n\0\0")?;
        Ledger::open(folder.path())?.append(&[entry("c")])?;
        assert_eq!(std::fs::read_to_string(&path)?, two + &entry("c").line()?);
        Ok(())
    }

    #[test]
    fn damage_is_told_and_not_mended() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(CELLS);
        let older = "{\"id\":\"a\",\"subject\":\"dog\"}\n";
        for (wrong, said) in [
            (older.repeat(2), "line 1 of"),
            (entry("a").line()? + older, "another version"),
            (entry("a").line()? + "nonsense\n" + &entry("b").line()?, "line 2"),
            (entry("a").line()? + &entry("a").line()?, "twice"),
        ] {
            std::fs::write(&path, &wrong)?;
            let error = format!("{:#}", Ledger::open(folder.path()).err().context("no error")?);
            assert!(error.contains(said) && error.contains(CELLS), "{error}");
            assert_eq!(std::fs::read_to_string(&path)?, wrong);
        }
        Ok(())
    }
}
