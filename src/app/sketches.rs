//! Pictures as they are so far, while they are drawn: one file that is replaced again and again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Result;
use image::RgbImage;

use crate::images::png::{is_ours, save_sheet_over_ours};
use crate::report::contact_sheet;

/// The file beside the pictures.
const FILE: &str = "preview.png";

/// The sketches of what is being drawn.
pub(super) struct Sketches {
    path: PathBuf,
    pictures: BTreeMap<usize, RgbImage>,
    /// Whether the file is older than they are.
    is_new: bool,
}

impl Sketches {
    /// None yet.
    pub(super) fn new(folder: &Path) -> Self {
        Self { path: folder.join(FILE), pictures: BTreeMap::new(), is_new: false }
    }

    /// The picture of that place as it is so far.
    pub(super) fn put(&mut self, place: usize, picture: RgbImage) {
        self.pictures.insert(place, picture);
        self.is_new = true;
    }

    /// The picture of that place is finished, and has a file of its own.
    pub(super) fn done(&mut self, place: usize) {
        self.pictures.remove(&place);
    }

    /// Writes the file, if there is something new.
    ///
    /// # Errors
    /// If somebody else's file is there, or it cannot be written.
    pub(super) fn show(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.is_new) {
            return Ok(());
        }
        let cells: Vec<_> = self.pictures.values().map(|picture| (picture.clone(), String::new())).collect();
        save_sheet_over_ours(&self.path, &contact_sheet(&cells, 4))
    }

    /// Removes the file: there is nothing more to wait for.
    pub(super) fn end(&self) {
        if is_ours(&self.path) {
            let _ = std::fs::remove_file(&self.path); // it does no harm where it stays
        }
    }
}
