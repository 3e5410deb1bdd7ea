//! The trainings of a folder, at a glance.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::evaluations::{Finished, finished};
use super::places::OUTPUTS;
use super::{Observer, Usage};
use crate::adapter::{Adapter, MANIFEST};
use crate::evaluation::scores::number;
use crate::files::{is_partial, read_text};
use crate::images::{self, shown};
use crate::report::html::{Card, Figure, Page, check_ours};

/// Where to look.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff runs --help`
pub struct Request {
    pub folder: Option<PathBuf>,
    pub page: Option<PathBuf>,
}

/// A training, or an adapter that was imported.
pub struct Run {
    /// What it made.
    pub adapter: Adapter,
    /// The total loss, the mean over the last tenth of its steps.
    pub loss: Option<f64>,
    /// Its last preview.
    pub preview: Option<PathBuf>,
    /// Its last evaluation.
    pub evaluation: Option<Finished>,
}

/// All runs of a folder, by name, and a page of them if one is asked for.
///
/// # Errors
/// [`Usage`] if there is no such folder, else if the page cannot be written.
pub fn runs(request: &Request, observer: &mut dyn Observer) -> Result<Vec<Run>> {
    let folder = request.folder.as_deref().unwrap_or(Path::new(OUTPUTS));
    request.page.as_deref().map(check_ours).transpose()?;
    let entries = || std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    if !folder.is_dir() {
        bail!(Usage(format!("there is no folder {}: nothing was trained here yet", shown(folder))));
    }
    let mut found = entries().with_context(|| format!("cannot read the folder {}", shown(folder)))?;
    found.retain(|path| !path.file_name().is_some_and(|name| is_partial(&name.to_string_lossy())));
    found.push(folder.to_path_buf());
    found.sort();
    let mut runs = Vec::new();
    for folder in found.into_iter().filter(|folder| folder.join(MANIFEST).is_file()) {
        match Adapter::open(&folder) {
            Ok(adapter) => runs.push(Run::of(adapter)),
            Err(error) => observer.warn(&format!("left out {}: {error:#}", shown(&folder))),
        }
    }
    if runs.is_empty() {
        observer.info(&format!("There is no training in {}", shown(folder)));
    }
    if let Some(path) = &request.page {
        page(&runs)?.write(path)?;
        observer.info(&format!("Page: {}", path.display()));
    }
    Ok(runs)
}

impl Run {
    /// What there is of an adapter.
    pub(super) fn of(adapter: Adapter) -> Self {
        let folder = &adapter.folder;
        let files = std::fs::read_dir(folder.join("previews")).into_iter().flatten().flatten();
        let is_preview = |path: &PathBuf| path.file_name().is_some_and(|f| f.to_string_lossy().starts_with("step-"));
        Self {
            loss: read_text(&folder.join("loss.csv")).ok().and_then(|text| loss(&text)),
            preview: files.map(|entry| entry.path()).filter(is_preview).max(),
            evaluation: finished(&adapter).pop(),
            adapter,
        }
    }

    /// Names and values of what it was made with and what it reached.
    pub fn facts(&self) -> Vec<(&'static str, String)> {
        let manifest = &self.adapter.manifest;
        let (training, all) = (&manifest.settings.training, manifest.settings.training.steps);
        let made = match &manifest.imported[..] {
            [] => format!("{} of {all} steps", manifest.steps),
            files => format!("imported from {}", files.join(", ")),
        };
        let mut facts = vec![
            ("subject", format!("{}, a {}", manifest.subject, manifest.class)),
            ("base", manifest.base.clone()),
            ("made", made),
        ];
        if manifest.imported.is_empty() {
            facts.push(("preset", manifest.preset.clone()));
            facts.push(("learning rate", training.learning_rate.to_string()));
        }
        facts.extend(self.loss.map(|loss| ("loss", format!("{loss:.4}"))));
        if let Some(Finished { found, older, .. }) = &self.evaluation {
            let all = &found.measured.all;
            facts.extend(found.metrics().into_iter().map(|metric| (metric.name(), number(all.get(metric)))));
            facts.extend(older.map(|steps| ("scored at", format!("step {steps}, not as it is now"))));
        }
        facts
    }
}

/// The mean total loss of the last tenth of the steps.
fn loss(csv: &str) -> Option<f64> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let column = reader.headers().ok()?.iter().position(|title| title == "total")?;
    let all: Vec<f64> = reader.records().filter_map(|row| row.ok()?.get(column)?.parse().ok()).collect();
    let last = &all[all.len() - all.len().div_ceil(10)..];
    (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64)
}

fn page(runs: &[Run]) -> Result<Page> {
    let mut page = Page::new("Trainings", &format!("{} adapters.", runs.len()));
    for run in runs {
        page.section(&shown(&run.adapter.folder), "");
        page.list(&run.facts());
        let Some(picture) = run.preview.as_deref().and_then(|path| images::open(path).ok()) else { continue };
        let figure = Figure { image: Cow::Owned(picture), caption: "the last preview".into(), note: String::new() };
        page.cards(&[Card { title: String::new(), pictures: vec![figure] }])?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::loss;

    #[test]
    fn the_last_tenth_counts() {
        let rows: String = (1..=20).map(|step| format!("{step},{step}.0,\n")).collect();
        assert_eq!(loss(&format!("step,total,prior\n{rows}")), Some(19.5));
        assert_eq!([loss("step,total\n1,0.5\n"), loss("step,total\n"), loss("a,b\n1,2\n")], [Some(0.5), None, None]);
    }
}
