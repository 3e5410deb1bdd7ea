//! CLIP-T, CLIP-I and DINO-I on PNG files of odd sizes.

use std::path::Path;

use anyhow::Result;
use candle_core::{Device, Tensor};
use image::RgbImage;
use serde::Deserialize;

use super::case::{Case, Checks, METRIC};
use crate::base::{Clip, load_dino};
use crate::evaluation::metrics::{clip_t, pairwise};
use crate::evaluation::scorer::{clip_features, dino_features, text_features};
use crate::images::{self, pictures_in};

/// Features go through the resampling of another library.
const FEATURE: f64 = 1e-3;

#[derive(Deserialize)]
struct MetricSettings {
    prompts: Vec<String>,
}

pub(super) fn metrics(folder: &Path, device: &Device, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, "metrics", device)?;
    let settings: MetricSettings = case.settings()?;
    let clip = Clip::load(&folder.join("clip").display().to_string(), true, device)?;
    let dino = load_dino(&folder.join("dino").display().to_string(), true, device)?;
    let (generated, concept) =
        (pictures(&folder.join("metrics/generated"))?, pictures(&folder.join("metrics/concept"))?);
    let prompts: Vec<&str> = settings.prompts.iter().map(String::as_str).collect();
    let text = text_features(&clip, &prompts)?;
    let (images, concepts) = (clip_features(&clip, &generated)?, clip_features(&clip, &concept)?);
    let (looks, concept_looks) = (dino_features(&dino, &generated, device)?, dino_features(&dino, &concept, device)?);
    let features: [(&str, &Tensor); 5] = [
        ("clip.text", &text),
        ("clip.generated", &images),
        ("clip.concept", &concepts),
        ("dino.generated", &looks),
        ("dino.concept", &concept_looks),
    ];
    for (name, ours) in features {
        checks.tensors(format!("metrics: features {name}"), ours, &case.get(&format!("out.{name}"))?, FEATURE)?;
    }
    let scores = [
        ("clip_t", clip_t(&images, &text)?.score),
        ("clip_i", pairwise(&images, &concepts)?.mean),
        ("dino_i", pairwise(&looks, &concept_looks)?.mean),
    ];
    for (name, ours) in scores {
        let gap = (ours as f64 - case.number(&format!("out.{name}"))?).abs();
        checks.check(format!("metrics: {name}"), gap, METRIC);
    }
    Ok(())
}

/// All pictures of a folder, by name.
fn pictures(folder: &Path) -> Result<Vec<RgbImage>> {
    pictures_in(folder)?.iter().map(|path| images::open(path)).collect()
}
