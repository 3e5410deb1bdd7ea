//! A subject's photos and masks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path as Parts, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use image::{DynamicImage, GrayImage, imageops};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Ui;
use super::answer::{Answer, aside, missing, picture, refusal, wrong};
use super::looks::mask_path;
use super::names::{inside, names_in, tidy};
use super::pictures::shown;
use super::subjects::{SUBJECTS, described, folder_of};
use super::undo;
use crate::files::{make_folder, write_whole};
use crate::images::png::{png_bytes, save_png};
use crate::segmentation::{Cutting, MaskMaker, PlainCut};
use crate::{images, subject};

/// The longer side of a mask that is proposed; finer ones are seen by no training.
const FINEST: u32 = 1024;

/// Photos of a subject; more are a folder that was dropped by mistake.
const MOST: usize = 100;

/// How many digits begin the names of photos: they are sorted by name, and the first is the one that reference attention
/// looks at.
const DIGITS: usize = 3;

/// A name's number and what follows it.
fn numbered(file: &str) -> Option<(usize, &str)> {
    let (number, rest) = file.split_once('-')?;
    (number.len() == DIGITS).then_some(())?;
    Some((number.parse().ok()?, rest))
}

/// The number of the next photo: after all that are there.
fn next_number(folder: &Path) -> usize {
    let names = names_in(folder);
    names.iter().filter_map(|name| numbered(name)).map(|(number, _)| number + 1).max().unwrap_or(1)
}

/// What an uploaded file is called.
#[derive(Deserialize)]
pub(super) struct Named {
    name: String,
}

/// Takes a photo in.
pub(super) async fn add(
    State(ui): State<Arc<Ui>>,
    Parts(name): Parts<String>,
    Query(named): Query<Named>,
    body: Bytes,
) -> Answer<Json<Value>> {
    let _turn = ui.turn.lock().await;
    let state = ui.clone();
    aside(move || {
        let folder = folder_of(&state, &name)?;
        let given = Path::new(&named.name);
        let shown = Path::new(given.file_name().unwrap_or_default());
        // what cannot be read is not kept: the answer says why
        let read = images::read_bytes(&body, shown)
            .map_err(|error| refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}")))?;
        drop(read);
        if images::list(&folder)?.pictures.len() >= MOST {
            return Err(wrong(format!("{MOST} photos are there already: 4 to 6 good ones serve best")));
        }
        let stem = tidy(&given.file_stem().unwrap_or_default().to_string_lossy());
        // a photo of such a name would be taken for another one's mask
        let stem = ["-masklabel", "-mask", "_mask"]
            .iter()
            .fold(stem.as_str(), |stem, end| stem.strip_suffix(end).unwrap_or(stem));
        let ending = tidy(&given.extension().unwrap_or_default().to_string_lossy()).to_lowercase();
        let ending = if ending.is_empty() { "png" } else { &ending };
        let file =
            format!("{:0DIGITS$}-{}.{ending}", next_number(&folder), if stem.is_empty() { "photo" } else { stem });
        write_whole(&folder.join(&file), &body)?;
        state.queue.tell("changed", &json!("subjects"));
        Ok(Json(json!({ "file": file })))
    })
    .await
}

/// How a photo is wanted.
#[derive(Deserialize)]
pub(super) struct How {
    side: Option<u32>,
}

/// A photo.
pub(super) async fn get(
    State(ui): State<Arc<Ui>>,
    Parts((name, file)): Parts<(String, String)>,
    Query(how): Query<How>,
) -> Answer<Response> {
    let path = inside(&folder_of(&ui, &name)?, &[&file])?;
    shown(&ui, path, Some(how.side.unwrap_or(1600))).await
}

/// The files of a photo: itself, and the mask that the page keeps of it.
fn files_of(folder: &Path, file: &str) -> Vec<PathBuf> {
    [folder.join(file), mask_path(folder, file)].into_iter().filter(|path| path.is_file()).collect()
}

