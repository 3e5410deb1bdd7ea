//! What was drawn: the gallery.

use std::collections::HashMap;
use std::fs;
use std::io::Cursor;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::Body;
use axum::extract::{Path as Parts, Query, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use image::codecs::jpeg::JpegEncoder;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Ui;
use super::answer::{Answer, address, aside, attachment, download, picture, stamp, version};
use super::names::{inside, is_plain, plain};
use super::undo;
use super::zip::Zip;
use crate::app::places::OUTPUTS;
use crate::images::png::read_parameters;
use crate::images::{self, Written};

/// The folder of drawn pictures in [`OUTPUTS`]; in it is one for each adapter.
pub(super) const SAMPLES: &str = "samples";

/// The folder of pictures that the base drew alone.
pub(super) const WITHOUT_ADAPTER: &str = "without-adapter";

/// Stands for pictures directly in [`SAMPLES`], where commands put them.
const TOP: &str = "top";

/// What files say of how they were drawn, by path, as long as they do not change.
#[derive(Default)]
pub(super) struct Known(Mutex<HashMap<PathBuf, (Stamp, Written)>>);

type Stamp = (u64, u64);

/// Which picture.
#[derive(Deserialize)]
pub(super) struct Which {
    folder: String,
    file: String,
}

impl Which {
    fn key(&self) -> String {
        format!("{}/{}", self.folder, self.file)
    }

    fn path(&self, ui: &Ui) -> Answer<PathBuf> {
        match self.folder.as_str() {
            TOP => inside(&samples(ui), &[&self.file]),
            folder => inside(&samples(ui), &[folder, &self.file]),
        }
    }
}

fn samples(ui: &Ui) -> PathBuf {
    ui.outputs().join(SAMPLES)
}

/// What a page knows of a picture that a command has just written there: relative to where commands run.
pub(super) fn reference(path: &Path) -> Option<Value> {
    let parts: Vec<&str> = path.components().map(|part| part.as_os_str().to_str()).collect::<Option<_>>()?;
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    match parts[..] {
        [OUTPUTS, SAMPLES, file] => {
            Some(json!({"folder": TOP, "file": file, "url": address(&["pictures", TOP, file])}))
        }
        [OUTPUTS, SAMPLES, folder, file] => {
            Some(json!({"folder": folder, "file": file, "url": address(&["pictures", folder, file])}))
        }
        [OUTPUTS, adapter, "previews", file] => {
            Some(json!({"file": file, "url": address(&["adapters", adapter, "previews", file])}))
        }
        _ => None,
    }
}

/// All pictures, the youngest first.
pub(super) async fn list(State(ui): State<Arc<Ui>>) -> Answer<Json<Value>> {
    aside(move || Ok(Json(all(&ui).into_iter().map(|(_, value)| value).collect()))).await
}

fn all(ui: &Ui) -> Vec<(PathBuf, Value)> {
    let top = samples(ui);
    let mut folders = vec![(TOP.to_string(), top.clone())];
    let below = fs::read_dir(&top).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
    let named = below.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path())));
    folders.extend(named.filter(|(name, _)| is_plain(name)));
    let stars = ui.queue.look(|journal| journal.stars.clone());
    let mut known = ui.known.0.lock().unwrap_or_else(PoisonError::into_inner);
    let mut pictures = Vec::new();
    for (folder, path) in folders {
        let listed = images::list(&path).map(|listing| listing.pictures).unwrap_or_default();
        for path in listed {
            let (Some(file), Some(now)) = (path.file_name().and_then(|name| name.to_str()), stamp(&path)) else {
                continue;
            };
            if !is_plain(file) || path.is_symlink() {
                continue;
            }
            let written = match known.get(&path) {
                Some((then, written)) if *then == now => written.clone(),
                _ => {
                    let written = read_parameters(&path).ok().flatten().unwrap_or_default();
                    known.insert(path.clone(), (now, written.clone()));
                    written
                }
            };
            let url = address(&["pictures", &folder, file]);
            let settings: serde_json::Map<_, _> =
                written.settings.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            let value = json!({
                "folder": folder, "file": file, "url": format!("{url}?v={}", version(&path)), "time": now.0,
                "prompt": written.prompt, "negative": written.negative, "settings": settings,
                "star": stars.contains(&format!("{folder}/{file}")),
            });
            pictures.push((now, path.clone(), value));
        }
    }
    pictures.sort_by(|a, b| (b.0, &b.1).cmp(&(a.0, &a.1)));
    pictures.into_iter().map(|(_, path, value)| (path, value)).collect()
}

/// How a picture is wanted.
#[derive(Deserialize)]
pub(super) struct How {
    /// Longest side.
    side: Option<u32>,
    /// As a file to keep.
    keep: Option<u8>,
}

