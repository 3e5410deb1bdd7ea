//! Subjects: their folders in `subjects/`, as the commands find them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path as Parts, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Ui;
use super::answer::{Answer, aside, missing, refusal, wrong};
use super::looks::{Look, look};
use super::names::{inside, names_in, tidy};
use super::undo;
use crate::files::{stage_folder, write_whole};
use crate::{images, subject};

/// Where subjects are.
pub(super) const SUBJECTS: &str = "subjects";

/// The file with the class word.
const CARD: &str = "subject.json";

/// How a subject comes to be.
#[derive(Deserialize)]
pub(super) struct New {
    name: String,
    class: String,
    /// Its photos are those of this bundled one.
    example: Option<String>,
}

/// All subjects.
pub(super) async fn list(State(ui): State<Arc<Ui>>) -> Answer<Json<Value>> {
    let _turn = ui.turn.lock().await; // their photos may have to be read
    let ui = ui.clone();
    aside(move || Ok(Json(subjects(&ui)))).await
}

fn subjects(ui: &Ui) -> Value {
    let names = names_in(&ui.subjects());
    let folders = names.into_iter().filter(|name| ui.subjects().join(name).is_dir());
    folders.map(|name| described(ui, &name)).collect()
}

/// A subject as pages see it.
pub(super) fn described(ui: &Ui, name: &str) -> Value {
    let folder = ui.subjects().join(name);
    let listing = images::list(&folder).unwrap_or_default();
    let looks: Vec<Look> = listing.pictures.iter().filter_map(|path| look(ui, name, path)).collect();
    let broken = looks.iter().filter(|look| look.value["error"].is_string()).count();
    let open = looks.iter().filter(|look| look.coverage.is_none()).count() - broken;
    let problem = match (looks.len(), broken, open) {
        (0, ..) => Some("It has no photos yet.".to_string()),
        (_, 1.., _) => Some("A photo cannot be used: remove it, or put another in its place.".to_string()),
        (_, _, 0) => None,
        (_, _, 1) => Some("One photo has no mask yet.".to_string()),
        (_, _, n) => Some(format!("{n} photos have no mask yet.")),
    };
    json!({
        "lacks_masks_alone": open > 0 && looks.iter().all(|look| look.coverage.is_some() || look.bare),
        "name": name, "class": subject::class_word(&folder.display().to_string()).unwrap_or_default(), "problem": problem, "left_out": listing.warnings(),
        "photos": looks.iter().map(|look| &look.value).collect::<Vec<_>>(),
    })
}

/// Begins a subject.
pub(super) async fn create(State(ui): State<Arc<Ui>>, Json(new): Json<New>) -> Answer<Json<Value>> {
    aside(move || {
        let name = tidy(&new.name);
        if name.is_empty() {
            return Err(wrong("give the subject a name of letters or digits"));
        }
        let folder = ui.subjects().join(&name);
        if folder.exists() {
            return Err(refusal(StatusCode::CONFLICT, format!("there is a subject {name} already")));
        }
        let staged = stage_folder(&folder)?;
        if let Some(example) = &new.example {
            subject::copy_bundled(example, staged.path())?;
        }
        if !new.class.trim().is_empty() {
            set_class(staged.path(), &new.class)?;
        }
        staged
            .place(&folder)?
            .ok_or_else(|| refusal(StatusCode::CONFLICT, format!("there is a subject {name} already")))?;
        ui.queue.tell("changed", &json!("subjects"));
        Ok(Json(json!({ "name": name })))
    })
    .await
}

/// The folder of a subject that is there.
pub(super) fn folder_of(ui: &Ui, name: &str) -> Answer<PathBuf> {
    let folder = inside(&ui.subjects(), &[name])?;
    if folder.is_dir() { Ok(folder) } else { Err(missing(&format!("subject {name}"))) }
}

/// What may be changed.
#[derive(Deserialize)]
pub(super) struct Change {
    class: String,
}

/// Changes the class word.
pub(super) async fn change(
    State(ui): State<Arc<Ui>>,
    Parts(name): Parts<String>,
    Json(change): Json<Change>,
) -> Answer<Json<Value>> {
    set_class(&folder_of(&ui, &name)?, &change.class)?;
    ui.queue.tell("changed", &json!("subjects"));
    Ok(Json(json!({})))
}

fn set_class(folder: &Path, class: &str) -> Answer<()> {
    let class = class.trim();
    if class.is_empty() || class.len() > 80 || class.chars().any(char::is_control) {
        return Err(wrong("the class word is an ordinary noun, such as dog or teapot"));
    }
    let path = folder.join(CARD);
    let known = crate::files::read_text(&path).ok().and_then(|text| serde_json::from_str(&text).ok());
    let mut card: Value = known.filter(Value::is_object).unwrap_or_else(|| json!({}));
    card["class"] = json!(class);
    Ok(write_whole(&path, card.to_string().as_bytes())?)
}

/// Deletes a subject, so that it can come back.
pub(super) async fn delete(State(ui): State<Arc<Ui>>, Parts(name): Parts<String>) -> Answer<Json<Value>> {
    let undo = undo::remove(&ui.subjects(), &[folder_of(&ui, &name)?], &[])?;
    ui.queue.tell("changed", &json!("subjects"));
    Ok(Json(json!({"undo": {"section": SUBJECTS, "id": undo}})))
}

/// What comes back.
#[derive(Deserialize)]
pub(super) struct Back {
    section: String,
    id: String,
}

/// Brings back what was deleted.
pub(super) async fn back(State(ui): State<Arc<Ui>>, Json(back): Json<Back>) -> Answer<Json<Value>> {
    let section = if back.section == SUBJECTS { ui.subjects() } else { ui.outputs() };
    let id = fs::canonicalize(&section)?;
    aside(move || undo::put_back(&id, &back.id)).await?;
    ui.queue.tell("changed", &json!(null));
    Ok(Json(json!({})))
}
