//! The folder of a subject: on disk, or part of the program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use include_dir::{Dir, include_dir};

use crate::images::{self, Listing, is_hidden, shown, steers};

pub(super) static ASSETS: Dir = include_dir!("$CARGO_MANIFEST_DIR/assets/subjects");

/// What a subject's name begins with that is part of the program, whatever folders there are.
pub const BUNDLED: &str = "bundled:";

/// Where a subject's files are.
pub(super) enum Store {
    /// A folder.
    Disk(PathBuf),
    /// A bundled subject.
    Bundled(&'static Dir<'static>),
}

impl Store {
    /// The folder of that path or name.
    pub(super) fn of_subject(subject: &str) -> Result<Self> {
        let mut places = vec![PathBuf::from(subject), Path::new("subjects").join(subject)];
        places.dedup(); // of a whole path
        let name = subject.strip_prefix(BUNDLED);
        if let Some(folder) = places.iter().find(|place| name.is_none() && place.is_dir()) {
            return Ok(Self::Disk(folder.clone()));
        }
        if let Some(dir) = ASSETS.get_dir(name.unwrap_or(subject)) {
            return Ok(Self::Bundled(dir));
        }
        let places: Vec<String> = places.iter().map(|place| shown(place)).collect();
        bail!(
            "no subject {subject:?}: there is no folder {}, and the bundled ones are {}",
            places.join(" or "),
            super::bundled().join(", ")
        )
    }

    /// Names of the files directly in `folder` of the store ("" is its top), sorted, without hidden ones.
    pub(super) fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = match self {
            Self::Disk(top) => std::fs::read_dir(top.join(folder))
                .map(|entries| {
                    entries.filter_map(|e| e.ok()).filter(|e| e.path().is_file()).map(|e| folder.join(e.file_name()))
                })
                .map(Iterator::collect)
                .unwrap_or_default(),
            Self::Bundled(dir) => {
                let inner =
                    if folder.as_os_str().is_empty() { Some(*dir) } else { dir.get_dir(dir.path().join(folder)) };
                let files = inner.map(|inner| inner.files().filter_map(|f| f.path().strip_prefix(dir.path()).ok()));
                files.map(|files| files.map(Path::to_path_buf).collect()).unwrap_or_default()
            }
        };
        files.retain(|path| !is_hidden(path));
        files.sort();
        files
    }

    /// The pictures directly in the store's top, and what else looks like one.
    pub(super) fn pictures(&self) -> Result<Listing> {
        let mut listing = match self {
            Self::Disk(top) => images::list(top)?,
            Self::Bundled(_) => {
                let mut listing = Listing::default();
                for file in self.files(Path::new("")) {
                    let path = self.path(&file);
                    listing.judge(path, |_| self.read(&file).map_err(std::io::Error::other));
                }
                listing.sorted()
            }
        };
        let top = self.path(Path::new(""));
        for path in &mut listing.pictures {
            *path = path.strip_prefix(&top).unwrap_or(path).to_path_buf();
        }
        Ok(listing)
    }

    /// Whether a file is a picture by its content.
    pub(super) fn is_picture(&self, file: &Path) -> bool {
        let mut listing = Listing::default();
        match self {
            Self::Disk(top) => listing.judge(top.join(file), images::head),
            Self::Bundled(_) => listing.judge(self.path(file), |_| self.read(file).map_err(std::io::Error::other)),
        }
        !listing.pictures.is_empty()
    }

    /// The subject's name: that of its folder, also where it is called `.` or `..`.
    pub(super) fn name(subject: &str) -> Option<String> {
        let path = Path::new(subject.strip_prefix(BUNDLED).unwrap_or(subject));
        let real = || std::fs::canonicalize(path).ok();
        let name = match path.file_name() {
            Some(name) => name.to_os_string(),
            None => real()?.file_name()?.to_os_string(),
        };
        // names of adapters and lines of messages are made of it
        let name: String = name.to_string_lossy().chars().map(|c| if steers(c) { '_' } else { c }).collect();
        Some(name).filter(|name| !name.is_empty())
    }

    /// Whether there is a folder of that name.
    pub(super) fn has_folder(&self, folder: &Path) -> bool {
        match self {
            Self::Disk(top) => top.join(folder).is_dir(),
            Self::Bundled(dir) => dir.get_dir(dir.path().join(folder)).is_some(),
        }
    }

    /// The picture in a file.
    pub(super) fn picture(&self, file: &Path) -> Result<images::Read> {
        match self {
            Self::Disk(top) => images::read(&top.join(file)),
            Self::Bundled(_) => images::read_bytes(&self.read(file)?, &self.path(file)),
        }
    }

    /// A file's content.
    pub(super) fn read(&self, file: &Path) -> Result<Vec<u8>> {
        match self {
            Self::Disk(top) => {
                let path = top.join(file);
                std::fs::read(&path).with_context(|| format!("cannot read {}", shown(&path)))
            }
            Self::Bundled(dir) => {
                let found = dir.get_file(dir.path().join(file));
                Ok(found.with_context(|| format!("no {} is bundled", shown(&self.path(file))))?.contents().to_vec())
            }
        }
    }

    /// The full name of a file, for messages.
    pub(super) fn path(&self, file: &Path) -> PathBuf {
        match self {
            Self::Disk(top) => top.join(file),
            Self::Bundled(dir) => Path::new("bundled").join(dir.path()).join(file),
        }
    }

    /// The class word in `subject.json`, if there is one.
    pub(super) fn class(&self) -> Option<String> {
        let json: serde_json::Value = serde_json::from_slice(&self.read(Path::new("subject.json")).ok()?).ok()?;
        json["class"].as_str().map(str::to_string)
    }
}