/// A picture.
pub(super) async fn get(
    State(ui): State<Arc<Ui>>,
    Parts(which): Parts<Which>,
    Query(how): Query<How>,
) -> Answer<Response> {
    let path = which.path(&ui)?;
    if how.keep.is_some() {
        return download(path, "image/png").await;
    }
    shown(&ui, path, how.side).await
}

/// A picture as a browser shows it, not larger than `side`. One at a time: each may take half a gigabyte.
pub(super) async fn shown(ui: &Ui, path: PathBuf, side: Option<u32>) -> Answer<Response> {
    let _turn = ui.turn.lock().await;
    aside(move || {
        let bytes = fs::read(&path)?;
        let plain = match bytes.get(..4) {
            Some(b"\x89PNG") => Some("image/png"),
            Some([0xff, 0xd8, ..]) => Some("image/jpeg"),
            _ => None,
        };
        let size = image::ImageReader::new(Cursor::new(&bytes)).with_guessed_format()?.into_dimensions().ok();
        let fits = size.is_some_and(|(width, height)| side.is_none_or(|side| width.max(height) <= side));
        if let (Some(kind), true) = (plain, fits) {
            return Ok(picture(bytes, kind));
        }
        let read = images::read_bytes(&bytes, &path)?;
        drop(bytes);
        Ok(picture(jpeg(&read.image, side.unwrap_or(u32::MAX))?, "image/jpeg"))
    })
    .await
}

/// Reduced to `side` and packed.
pub(super) fn jpeg(image: &image::RgbImage, side: u32) -> anyhow::Result<Vec<u8>> {
    let (width, height) = image.dimensions();
    let longer = width.max(height);
    let small = |n: u32| (u64::from(n) * u64::from(side.min(longer)) / u64::from(longer)).max(1) as u32;
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 88).encode_image(&images::resized(image, small(width), small(height)))?;
    Ok(bytes)
}

/// What is done to a picture.
#[derive(Deserialize)]
pub(super) struct Mark {
    star: bool,
}

/// Stars a picture, or not.
pub(super) async fn mark(
    State(ui): State<Arc<Ui>>,
    Parts(which): Parts<Which>,
    Json(mark): Json<Mark>,
) -> Answer<Json<Value>> {
    which.path(&ui)?;
    ui.queue.change(|journal| {
        if mark.star {
            journal.stars.insert(which.key())
        } else {
            journal.stars.remove(&which.key())
        };
        Ok(())
    })?;
    ui.queue.tell("changed", &json!("pictures"));
    Ok(Json(json!({})))
}

/// Deletes a picture, so that it can come back.
pub(super) async fn delete(State(ui): State<Arc<Ui>>, Parts(which): Parts<Which>) -> Answer<Json<Value>> {
    let path = which.path(&ui)?;
    let undo = undo::remove(&ui.outputs(), &[path], &[])?;
    ui.queue.tell("changed", &json!("pictures"));
    Ok(Json(json!({"undo": {"section": OUTPUTS, "id": undo}})))
}

/// Which pictures an archive has.
#[derive(Deserialize)]
pub(super) struct Filter {
    folder: Option<String>,
    starred: Option<u8>,
}

/// Many pictures in one file.
pub(super) async fn archive(State(ui): State<Arc<Ui>>, Query(filter): Query<Filter>) -> Answer<Response> {
    if let Some(folder) = &filter.folder {
        plain(folder)?;
    }
    let chosen = move |value: &Value| {
        filter.folder.as_ref().is_none_or(|folder| value["folder"] == folder.as_str())
            && (filter.starred.is_none() || value["star"] == true)
    };
    let files = aside(move || Ok(all(&ui).into_iter().filter(|(_, value)| chosen(value)).collect::<Vec<_>>())).await?;
    let state = Some((files.into_iter(), Zip::default()));
    let pieces = stream::unfold(state, |state| async {
        let (mut files, mut zip) = state?;
        let next = move || {
            let Some((path, value)) = files.next() else { return Some((zip.end(), None)) };
            let name = format!("{}/{}", value["folder"].as_str()?, value["file"].as_str()?);
            // one that was deleted meanwhile is left out
            let piece = fs::read(path).map_or_else(|_| Some(Vec::new()), |content| zip.file(&name, &content))?;
            Some((piece, Some((files, zip))))
        };
        let (piece, state) = tokio::task::spawn_blocking(next).await.ok()??;
        Some((Ok::<_, std::io::Error>(piece), state))
    });
    let headers = [(CONTENT_TYPE, "application/zip".parse()), (CONTENT_DISPOSITION, Ok(attachment("pictures.zip")))];
    let mut response = Body::from_stream(pieces).into_response();
    for (name, value) in headers {
        value.into_iter().for_each(|value| drop(response.headers_mut().insert(name.clone(), value)));
    }
    Ok(response)
}
