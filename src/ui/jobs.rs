//! Jobs over HTTP, and the stream of what happens.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::Sse;
use axum::response::sse::{Event, KeepAlive};
use clap::ValueEnum;
use futures_util::{Stream, stream};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::answer::{Answer, aside, missing};
use super::commands::Wish;
use super::log::Summary;
use super::{Ui, shown};
use crate::app::export::Layout;
use crate::base::{Base, MINI};
use crate::settings::{Layers, PRESETS, SamplerName, Settings};
use crate::subject;

/// What a page has to know once: choices and their defaults.
pub(super) async fn state(State(ui): State<Arc<Ui>>) -> Answer<Json<Value>> {
    let samplers = SamplerName::value_variants()
        .iter()
        .filter_map(|name| Some(json!({"name": name.to_possible_value()?.get_name(), "title": name.title()})));
    let layouts = Layout::value_variants().iter().filter_map(|layout| {
        let value = layout.to_possible_value()?;
        Some(json!({"name": value.get_name(), "help": value.get_help().map(ToString::to_string)}))
    });
    let settings = |toml: &Option<String>, preset| -> anyhow::Result<Settings> {
        let layers = toml.iter().try_fold(Layers::new()?, |layers, toml| layers.over(toml, "the base"))?;
        layers.preset(preset)?.settings()
    };
    let steps = |toml: Option<String>| -> anyhow::Result<BTreeMap<&str, usize>> {
        PRESETS.into_iter().map(|(preset, _)| Ok((preset, settings(&toml, preset)?.training.steps))).collect()
    };
    let mut needs_masks = Vec::new();
    for (preset, _) in PRESETS {
        if settings(&None, preset)?.uses_masks() {
            needs_masks.push(preset);
        }
    }
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "folder": shown(&ui.root),
        "jobs": ui.queue.jobs(),
        "presets": PRESETS.map(|(name, _)| name),
        "needs_masks": needs_masks, // presets
        "samplers": samplers.collect::<Vec<_>>(),
        "layouts": layouts.collect::<Vec<_>>(),
        "examples": subject::bundled(),
        "steps": {"mini": steps(Base::defaults(MINI, true)?)?, "other": steps(None)?},
        "devices": devices(),
    })))
}

/// Where this build can compute.
fn devices() -> Vec<&'static str> {
    let built = [(true, "cpu"), (cfg!(feature = "cuda"), "cuda"), (cfg!(feature = "metal"), "metal")];
    built.into_iter().filter(|(built, _)| *built).map(|(_, name)| name).collect()
}

/// What happens, as it happens. One who was too slow to hear all of it is told to look anew.
pub(super) async fn events(State(ui): State<Arc<Ui>>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let first = json!({"kind": "jobs", "value": ui.queue.jobs()}).to_string();
    let stream = stream::unfold((ui.queue.watch(), Some(first)), |(mut watch, first)| async move {
        let text = match first {
            Some(first) => first,
            None => match watch.recv().await {
                Ok(text) => text,
                Err(RecvError::Lagged(_)) => json!({"kind": "changed"}).to_string(),
                Err(RecvError::Closed) => return None,
            },
        };
        Some((Ok(Event::default().data(text)), (watch, None)))
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(Duration::from_secs(20)))
}

/// Adds jobs.
pub(super) async fn ask(State(ui): State<Arc<Ui>>, Json(wish): Json<Wish>) -> Answer<Json<Value>> {
    aside(move || {
        let jobs = wish.jobs(&ui)?.into_iter().map(|job| ui.queue.add(job)).collect::<Answer<Vec<u64>>>()?;
        Ok(Json(json!({ "jobs": jobs })))
    })
    .await
}

/// All that a job has said.
pub(super) async fn log(State(ui): State<Arc<Ui>>, Path(id): Path<u64>) -> Answer<Json<Value>> {
    aside(move || {
        if !ui.queue.look(|journal| journal.jobs.iter().any(|job| job.id == id)) {
            return Err(missing("such job"));
        }
        let Summary { said, points, pictures, progress, at, .. } = Summary::of(ui.queue.log(id));
        Ok(Json(json!({"at": at, "said": said, "points": points, "pictures": pictures, "progress": progress})))
    })
    .await
}

/// Stops a job.
pub(super) async fn stop(State(ui): State<Arc<Ui>>, Path(id): Path<u64>) -> Answer<Json<Value>> {
    ui.queue.stop(id)?;
    Ok(Json(json!({})))
}

/// Has a job go on.
pub(super) async fn again(State(ui): State<Arc<Ui>>, Path(id): Path<u64>) -> Answer<Json<Value>> {
    ui.queue.again(id)?;
    Ok(Json(json!({})))
}

/// Takes a job off the list.
pub(super) async fn forget(State(ui): State<Arc<Ui>>, Path(id): Path<u64>) -> Answer<Json<Value>> {
    ui.queue.forget(id)?;
    Ok(Json(json!({})))
}
