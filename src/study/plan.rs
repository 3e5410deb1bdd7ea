//! The plan of a study: which subjects, methods and prompts.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::published;
use crate::evaluation::prompts::Kind;
use crate::evaluation::scorer::encoders;
use crate::files::read_text;
use crate::method::elite;
use crate::settings::Settings;

/// A study as it is meant: complete, whatever files the plan was read from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it is called.
    pub title: String,
    /// The base, as the plan names it.
    pub base: String,
    /// How the base's weights are kept.
    pub dtype: String,
    /// A training with each of these seeds.
    pub seeds: Vec<u64>,
    /// Pictures of each prompt.
    pub pictures: usize,
    /// The method that the others are compared with.
    pub baseline: String,
    /// The method that the study is about.
    pub ours: String,
    /// The CLIP of the scores; none: the base's.
    pub clip: Option<String>,
    /// The DINO of the scores; none: the base's.
    pub dino: Option<String>,
    /// Prompt templates.
    pub prompts: Prompts,
    /// Whom it is about.
    pub subjects: Vec<Subject>,
    /// What is compared.
    pub methods: Vec<Method>,
}

/// Prompt templates, `{}` standing for the subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// Unstylised ones for people and animals.
    pub live: Vec<String>,
    /// Unstylised ones for everything else.
    pub object: Vec<String>,
    /// Stylised ones for both.
    pub style: Vec<String>,
}

/// A subject of the study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Its name in tables.
    pub name: String,
    /// Its whole path, or `bundled:NAME`.
    pub folder: String,
    /// Its class word.
    pub class: String,
    /// Which unstylised prompts suit it.
    pub kind: Kind,
}

/// A method of the study: a row of its tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Its short name in tables and charts.
    pub name: String,
    /// What it is, in words.
    pub title: String,
    /// The row of the published tables that it stands for.
    pub published: Option<String>,
    /// The preset that its settings began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// ELITE's files, of which pictures are drawn without a training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elite: Option<elite::Files>,
    /// All of its settings; the seed is the study's.
    pub settings: Settings,
}

impl Method {
    /// Whether what it needs is on this machine.
    pub fn is_there(&self) -> bool {
        self.elite.as_ref().is_none_or(elite::Files::are_there)
    }

    /// Its name, and its title where that says more.
    pub fn named(&self) -> String {
        if self.title == self.name { self.name.clone() } else { format!("{} ({})", self.name, self.title) }
    }
}

/// A study of more cells is a slip of the hand.
const MOST: usize = 10_000_000;

/// Prompts of a list whose pictures have noise of their own.
pub(super) const MOST_PROMPTS: usize = 500;

/// Pictures of a prompt that have noise of their own.
pub(super) const MOST_PICTURES: usize = 1000;

/// Seeds of pictures that a training's seed has to itself: two lists of prompts.
pub(super) const NOISES: u64 = (2 * MOST_PROMPTS * MOST_PICTURES) as u64;

impl Plan {
    /// The plan that a study's folder holds.
    ///
    /// # Errors
    /// If there is none, or it is damaged.
    pub fn open(study: &Path) -> Result<Self> {
        let path = study.join(PLAN);
        let text = read_text(&path).with_context(|| format!("{} is no study: cannot read {PLAN}", study.display()))?;
        toml::from_str(&text).with_context(|| format!("{} does not fit", path.display()))
    }

    /// As TOML.
    ///
    /// # Errors
    /// If a number is larger than TOML's.
    pub fn toml(&self) -> Result<String> {
        toml::to_string_pretty(self).context("cannot write the plan as TOML")
    }

    /// The unstylised prompts that suit a subject.
    pub fn unstylised(&self, subject: &Subject) -> &[String] {
        match subject.kind {
            Kind::Live => &self.prompts.live,
            Kind::Object => &self.prompts.object,
        }
    }

    /// A method by name.
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// The method that stands for a row of the published tables.
    pub fn published(&self, row: &str) -> Option<&Method> {
        self.methods.iter().find(|method| method.published.as_deref() == Some(row))
    }

    /// Names of the CLIP and the DINO of the scores, without the folders that they lie in.
    pub fn encoders(&self) -> [&str; 2] {
        let (clip, dino) = encoders(&self.base, self.clip.as_deref(), self.dino.as_deref());
        [clip, dino].map(last)
    }