/// Removes a photo with its mask, so that it can come back.
pub(super) async fn remove(
    State(ui): State<Arc<Ui>>,
    Parts((name, file)): Parts<(String, String)>,
) -> Answer<Json<Value>> {
    let folder = folder_of(&ui, &name)?;
    inside(&folder, &[&file])?;
    let undo = undo::remove(&ui.subjects(), &files_of(&folder, &file), &[])?;
    ui.queue.tell("changed", &json!("subjects"));
    Ok(Json(json!({"undo": {"section": SUBJECTS, "id": undo}})))
}

/// Photos in a new order.
#[derive(Deserialize)]
pub(super) struct Order {
    files: Vec<String>,
}

/// Renames the photos so that their names are in that order. The numbers go on after the highest one, so that no name is
/// taken; after 900 they begin again.
pub(super) async fn order(
    State(ui): State<Arc<Ui>>,
    Parts(name): Parts<String>,
    Json(order): Json<Order>,
) -> Answer<Json<Value>> {
    aside(move || {
        let folder = folder_of(&ui, &name)?;
        for file in &order.files {
            inside(&folder, &[file])?;
        }
        let next = next_number(&folder);
        let first = if next + order.files.len() < 10usize.pow(DIGITS as u32) { next } else { 1 };
        for (i, file) in order.files.iter().enumerate() {
            let rest = numbered(file).map_or(file.as_str(), |(_, rest)| rest);
            let renamed = format!("{:0DIGITS$}-{rest}", first + i);
            if folder.join(&renamed).exists() {
                return Err(refusal(StatusCode::CONFLICT, format!("{renamed} is there already")));
            }
            for (old, new) in
                [(mask_path(&folder, file), mask_path(&folder, &renamed)), (folder.join(file), folder.join(&renamed))]
            {
                if old.exists() {
                    fs::rename(old, new)?;
                }
            }
        }
        ui.queue.tell("changed", &json!("subjects"));
        Ok(Json(described(&ui, &name)))
    })
    .await
}

