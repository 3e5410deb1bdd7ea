//! What the pictures and scores of a training come of beside the plan: its names tell neither photos nor encoders.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use crate::files::{read_text, write_whole};

/// Its file, in the training's folder.
const SOURCES: &str = "sources.toml";

/// What a training's pictures and scores come of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sources {
    /// The digest of the subject's photos and masks.
    pub photos: String,
    /// The CLIP of the scores, by its name alone.
    pub clip: String,
    /// The DINO likewise.
    pub dino: String,
}

impl Sources {
    /// Those of a plan and of photos with that digest.
    pub fn new(plan: &Plan, photos: String) -> Self {
        let [clip, dino] = plan.encoders().map(String::from);
        Self { photos, clip, dino }
    }

    /// Those that a training's folder names; none where nothing has been made there yet.
    ///
    /// # Errors
    /// If the file cannot be read or is damaged.
    pub fn of(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(SOURCES);
        if !path.exists() {
            return Ok(None);
        }
        let damaged = || format!("{} is damaged: remove the training's folder", path.display());
        toml::from_str(&read_text(&path)?).with_context(damaged).map(Some)
    }

    /// Leaves them in a training's folder.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn keep(&self, folder: &Path) -> Result<()> {
        let text = toml::to_string(self).context("cannot write what a training comes of")?;
        write_whole(&folder.join(SOURCES), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_as_they_were_left() -> Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(Sources::of(folder.path())?, None);
        let [photos, clip, dino] = ["abc", "mini", "vit \"s\""].map(String::from);
        let sources = Sources { photos, clip, dino };
        sources.keep(folder.path())?;
        assert_eq!(Sources::of(folder.path())?, Some(sources));
        std::fs::write(folder.path().join(SOURCES), "photos = 3")?;
        assert!(format!("{:#}", Sources::of(folder.path()).err().context("no error")?).contains("is damaged: remove"));
        Ok(())
    }
}
