//! The plan of a study: which subjects, methods and prompts, as it is written in TOML and as it is meant.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::Table;

use super::published;
use crate::base::{Base, MINI};
use crate::evaluation::prompts::{Kind, builtin, kind_of, read_file};
use crate::files::read_text;
use crate::method::elite;
use crate::ops::Precision;
use crate::settings::{Layers, Settings};
use crate::subject;

/// The plans that come with the program, by name.
pub const PLANS: [(&str, &str); 5] = [
    ("paper", include_str!("../../studies/paper.toml")),
    ("ablation", include_str!("../../studies/ablation.toml")),
    ("fdte", include_str!("../../studies/fdte.toml")),
    ("mini", include_str!("../../studies/mini.toml")),
    ("rows", include_str!("../../studies/rows.toml")),
];

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
    /// Its folder, or its name among the bundled ones.
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
}

/// A plan as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    title: String,
    base: Option<String>,
    seeds: Option<Vec<u64>>,
    pictures: Option<usize>,
    baseline: Option<String>,
    ours: Option<String>,
    clip: Option<String>,
    dino: Option<String>,
    #[serde(default)]
    prompts: Files,
    #[serde(default)]
    settings: Table,
    subjects: Subjects,
    methods: Vec<Row>,
}

/// Files of prompts; the built-in lists where there is none.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Files {
    live: Option<PathBuf>,
    object: Option<PathBuf>,
    style: Option<PathBuf>,
    /// The first so many of each list.
    limit: Option<usize>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Subjects {
    /// `bundled`, or a folder: each folder in it is a subject.
    Folder(String),
    /// One by one.
    Listed(Vec<One>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    folder: String,
    class: Option<String>,
    kind: Option<Kind>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    title: Option<String>,
    preset: Option<String>,
    elite: Option<elite::Files>,
    published: Option<String>,
    #[serde(default)]
    settings: Table,
}

/// A study of more cells is a slip of the hand.
const MOST: usize = 10_000_000;

impl Plan {
    /// Reads a plan from a file, or one of [`PLANS`]. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// If it cannot be read or makes no sense, or something that it names is not there.
    pub fn read(name: &Path, precision: Precision, offline: bool) -> Result<Self> {
        let (text, folder) = match PLANS.iter().find(|(plan, _)| Path::new(plan) == name) {
            Some((_, text)) if !name.is_file() => (text.to_string(), Path::new("")),
            _ => {
                let known = PLANS.map(|(plan, _)| plan).join(", ");
                let text = read_text(name);
                let context = || format!("cannot read the plan {} (the program's own are {known})", name.display());
                (text.with_context(context)?, name.parent().unwrap_or(Path::new("")))
            }
        };
        let written: Written = toml::from_str(&text).with_context(|| format!("{} is no plan", name.display()))?;
        written.meant(folder, precision, offline).with_context(|| format!("the plan {}", name.display()))
    }

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

    fn check(self) -> Result<Self> {
        ensure!(!self.seeds.is_empty(), "seeds is empty: a training needs one");
        ensure!(self.pictures > 0, "pictures = 0: nothing would be drawn");
        ensure!(!self.subjects.is_empty(), "there is no subject");
        ensure!(!self.methods.is_empty(), "there is no method: write [[methods]] with a name and a preset");
        only_once("seed", self.seeds.iter())?;
        only_once("subject", self.subjects.iter().map(|subject| &subject.name))?;
        only_once("method", self.methods.iter().map(|method| &method.name))?;
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
            ensure!(i64::try_from(*seed).is_ok(), "the seed {seed} is too large: at most {}", i64::MAX);
        }
        let prompts = self.prompts.live.len().max(self.prompts.object.len()) + self.prompts.style.len();
        ensure!(prompts > 0, "there is no prompt");
        let sizes = [self.subjects.len(), self.methods.len(), self.seeds.len(), prompts, self.pictures];
        let cells = sizes.into_iter().try_fold(1usize, usize::checked_mul);
        ensure!(cells.is_some_and(|cells| cells <= MOST), "more than {MOST} pictures");
        Ok(self)
    }
}

/// The plan in a study's folder.
pub const PLAN: &str = "plan.toml";

fn only_once<T: Ord + std::fmt::Debug>(what: &str, all: impl Iterator<Item = T>) -> Result<()> {
    let mut known = BTreeSet::new();
    for one in all {
        let text = format!("{one:?}");
        ensure!(known.insert(one), "the {what} {text} is there twice");
    }
    Ok(())
}

