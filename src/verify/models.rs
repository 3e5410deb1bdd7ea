//! Bands, tokens and the VAE.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::Device;
use serde::Deserialize;

use super::case::{ACTIVATION, Case, Checks};
use crate::base::Base;
use crate::images::Picture;
use crate::method::eqdiff::fdte::{Region, Split, split_bands};
use crate::model::Tokenizer;

#[derive(Deserialize)]
struct BandSettings {
    low_cutoff: usize,
    high_cutoff: usize,
    shape: String,
    gray: bool,
    magnitude: bool,
}

pub(super) fn bands(folder: &Path, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, "bands", &Device::Cpu)?;
    for (name, settings) in case.settings::<BTreeMap<String, BandSettings>>()? {
        let image = case.get(&format!("in.{name}"))?;
        let (height, width, _) = image.dims3()?;
        let picture = Picture { height, width, values: case.numbers(&format!("in.{name}"))? };
        let split = Split {
            low_cutoff: settings.low_cutoff,
            high_cutoff: settings.high_cutoff,
            region: if settings.shape == "square" { Region::Square } else { Region::Disc },
            gray: settings.gray,
            magnitude: settings.magnitude,
        };
        let (low, high) = split_bands(&picture, &split);
        for (band, ours) in [("low", low), ("high", high)] {
            let recorded = case.numbers(&format!("out.{name}.{band}"))?;
            let error = super::case::distance(&ours.values, &recorded);
            checks.check(format!("bands: {name} {band}"), error, ACTIVATION);
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct TokenCase {
    prompt: String,
    ids: Vec<u32>,
}

/// All prompts in one check: the share whose ids differ. Folders made without tokens.json have none.
pub(super) fn tokens(folder: &Path, checks: &mut Checks) -> Result<()> {
    let path = folder.join("tokens.json");
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let cases: Vec<TokenCase> =
        serde_json::from_str(&text).with_context(|| format!("{} does not fit", path.display()))?;
    let file = |name: &str| {
        let path = folder.join("model/tokenizer").join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let length = cases.first().map_or(77, |case| case.ids.len());
    let tokenizer = Tokenizer::from_vocab(&file("vocab.json")?, &file("merges.txt")?, length)?;
    // a placeholder that no text holds, so that every prompt is plain
    let mut wrong = Vec::new();
    for case in &cases {
        if tokenizer.encode(&case.prompt, "\u{10ffff}")?.ids != case.ids {
            wrong.push(&case.prompt);
        }
    }
    let mut name = format!("tokens: {} prompts", cases.len());
    if let Some(first) = wrong.first() {
        name += &format!(", e.g. {first:?}");
    }
    checks.check(name, wrong.len() as f64 / cases.len().max(1) as f64, 0.);
    Ok(())
}

pub(super) fn vae(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, "vae", &base.device)?;
    let posterior = base.vae.encode(&case.get("in.image")?)?;
    checks.tensors("vae: mean".into(), &posterior.mean, &case.get("out.mean")?, ACTIVATION)?;
    checks.tensors("vae: std".into(), &posterior.std, &case.get("out.std")?, ACTIVATION)?;
    let decoded = base.vae.decode(&case.get("out.mean")?)?;
    checks.tensors("vae: decoded".into(), &decoded, &case.get("out.decoded")?, ACTIVATION)
}