    /// The plan, if it makes sense.
    pub(super) fn check(self) -> Result<Self> {
        ensure!(!self.seeds.is_empty(), "seeds is empty: a training needs one");
        ensure!(self.pictures > 0, "pictures = 0: nothing would be drawn");
        ensure!(self.pictures <= MOST_PICTURES, "pictures = {}: at most {MOST_PICTURES} of a prompt", self.pictures);
        for (list, prompts) in
            [("live", &self.prompts.live), ("object", &self.prompts.object), ("style", &self.prompts.style)]
        {
            ensure!(prompts.len() <= MOST_PROMPTS, "prompts.{list}: {} of them, at most {MOST_PROMPTS}", prompts.len());
        }
        ensure!(!self.subjects.is_empty(), "there is no subject");
        ensure!(!self.methods.is_empty(), "there is no method: write [[methods]] with a name and a preset");
        only_once("seed", self.seeds.iter())?;
        only_once("subject", self.subjects.iter().map(|subject| &subject.name))?;
        only_once("method", self.methods.iter().map(|method| &method.name))?;
        for name in self.methods.iter().map(|method| &method.name) {
            let printable = !name.trim().is_empty() && !name.contains(char::is_control);
            ensure!(printable, "the method {name:?}: a name is a word or two, in one line");
        }
        for name in [&self.baseline, &self.ours] {
            let known = || self.methods.iter().map(|method| method.name.as_str()).collect::<Vec<_>>().join(", ");
            ensure!(self.method(name).is_some(), "there is no method {name:?}: one of {}", known());
        }
        let published = || self.methods.iter().filter_map(|method| method.published.as_deref());
        only_once("published row", published())?;
        for row in published() {
            ensure!(published::row(row).is_some(), "published = {row:?}: one of {}", published::names());
        }
        for Method { name, elite, settings, .. } in &self.methods {
            let Some(files) = elite else { continue };
            files.check().with_context(|| format!("the method {name}"))?;
            ensure!(!settings.sampling.dreammatcher, "the method {name}: DreamMatcher matches what an adapter draws");
        }
        for seed in &self.seeds {
            let most = u64::MAX / NOISES - 1;
            ensure!(*seed <= most, "the seed {seed} is too large: at most {most}");
        }
        let prompts = self.prompts.live.len().max(self.prompts.object.len()) + self.prompts.style.len();
        ensure!(prompts > 0, "there is no prompt");
        let sizes = [self.subjects.len(), self.methods.len(), self.seeds.len(), prompts, self.pictures];
        let cells = sizes.into_iter().try_fold(1usize, usize::checked_mul);
        ensure!(cells.is_some_and(|cells| cells <= MOST), "more than {MOST} pictures");
        let mut folders = HashMap::new();
        for training in self.trainings()? {
            let (id, own) = (&training.id, format!("{} by {}", training.subject.name, training.method.name));
            if let Some(other) = folders.insert(id.clone(), own.clone()) {
                bail!("{other} and {own} are the same training {id}: give them names that differ in letters or digits");
            }
        }
        Ok(self)
    }
}

/// The plan in a study's folder.
pub const PLAN: &str = "plan.toml";

/// The last part of a path: what something is called whose folders are another matter on another machine.
pub fn last(path: &str) -> &str {
    Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or(path)
}

fn only_once<T: Ord + std::fmt::Debug>(what: &str, all: impl Iterator<Item = T>) -> Result<()> {
    let mut known = BTreeSet::new();
    for one in all {
        let text = format!("{one:?}");
        ensure!(known.insert(one), "the {what} {text} is there twice");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Precision;

    fn of_methods(methods: &str) -> Result<Plan> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("plan.toml");
        std::fs::write(&file, format!("title = \"t\"\nsubjects = [{{ folder = \"dog\" }}]\n{methods}"))?;
        Plan::read(&file, Precision::F32, true)
    }

    #[test]
    fn two_names_of_one_training_are_told() -> Result<()> {
        let row = |name: &str, preset: &str| format!("[[methods]]\nname = {name:?}\npreset = {preset:?}\n");
        let error = format!("{:#}", of_methods(&(row("été", "a") + &row("ôtô", "a"))).err().context("no error")?);
        assert!(error.contains("by été and") && error.contains("by ôtô are the same training"), "{error}");
        assert_eq!(of_methods(&(row("été", "a") + &row("ôtô", "b")))?.methods.len(), 2);
        Ok(())
    }

    #[test]
    fn there_is_noise_for_all_pictures() -> Result<()> {
        let method = "[[methods]]\nname = \"A\"\npreset = \"a\"\n";
        let refused = |text: &str| -> Result<String> {
            Ok(format!("{:#}", of_methods(&format!("{text}\n{method}")).err().context("no error")?))
        };
        assert!(refused("pictures = 1001")?.contains("pictures = 1001: at most 1000"));
        let list = tempfile::NamedTempFile::new()?;
        std::fs::write(&list, (0..501).map(|i| format!("a {{}} and {i}\n")).collect::<String>())?;
        let error = refused(&format!("[prompts]\nstyle = {:?}", list.path()))?;
        assert!(error.contains("prompts.style: 501 of them, at most 500"), "{error}");
        assert!(refused("seeds = [18446744073709]")?.contains("too large"));
        Ok(())
    }
}