impl Written {
    fn meant(self, folder: &Path, precision: Precision, offline: bool) -> Result<Plan> {
        let base = self.base.as_deref().map_or(MINI.into(), |base| near(folder, base));
        let mut below = Layers::new()?;
        if let Some(toml) = Base::defaults(&base, offline)? {
            below = below.over(&toml, &format!("eqdiff.toml of the base {base}"))?;
        }
        let below = below.settings()?;
        let method = |row: Row| -> Result<Method> {
            ensure!(
                row.preset.is_some() != row.elite.is_some(),
                "the method {}: give it a preset, or the files of ELITE",
                row.name
            );
            let mut layers = Layers::of(&below)?;
            if let Some(preset) = &row.preset {
                layers = layers.preset(preset)?;
            }
            let layers = layers.over(&self.settings.to_string(), "settings")?;
            let layers = layers.over(&row.settings.to_string(), &format!("the settings of the method {}", row.name))?;
            // nobody looks at the previews of a study, and they are not free
            let settings = layers.over("training.preview_every = 0", "a study")?.settings()?;
            let title = row.title.unwrap_or_else(|| row.name.clone());
            let place = |files: elite::Files| elite::Files {
                mappers: folder.join(&files.mappers),
                vision: near(folder, &files.vision),
                ..files
            };
            let (published, preset, elite) = (row.published, row.preset, row.elite.map(place));
            Ok(Method { name: row.name, title, published, preset, elite, settings })
        };
        let methods = self.methods.into_iter().map(method).collect::<Result<Vec<_>>>()?;
        let (Some(first), Some(last)) = (methods.first(), methods.last()) else {
            bail!("there is no method: write [[methods]] with a name and a preset")
        };
        Plan {
            title: self.title,
            dtype: precision.to_string(),
            seeds: self.seeds.unwrap_or(vec![0]),
            pictures: self.pictures.unwrap_or(1),
            baseline: self.baseline.unwrap_or(first.name.clone()),
            ours: self.ours.unwrap_or(last.name.clone()),
            clip: self.clip.map(|clip| near(folder, &clip)),
            dino: self.dino.map(|dino| near(folder, &dino)),
            prompts: self.prompts.read(folder)?,
            subjects: self.subjects.found(folder)?,
            base,
            methods,
        }
        .check()
    }
}

/// What a plan names: a file beside it if there is one of that name, else what the name means elsewhere.
fn near(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    if path.exists() { path.display().to_string() } else { name.into() }
}

impl Files {
    fn read(self, folder: &Path) -> Result<Prompts> {
        let list = |file: &Option<PathBuf>, otherwise: Vec<String>| -> Result<Vec<String>> {
            let all = file.as_ref().map_or(Ok(otherwise), |file| read_file(&folder.join(file)))?;
            Ok(all.into_iter().take(self.limit.unwrap_or(usize::MAX)).collect())
        };
        let (live, object) = (builtin(Kind::Live), builtin(Kind::Object));
        Ok(Prompts {
            live: list(&self.live, live.unstylised)?,
            object: list(&self.object, object.unstylised)?,
            style: list(&self.style, live.stylised)?,
        })
    }
}

impl Subjects {
    fn found(self, folder: &Path) -> Result<Vec<Subject>> {
        let all: Vec<One> = match self {
            Self::Listed(all) => all,
            Self::Folder(name) => {
                let folders = if name == "bundled" { subject::bundled() } else { folders(&folder.join(name))? };
                folders.into_iter().map(|folder| One { folder, class: None, kind: None }).collect()
            }
        };
        let one = |one: One| {
            let place = near(folder, &one.folder);
            let request = subject::Request { subject: &place, class: one.class.as_deref(), ..Default::default() };
            let (name, class) = subject::identify(&request)?;
            Ok(Subject { name, kind: one.kind.unwrap_or_else(|| kind_of(&class)), class, folder: place })
        };
        all.into_iter().map(one).collect()
    }
}

/// The folders in a folder, by name; hidden ones are left out.
fn folders(folder: &Path) -> Result<Vec<String>> {
    let unreadable = || format!("cannot read the subjects' folder {}", folder.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let path = entry.with_context(unreadable)?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            found.push(path.display().to_string());
        }
    }
    ensure!(!found.is_empty(), "{} has no folder of a subject in it", folder.display());
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_own_plans_are_valid() -> Result<()> {
        for (name, text) in PLANS {
            let folder = tempfile::tempdir()?;
            let names = text.split("folder = \"").skip(1).filter_map(|rest| rest.split('"').next());
            for subject in names {
                std::fs::create_dir_all(folder.path().join(subject))?;
            }
            std::fs::create_dir_all(folder.path().join("prompts"))?;
            for list in ["live", "nolive", "style"] {
                std::fs::write(folder.path().join(format!("prompts/prompt_{list}.txt")), "a {}\n{} in a box")?;
            }
            let file = folder.path().join("plan.toml");
            std::fs::write(&file, text.replace("\"sd14\"", "\"mini\""))?;
            let plan = Plan::read(&file, Precision::F32, true).with_context(|| name)?;
            let subjects = match name {
                "mini" => subject::bundled().len(),
                "rows" => 1,
                _ => 31,
            };
            assert_eq!(plan.subjects.len(), subjects, "{name}");
            let live = plan.subjects.iter().filter(|subject| subject.kind == Kind::Live).count();
            assert!(subjects < 31 || live == 9, "{name}: {live}");
            assert!(plan.methods.iter().all(|method| method.settings.training.preview_every == 0));
            assert_eq!(toml::from_str::<Plan>(&plan.toml()?)?, plan);
        }
        Ok(())
    }
}
