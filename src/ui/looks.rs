//! What is known of photos, read once as long as they and their masks do not change.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::Ui;
use super::answer::{address, stamp};
use super::names::plain;
use crate::{images, subject};

/// The folder of masks that the page writes.
const MASKS: &str = "masks";

/// What is known of a photo.
#[derive(Clone)]
pub(super) struct Look {
    /// As pages see it.
    pub value: Value,
    /// The share of it that the subject covers; none without a mask that fits.
    pub coverage: Option<f64>,
    /// Whether it has no mask, and nothing else is wrong.
    pub bare: bool,
}

/// Photos that were read, by path, as long as they and their masks do not change.
#[derive(Default)]
pub(super) struct Looks(Mutex<HashMap<PathBuf, (Stamps, Look)>>);

type Stamps = (Option<(u64, u64)>, Option<(u64, u64)>);

/// Reads a photo with its mask as a training would, or says what is wrong; none for one of an odd name.
pub(super) fn look(ui: &Ui, subject: &str, path: &Path) -> Option<Look> {
    let file = path.file_name()?.to_str()?;
    plain(file).ok()?;
    let mask = mask_path(path.parent()?, file);
    let stamps = (stamp(path), stamp(&mask));
    let looks = &ui.looks.0;
    if let Some((then, look)) = looks.lock().unwrap_or_else(PoisonError::into_inner).get(path)
        && *then == stamps
    {
        return Some(look.clone());
    }
    let version = stamps.0.map_or(String::new(), |(time, length)| format!("{time:x}-{length:x}"));
    let of_mask = stamps.1.map_or("0".into(), |(time, length)| format!("{time:x}-{length:x}"));
    let url = address(&["subjects", subject, "photos", file]);
    let mut value = json!({"file": file, "url": format!("{url}?v={version}")});
    let (mut coverage, mut bare) = (None, false);
    match images::read(path) {
        Err(error) => value["error"] = json!(format!("{error:#}")),
        Ok(read) => {
            let (width, height) = read.image.dimensions();
            (value["width"], value["height"]) = (json!(width), json!(height));
            let warnings = read.warnings;
            drop(read.image);
            match subject::photo(path.parent()?, Path::new(file)) {
                Ok((photo, warnings)) => {
                    coverage = Some(photo.coverage());
                    value["coverage"] = json!(coverage);
                    value["mask"] =
                        json!(format!("{}?v={version}-{of_mask}", address(&["subjects", subject, "masks", file])));
                    value["warnings"] = json!(warnings);
                }
                // a photo without a mask is no trouble yet, one whose mask does not fit is
                Err(error) => {
                    let text = format!("{error:#}");
                    bare = text.starts_with("no mask for");
                    let trouble = (!bare).then_some(text);
                    value["warnings"] = json!(warnings.into_iter().chain(trouble).collect::<Vec<_>>());
                }
            }
        }
    }
    let look = Look { value, coverage, bare };
    looks.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf(), (stamps, look.clone()));
    Some(look)
}

/// Where the page keeps the mask of a photo.
pub(super) fn mask_path(folder: &Path, file: &str) -> PathBuf {
    let mut name = Path::new(file).file_stem().unwrap_or_default().to_os_string();
    name.push(".png");
    folder.join(MASKS).join(name)
}
