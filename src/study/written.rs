//! A plan as it is written in TOML, and what it means: presets, files and folders are looked up.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use super::plan::{Method, Plan, Prompts, Subject};
use crate::base::{Base, MINI, RANDOM_SD14};
use crate::evaluation::prompts::{Kind, SLOT, builtin, kind_of, read_file};
use crate::files::read_text;
use crate::method::elite;
use crate::ops::Precision;
use crate::settings::Layers;
use crate::subject::{self, BUNDLED};

/// The plans that come with the program, by name.
const PLANS: [(&str, &str); 6] = [
    ("paper", include_str!("../../studies/paper.toml")),
    ("ablation", include_str!("../../studies/ablation.toml")),
    ("fdte", include_str!("../../studies/fdte.toml")),
    ("mini", include_str!("../../studies/mini.toml")),
    ("fdte-mini", include_str!("../../studies/fdte-mini.toml")),
    ("rows", include_str!("../../studies/rows.toml")),
];

impl Plan {
    /// Reads a plan from a file, or one of the program's own by its name. Paths in it are relative to its folder.
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
        let meant = written.meant(folder, precision, offline).and_then(Self::check);
        meant.with_context(|| format!("the plan {}", name.display()))
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

enum Subjects {
    /// `bundled`, or a folder: each folder in it is a subject.
    Folder(String),
    /// One by one.
    Listed(Vec<One>),
}

impl<'de> Deserialize<'de> for Subjects {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        match Value::deserialize(source)? {
            Value::String(folder) => Ok(Self::Folder(folder)),
            Value::Array(all) => {
                let one = |(i, value): (usize, Value)| {
                    value.try_into().map_err(|e: toml::de::Error| D::Error::custom(format!("subject {}: {e}", i + 1)))
                };
                all.into_iter().enumerate().map(one).collect::<Result<_, _>>().map(Self::Listed)
            }
            _ => Err(D::Error::custom("subjects: \"bundled\", a folder of folders, or a list of { folder = \"...\" }")),
        }
    }
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

impl Written {
    /// The plan as it is meant, before it is checked; paths are relative to `folder`. They become whole ones: it means the
    /// same from wherever it is opened later.
    fn meant(self, folder: &Path, precision: Precision, offline: bool) -> Result<Plan> {
        let folder = std::path::absolute(Path::new(".").join(folder)).context("there is no current folder")?;
        let folder = folder.as_path();
        let base = self.base.as_deref().map_or(MINI.into(), |base| model(folder, base));
        let mut below = Layers::new()?;
        if let Some(toml) = Base::defaults(&base, offline)? {
            below = below.over(&toml, &format!("eqdiff.toml of the base {base}"))?;
        }
        let below = below.settings()?;
        seedless(&self.settings).context("settings")?;
        let method = |row: Row| -> Result<Method> {
            seedless(&row.settings).with_context(|| format!("the settings of the method {}", row.name))?;
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
                vision: model(folder, &files.vision),
                ..files
            };
            let (published, preset, elite) = (row.published, row.preset, row.elite.map(place));
            Ok(Method { name: row.name, title, published, preset, elite, settings })
        };
        let methods = self.methods.into_iter().map(method).collect::<Result<Vec<_>>>()?;
        let (Some(first), Some(last)) = (methods.first(), methods.last()) else {
            bail!("there is no method: write [[methods]] with a name and a preset")
        };
        Ok(Plan {
            title: self.title,
            dtype: precision.to_string(),
            seeds: self.seeds.unwrap_or(vec![0]),
            pictures: self.pictures.unwrap_or(1),
            baseline: self.baseline.unwrap_or(first.name.clone()),
            ours: self.ours.unwrap_or(last.name.clone()),
            clip: self.clip.map(|clip| model(folder, &clip)),
            dino: self.dino.map(|dino| model(folder, &dino)),
            prompts: self.prompts.read(folder)?,
            subjects: self.subjects.found(folder)?,
            base,
            methods,
        })
    }
}

/// What a plan names: a file beside it if there is one of that name, else what the name means elsewhere.
fn near(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    if path.exists() { path.display().to_string() } else { name.into() }
}

/// The same of a model: the program's own names mean the same everywhere.
fn model(folder: &Path, name: &str) -> String {
    if [MINI, "sd14", RANDOM_SD14].contains(&name) { name.into() } else { near(folder, name) }
}

impl Files {
    fn read(self, folder: &Path) -> Result<Prompts> {
        let list = |file: &Option<PathBuf>, otherwise: Vec<String>| -> Result<Vec<String>> {
            let all = match file {
                None => otherwise,
                Some(file) => templates(&folder.join(file))?,
            };
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

/// The prompts of a file, each with a place for the subject.
fn templates(file: &Path) -> Result<Vec<String>> {
    let all = read_file(file)?;
    if let Some(prompt) = all.iter().find(|prompt| !prompt.contains(SLOT)) {
        bail!("{}: {prompt:?} has no {SLOT}, which stands for the subject with its class word", file.display());
    }
    Ok(all)
}

impl Subjects {
    fn found(self, folder: &Path) -> Result<Vec<Subject>> {
        let all: Vec<One> = match self {
            Self::Listed(all) => all,
            Self::Folder(name) => {
                let folders = match name.as_str() {
                    "bundled" => subject::bundled().iter().map(|name| format!("{BUNDLED}{name}")).collect(),
                    name => folders(&folder.join(name))?,
                };
                folders.into_iter().map(|folder| One { folder, class: None, kind: None }).collect()
            }
        };
        let one = |one: One| {
            let place = place(folder, &one.folder);
            let request = subject::Request { subject: &place, class: one.class.as_deref(), ..Default::default() };
            let (name, class) = subject::identify(&request)?;
            Ok(Subject { name, kind: one.kind.unwrap_or_else(|| kind_of(&class)), class, folder: place })
        };
        all.into_iter().map(one).collect()
    }
}

/// A subject's folder beside the plan, else one of the program's own, whatever lies where the program is called.
fn place(folder: &Path, name: &str) -> String {
    if name.starts_with(BUNDLED) {
        return name.into();
    }
    let path = folder.join(name);
    match !path.exists() && subject::bundled().iter().any(|known| known == name) {
        true => format!("{BUNDLED}{name}"),
        false => path.display().to_string(),
    }
}

/// Refuses settings with a seed: trainings have those of the study.
fn seedless(settings: &Table) -> Result<()> {
    let training = settings.get("training").and_then(Value::as_table);
    ensure!(
        training.is_none_or(|training| !training.contains_key("seed")),
        "training.seed: give seeds = [...] instead"
    );
    Ok(())
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
    use crate::settings::Sampling;

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
                "fdte-mini" | "rows" => 5,
                _ => 31,
            };
            assert_eq!(plan.subjects.len(), subjects, "{name}");
            let live = plan.subjects.iter().filter(|subject| subject.kind == Kind::Live).count();
            assert!(subjects < 31 || live == 9, "{name}: {live}");
            assert!(plan.methods.iter().all(|method| method.settings.training.preview_every == 0));
            // what is compared are methods, not ways to draw
            let drawn = |method: &Method| Sampling { dreammatcher: false, ..method.settings.sampling.clone() };
            let alike = plan.methods.iter().all(|method| drawn(method) == drawn(&plan.methods[0]));
            assert!(alike || name == "rows", "{name}");
            assert_eq!(toml::from_str::<Plan>(&plan.toml()?)?, plan);
        }
        Ok(())
    }
}
