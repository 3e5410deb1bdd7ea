//! What was trained: settings, curve, previews, scores, and the files for other programs.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path as Parts, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::Ui;
use super::answer::{Answer, address, aside, download, missing, refusal, stamp, version};
use super::names::{inside, names_in};
use super::pictures::shown;
use super::undo;
use crate::adapter::{Adapter, MANIFEST, Manifest};
use crate::app::evaluations::{Finished, SCORES, finished, is_evaluation};
use crate::app::export::Layout;
use crate::app::places::OUTPUTS;
use crate::evaluation::scores::{Measured, Metric, WITHOUT_ADAPTER};
use crate::files::read_text;
use crate::method::MethodName;
use crate::settings::Settings;

impl Ui {
    /// What an adapter was made of.
    pub(super) fn manifest(&self, name: &str) -> Answer<Manifest> {
        Ok(Adapter::open(&inside(&self.outputs(), &[name])?)?.manifest)
    }

    /// All adapters, the youngest first.
    pub(super) fn adapters(&self) -> Value {
        let folders =
            names_in(&self.outputs()).into_iter().filter(|name| self.outputs().join(name).join(MANIFEST).is_file());
        let mut found: Vec<(u64, Value)> = folders.map(|name| self.adapter(&name)).collect();
        found.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
        found.into_iter().map(|(_, value)| value).collect()
    }

    fn adapter(&self, name: &str) -> (u64, Value) {
        let folder = self.outputs().join(name);
        let time = stamp(&folder.join(MANIFEST)).map_or(0, |(time, _)| time);
        let adapter = match Adapter::open(&folder) {
            Ok(adapter) => adapter,
            Err(error) => return (time, json!({"name": name, "time": time, "error": format!("{error:#}")})),
        };
        let manifest = &adapter.manifest;
        let listed = |below: &str| {
            let file = |file: String| {
                let url = address(&["adapters", name, below, &file]);
                let version = version(&folder.join(below).join(&file));
                json!({"file": file, "url": format!("{url}?v={version}")})
            };
            names_in(&folder.join(below))
                .into_iter()
                .filter(|file| file.ends_with(".png"))
                .map(file)
                .collect::<Vec<_>>()
        };
        let sampling = &manifest.settings.sampling;
        let layouts = Layout::of(manifest.settings.training.method).iter().map(|layout| layout.name());
        let layouts: Vec<&str> = layouts.collect();
        let evaluations = finished(&adapter).into_iter().map(|finished| evaluation(&adapter, name, finished));
        let value = json!({
            "name": name, "time": time, "subject": manifest.subject, "class": manifest.class, "called": manifest.called(), "base": manifest.base,
            "steps": manifest.steps, "of": manifest.settings.training.steps, "preset": manifest.preset,
            "side": manifest.side, "imported": !manifest.imported.is_empty(),
            "learning_rate": manifest.settings.training.learning_rate, "seed": manifest.settings.training.seed,
            "batch_size": manifest.settings.training.batch_size, "class_images": manifest.settings.prior.class_images,
            "looks": manifest.settings.rra.enabled, "dial": dial(&manifest.settings),
            "layouts": layouts,
            "sampler": sampling.sampler, "sampling_steps": sampling.steps, "guidance": sampling.guidance,
            "guidance_rescale": sampling.guidance_rescale,
            "photos": listed("photos"), "previews": listed("previews"), "ready": manifest.steps > 0 || !manifest.imported.is_empty(),
            "evaluations": evaluations.collect::<Vec<_>>(),
            "exports": self.exports(name),
        });
        (time, value)
    }

    /// The folders that were exported from an adapter under their usual names.
    fn exports(&self, adapter: &str) -> Vec<Value> {
        let layouts = Layout::value_variants().iter().map(|layout| layout.name());
        let stems: Vec<(String, &str)> = layouts.map(|layout| (format!("{adapter}-{layout}"), layout)).collect();
        let of_layout = |name: &String| {
            let stem =
                name.rsplit_once('-').filter(|(_, n)| n.parse::<u32>().is_ok()).map_or(name.as_str(), |(stem, _)| stem);
            let (_, layout) = stems.iter().find(|(own, _)| own == name || own == stem)?;
            Some((name.clone(), *layout))
        };
        let folders = names_in(&self.outputs());
        let found =
            folders.iter().filter_map(of_layout).filter(|(name, _)| !self.outputs().join(name).join(MANIFEST).exists());
        let export = |(name, layout): (String, &str)| {
            let file = |file: String| {
                let length = stamp(&self.outputs().join(&name).join(&file)).map_or(0, |(_, length)| length);
                json!({"file": file, "bytes": length, "url": address(&["exports", &name, &file])})
            };
            let files = names_in(&self.outputs().join(&name)).into_iter();
            let files = files.filter(|file| self.outputs().join(&name).join(file).is_file()).map(file);
            json!({"name": name, "layout": layout, "files": files.collect::<Vec<_>>()})
        };
        found.map(export).collect()
    }
}