/// A part of a photo, as shares of its sides.
#[derive(Deserialize)]
pub(super) struct Part {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// Cuts a part out of a photo and its mask. The whole ones can come back.
pub(super) async fn crop(
    State(ui): State<Arc<Ui>>,
    Parts((name, file)): Parts<(String, String)>,
    Json(part): Json<Part>,
) -> Answer<Json<Value>> {
    let _turn = ui.turn.lock().await;
    let state = ui.clone();
    aside(move || {
        let folder = folder_of(&state, &name)?;
        let path = inside(&folder, &[&file])?;
        let image = images::open(&path)?;
        let mask = subject::photo(&folder, Path::new(&file)).ok().map(|(photo, _)| photo.mask);
        let cut = |width: u32, height: u32| {
            let share = |part: f64, whole: u32| ((part.clamp(0., 1.) * f64::from(whole)).round() as u32).min(whole);
            let (x, y) = (share(part.left, width), share(part.top, height));
            (x, y, share(part.width, width).min(width - x), share(part.height, height).min(height - y))
        };
        let (x, y, width, height) = cut(image.width(), image.height());
        if width.min(height) < 16 {
            return Err(wrong("so small a part shows nothing: cut at least 16 pixels"));
        }
        let mut made = path.clone();
        made.set_extension("png");
        if made != path && made.exists() {
            return Err(refusal(StatusCode::CONFLICT, format!("{} is there already", made.display())));
        }
        let files = files_of(&folder, &file);
        let masked = mask_path(&folder, &file);
        let undo = undo::remove(&state.subjects(), &files, &[made.clone(), masked.clone()])?;
        save_png(&made, &imageops::crop_imm(&image, x, y, width, height).to_image(), &[])?;
        if let Some(mask) = mask {
            let (x, y, width, height) = cut(mask.width(), mask.height());
            save_mask(&masked, &imageops::crop_imm(&mask, x, y, width.max(1), height.max(1)).to_image())?;
        }
        state.queue.tell("changed", &json!("subjects"));
        Ok(Json(json!({"undo": {"section": SUBJECTS, "id": undo}})))
    })
    .await
}

fn save_mask(path: &Path, mask: &GrayImage) -> Answer<()> {
    path.parent().map(make_folder).transpose()?;
    Ok(write_whole(path, &mask_png(mask)?)?)
}

fn mask_png(mask: &GrayImage) -> anyhow::Result<Vec<u8>> {
    png_bytes(&DynamicImage::ImageLuma8(mask.clone()).to_rgb8(), &[])
}

/// A photo's mask as training takes it.
pub(super) async fn mask(State(ui): State<Arc<Ui>>, Parts((name, file)): Parts<(String, String)>) -> Answer<Response> {
    let _turn = ui.turn.lock().await;
    let state = ui.clone();
    aside(move || {
        let folder = folder_of(&state, &name)?;
        inside(&folder, &[&file])?;
        let (photo, _) = subject::photo(&folder, Path::new(&file)).map_err(|_| missing("mask of this photo"))?;
        Ok(picture(mask_png(&photo.mask)?, "image/png"))
    })
    .await
}

/// Takes a mask that was drawn: white where the subject is.
pub(super) async fn set_mask(
    State(ui): State<Arc<Ui>>,
    Parts((name, file)): Parts<(String, String)>,
    body: Bytes,
) -> Answer<Json<Value>> {
    let _turn = ui.turn.lock().await;
    let state = ui.clone();
    aside(move || {
        let folder = folder_of(&state, &name)?;
        let path = inside(&folder, &[&file])?;
        let read = images::read_bytes(&body, Path::new("the mask"))
            .map_err(|error| refusal(StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}")))?;
        let mut mask = DynamicImage::ImageRgb8(read.image).into_luma8();
        mask.iter_mut().for_each(|value| *value = if *value >= 128 { 255 } else { 0 });
        let (photo, own) = (images::open(&path)?.dimensions(), mask.dimensions());
        let shape = |(width, height): (u32, u32)| f64::from(width) / f64::from(height);
        if (shape(photo) / shape(own) - 1.).abs() > 0.02 {
            return Err(wrong(format!(
                "a mask of {}x{} does not fit a photo of {}x{}",
                own.0, own.1, photo.0, photo.1
            )));
        }
        if mask.iter().all(|&value| value == 0) {
            return Err(wrong("the mask is empty: paint over the subject"));
        }
        save_mask(&mask_path(&folder, &file), &mask)?;
        state.queue.tell("changed", &json!("subjects"));
        Ok(Json(json!({})))
    })
    .await
}

/// A mask to begin with, cut by colours alone: at once, and without a model.
pub(super) async fn propose(
    State(ui): State<Arc<Ui>>,
    Parts((name, file)): Parts<(String, String)>,
) -> Answer<Response> {
    let _turn = ui.turn.lock().await;
    let state = ui.clone();
    aside(move || {
        let path = inside(&folder_of(&state, &name)?, &[&file])?;
        let read = images::open(&path)?;
        let longer = read.width().max(read.height());
        let small = |n: u32| (u64::from(n) * u64::from(FINEST.min(longer)) / u64::from(longer)).max(1) as u32;
        let photo = images::resized(&read, small(read.width()), small(read.height()));
        drop(read);
        let made = PlainCut(Cutting::default()).masks(&[&photo], "")?;
        let mask = made.first().ok_or_else(|| missing("mask to propose"))?;
        // not to be kept: another photo may have its name by then
        Ok(([(CONTENT_TYPE, "image/png")], mask_png(&mask.mask)?).into_response())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_ordered_by_numbers_in_their_names() -> anyhow::Result<()> {
        assert_eq!(numbered("007-cat.jpg"), Some((7, "cat.jpg")));
        assert_eq!([numbered("7-cat.jpg"), numbered("cat.jpg"), numbered("2024-cat.jpg")], [None; 3]);
        let folder = tempfile::tempdir()?;
        assert_eq!(next_number(folder.path()), 1);
        fs::write(folder.path().join("012-a.png"), "")?;
        assert_eq!(next_number(folder.path()), 13);
        assert_eq!(mask_path(Path::new("x"), "012-a.b.png"), Path::new("x/masks/012-a.b.png"));
        Ok(())
    }
}
