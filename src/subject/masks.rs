//! Finding the mask of each photo.

use std::path::{Path, PathBuf};

use anyhow::{Error, Result, anyhow, bail};
use image::{GrayImage, Luma, RgbImage};

use super::fit::{Shape, fitted};
use super::store::Store;
use crate::images::{self, mask_stems, shown};

/// Folders that are looked into without being asked.
const USUAL: [&str; 2] = ["masks", "seg_masks"];

/// A mask that was found.
pub(super) struct Found {
    /// 255 where the subject is, else 0; as large as the upright photo.
    pub mask: GrayImage,
    /// Where it came from, for messages.
    pub source: String,
    /// What the user should know, but can live with.
    pub warnings: Vec<String>,
}

impl Found {
    /// The mask of a photo whose subject is anywhere.
    pub(super) fn whole(image: &RgbImage) -> Self {
        let mask = GrayImage::from_pixel(image.width(), image.height(), Luma([255]));
        Self { mask, source: "none: all of the photo".into(), warnings: Vec::new() }
    }
}

/// Where masks are looked for.
pub(super) struct MaskFinder {
    /// A folder of masks, and the store that it is in if that is not the photos'.
    folders: Vec<(Option<Store>, PathBuf)>,
    /// Whether the user named the folder: then nothing else will do.
    named: bool,
}

impl MaskFinder {
    /// `named` is relative to the photos' folder, else to the current one.
    pub(super) fn new(store: &Store, named: Option<&Path>) -> Result<Self> {
        if let Some(folder) = named {
            let folder: PathBuf = folder.components().collect(); // without a trailing slash
            if store.has_folder(&folder) {
                return Ok(Self { folders: vec![(None, folder)], named: true });
            }
            if folder.is_dir() {
                return Ok(Self { folders: vec![(Some(Store::Disk(folder)), PathBuf::new())], named: true });
            }
            bail!("there is no folder with masks {}, nor {}", shown(&store.path(&folder)), shown(&folder));
        }
        let usual = USUAL.iter().map(PathBuf::from).filter(|folder| store.has_folder(folder));
        Ok(Self { folders: usual.map(|folder| (None, folder)).collect(), named: false })
    }

    /// The mask of a photo of that shape, for which `alpha` is taken if there is no file; none if there is neither.
    pub(super) fn mask(
        &self,
        store: &Store,
        photo: &Path,
        shape: &Shape,
        alpha: Option<GrayImage>,
    ) -> Result<Option<Found>> {
        for (own, folder) in &self.folders {
            let store = own.as_ref().unwrap_or(store);
            if let Some(file) = in_folder(store, folder, photo, shape.path) {
                return read(store, &file, shape).map(Some);
            }
        }
        if !self.named {
            let beside = |file: &&PathBuf| mask_stems(photo).iter().any(|mask| file.file_stem() == Some(mask));
            if let Some(file) = store.files(Path::new("")).iter().filter(|file| store.is_picture(file)).find(beside) {
                return read(store, file, shape).map(Some);
            }
            if let Some(alpha) = alpha {
                let mask = thresholded(alpha);
                return Ok(Some(Found { mask, source: "alpha channel".to_string(), warnings: Vec::new() }));
            }
        }
        Ok(None)
    }

    /// The error that says where a mask was looked for.
    pub(super) fn missing(&self, store: &Store, photo: &Path) -> Error {
        let stem = photo.file_stem().unwrap_or_default();
        let named = images::printable(&stem.to_string_lossy());
        let looked = |(own, folder): &(Option<Store>, PathBuf)| {
            let folder = own.as_ref().unwrap_or(store).path(folder);
            format!("{0}/{named}.png, {0}/{named}/", shown(&folder))
        };
        let mut places: Vec<String> = self.folders.iter().map(looked).collect();
        if !self.named {
            if places.is_empty() {
                places.push(format!("{}/{{{}}}/", shown(&store.path(Path::new(""))), USUAL.join(",")));
            }
            let beside = mask_stems(photo).remove(0);
            places.push(format!("{}.png", shown(&store.path(Path::new(&beside)))));
            places.push("the photo's alpha channel".to_string());
        }
        anyhow!("no mask for {}: looked for {}", shown(&store.path(photo)), places.join(", "))
    }
}

/// `folder/NAME.png` or the like, or the first picture of `folder/NAME/`, but not the photo that lies at `path`: masks may
/// be in its own folder.
fn in_folder(store: &Store, folder: &Path, photo: &Path, path: &Path) -> Option<PathBuf> {
    let stem = photo.file_stem()?;
    let place = std::fs::canonicalize(path).ok();
    let is_photo = |file: &Path| place.is_some() && std::fs::canonicalize(store.path(file)).ok() == place;
    let is_named = |file: &&PathBuf| {
        let own = file.file_stem();
        own == Some(stem) || own == photo.file_name() || mask_stems(photo).iter().any(|mask| own == Some(mask))
    };
    let beside = store.files(folder);
    let beside = beside.iter().filter(is_named).find(|file| !is_photo(file) && store.is_picture(file)).cloned();
    beside.or_else(|| store.files(&folder.join(stem)).into_iter().find(|file| store.is_picture(file)))
}

fn read(store: &Store, file: &Path, shape: &Shape) -> Result<Found> {
    let path = store.path(file);
    let levels = images::read_mask(&store.read(file)?, &path)?;
    let source = match levels.meaning {
        Some(meaning) => format!("{} ({meaning})", shown(&path)),
        None => shown(&path),
    };
    let mut warnings: Vec<String> = levels.warnings.iter().map(|w| format!("the mask {}: {w}", shown(&path))).collect();
    let mask = fitted(levels, &path, shape, &mut warnings)?;
    Ok(Found { mask, source, warnings })
}

fn thresholded(mut mask: GrayImage) -> GrayImage {
    for value in mask.iter_mut() {
        *value = if *value >= 128 { 255 } else { 0 };
    }
    mask
}