/// What of an adapter's can be turned up and down while drawing.
fn dial(settings: &Settings) -> Vec<&'static str> {
    let turns = [
        ("reference", settings.rra.enabled),
        ("low", settings.training.method != MethodName::DreamBooth),
        ("high", settings.fdte.enabled),
    ];
    turns.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
}

/// An evaluation's means, and which state of the adapter they are of.
fn evaluation(adapter: &Adapter, name: &str, Finished { name: below, found, older }: Finished) -> Value {
    let folder = adapter.folder.join(&below);
    let means = |measured: &Measured| {
        let values = Metric::ALL
            .into_iter()
            .filter_map(|metric| Some((metric.name().to_string(), json!(measured.all.get(metric)?))));
        json!({"pictures": measured.images.len(), "means": values.collect::<serde_json::Map<_, _>>()})
    };
    let page = folder.join("report.html").is_file();
    let time = stamp(&folder.join(SCORES)).map_or(0, |(time, _)| time);
    json!({
        "name": below, "time": time, "older": older, "clip": found.clip, "dino": found.dino,
        "with": means(&found.measured), "without": found.others.get(WITHOUT_ADAPTER).map(means),
        "report": page.then(|| address(&["adapters", name, "report", &below])),
    })
}

/// The adapters.
pub(super) async fn list(State(ui): State<Arc<Ui>>) -> Answer<Json<Value>> {
    aside(move || Ok(Json(ui.adapters()))).await
}

/// A photo or a preview of an adapter.
pub(super) async fn image(
    State(ui): State<Arc<Ui>>,
    Parts((name, below, file)): Parts<(String, String, String)>,
) -> Answer<Response> {
    if !["photos", "previews"].contains(&below.as_str()) {
        return Err(missing("such folder of an adapter"));
    }
    let path = inside(&ui.outputs(), &[&name, &below, &file])?;
    shown(&ui, path, None).await
}

/// The losses of a training as the adapter's own table has them: the step, then the losses by name.
pub(super) async fn losses(State(ui): State<Arc<Ui>>, Parts(name): Parts<String>) -> Answer<Json<Value>> {
    aside(move || {
        let path = inside(&ui.outputs(), &[&name, "loss.csv"])?;
        let text = read_text(&path)?;
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let damaged = |error: csv::Error| refusal(axum::http::StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        let names: Vec<String> = reader.headers().map_err(damaged)?.iter().map(str::to_string).collect();
        let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().map_err(damaged)?;
        let stride = rows.len().div_ceil(600).max(1);
        let kept = rows.iter().enumerate().filter(|(i, _)| i.is_multiple_of(stride) || i + 1 == rows.len());
        let point = |(_, row): (usize, &csv::StringRecord)| {
            let values = names.iter().zip(row).skip(1).filter(|(name, _)| *name != "gradient_norm");
            let values = values.filter_map(|(name, value)| Some((name.clone(), json!(value.parse::<f64>().ok()?))));
            json!([row.get(0).and_then(|step| step.parse::<u64>().ok()), values.collect::<serde_json::Map<_, _>>()])
        };
        Ok(Json(kept.map(point).collect()))
    })
    .await
}

/// An evaluation's page, as it lies there: it may come from somebody else, so it may do nothing.
pub(super) async fn report(
    State(ui): State<Arc<Ui>>,
    Parts((name, below)): Parts<(String, String)>,
) -> Answer<Response> {
    if !is_evaluation(&below) {
        return Err(missing("such evaluation"));
    }
    let path = inside(&ui.outputs(), &[&name, &below, "report.html"])?;
    let text = aside(move || Ok(read_text(&path)?)).await?;
    let policy = "sandbox; default-src 'none'; img-src data:; style-src 'unsafe-inline'";
    let headers =
        [(CONTENT_TYPE, "text/html; charset=utf-8"), (CONTENT_SECURITY_POLICY, policy), (CACHE_CONTROL, "no-cache")];
    Ok((headers, text).into_response())
}

/// A file for another program.
pub(super) async fn export(
    State(ui): State<Arc<Ui>>,
    Parts((name, file)): Parts<(String, String)>,
) -> Answer<Response> {
    let path: PathBuf = inside(&ui.outputs(), &[&name, &file])?;
    if !Layout::value_variants().iter().any(|layout| name.contains(&format!("-{}", layout.name()))) {
        return Err(missing("such export"));
    }
    download(path, "application/octet-stream").await
}

/// Deletes an adapter, so that it can come back.
pub(super) async fn delete(State(ui): State<Arc<Ui>>, Parts(name): Parts<String>) -> Answer<Json<Value>> {
    let folder = inside(&ui.outputs(), &[&name])?;
    if !folder.join(MANIFEST).is_file() {
        return Err(missing("such adapter"));
    }
    if ui.queue.makes(&name) {
        return Err(refusal(axum::http::StatusCode::CONFLICT, format!("{name} is being trained: stop that first")));
    }
    let undo = undo::remove(&ui.outputs(), &[folder], &[])?;
    ui.queue.tell("changed", &json!("adapters"));
    Ok(Json(json!({"undo": {"section": OUTPUTS, "id": undo}})))
}
