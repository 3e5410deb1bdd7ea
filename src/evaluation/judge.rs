//! What a base's own judge finds in pictures, beside what the subject's photos and the prompt ask for.
//!
//! In the world of such a base every attribute has a name, so likeness and obedience can be counted.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use candle_core::Tensor;
use image::RgbImage;
use serde::{Deserialize, Serialize};

use super::preprocess::Preprocess;
use crate::model::Judge;
use crate::model::judge::JudgeConfig;

/// An attribute of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// What thing it is.
    Word,
    /// The subject's main colour.
    Main,
    /// Its second one.
    Second,
    /// Its pattern.
    Pattern,
    /// The shapes of its parts.
    Shape,
    /// Where it is.
    Place,
    /// How the picture is made.
    Style,
}

impl Attribute {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 7] =
        [Self::Word, Self::Main, Self::Second, Self::Pattern, Self::Shape, Self::Place, Self::Style];

    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Word => "word",
            Self::Main => "main colour",
            Self::Second => "second colour",
            Self::Pattern => "pattern",
            Self::Shape => SHAPE,
            Self::Place => "place",
            Self::Style => "style",
        }
    }

    /// What the judge calls it.
    fn key(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Second => "second",
            Self::Place => "background",
            named => named.name(),
        }
    }

    /// Whether it is the subject's, so that photos show it; the others are the prompt's to say.
    pub fn is_of_subject(self) -> bool {
        !matches!(self, Self::Place | Self::Style)
    }
}

/// All shapes of a word together.
const SHAPE: &str = "shape";

/// The style of pictures without one.
const PHOTO: &str = "photo";

/// What the judge finds of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The attribute, as people name it.
    pub attribute: String,
    /// What it takes it for.
    pub found: String,
    /// What it should be; none: neither photos nor prompt say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
}

impl Finding {
    /// Whether it is what it should be; none: that is not known.
    pub fn right(&self) -> Option<bool> {
        self.wanted.as_ref().map(|wanted| *wanted == self.found)
    }
}

/// Names by the judge's attributes.
pub type Looks = BTreeMap<String, String>;

/// What the judge sees in the subject's photos taken together. Their places are not the subject's.
///
/// # Errors
/// If the computation fails.
pub fn looks(judge: &Judge, photos: &[RgbImage]) -> Result<Looks> {
    let seen = look(judge, photos)?;
    let best = |attribute: &String| -> Result<_> {
        let all = seen[attribute].sum(0)?.to_vec1::<f32>()?;
        Ok((attribute.clone(), name(judge, attribute, &all)?))
    };
    let mut looks: Looks = judge.config.labels.keys().map(best).collect::<Result<_>>()?;
    let word = looks.get("word").cloned().unwrap_or_default();
    looks.retain(|attribute, _| match attribute.split_once(' ') {
        Some((of, _)) => of == word,
        None => !["background", "style"].contains(&attribute.as_str()),
    });
    Ok(looks)
}

/// What the judge finds in a picture of a subject that looks so, drawn from `prompt` (without the placeholder).
///
/// # Errors
/// If the computation fails.
pub fn findings(judge: &Judge, picture: &RgbImage, prompt: Option<&str>, subject: &Looks) -> Result<Vec<Finding>> {
    let seen = look(judge, std::slice::from_ref(picture))?;
    let wanted = wanted(&judge.config, prompt, subject);
    let mut findings = Vec::new();
    for attribute in Attribute::ALL {
        let shape_of_word = |key: &str| attribute == Attribute::Shape && key.contains(' ') && subject.contains_key(key);
        let own = |key: &&String| *key == attribute.key() || shape_of_word(key);
        for key in judge.config.labels.keys().filter(own) {
            let found = name(judge, key, &seen[key].squeeze(0)?.to_vec1::<f32>()?)?;
            findings.push(Finding { attribute: attribute.name().into(), found, wanted: wanted.get(key).cloned() });
        }
    }
    Ok(findings)
}

/// What a picture should show: the subject's looks, but for what the prompt says otherwise, and the prompt's place and style.
fn wanted(config: &JudgeConfig, prompt: Option<&str>, subject: &Looks) -> Looks {
    let mut wanted = subject.clone();
    let Some(prompt) = prompt else { return wanted };
    let mut text = format!(" {} ", prompt.to_lowercase());
    // "on a yellow background" names no colour of the thing, so each wording is taken out where it is found
    let mut asked = |attribute: &str| {
        let wordings = config.wordings.get(attribute)?;
        let (wording, name) = wordings.iter().find(|(wording, _)| text.contains(&format!(" {wording} ")))?;
        text = text.replacen(wording.as_str(), " ", 1);
        Some(name.clone())
    };
    wanted.extend(asked("background").map(|place| ("background".to_string(), place)));
    let style = asked("style").unwrap_or(PHOTO.into());
    // a prompt that names a colour may mean any part of the thing
    if config.colorless.contains(&style) || asked("main").is_some() {
        wanted.retain(|attribute, _| !["main", "second"].contains(&attribute.as_str()));
    }
    if asked("pattern").is_some() {
        wanted.remove("pattern");
    }
    wanted.insert("style".into(), style);
    wanted
}

/// Shares of right findings by attribute, in the order of tables, of pictures that are known to be right or wrong.
pub fn shares<'a>(findings: impl Iterator<Item = &'a Finding> + Clone) -> Vec<(&'static str, f32)> {
    let share = |attribute: Attribute| {
        let own = findings.clone().filter(|finding| finding.attribute == attribute.name());
        let known: Vec<bool> = own.filter_map(Finding::right).collect();
        let right = known.iter().filter(|&&right| right).count();
        (!known.is_empty()).then(|| (attribute.name(), right as f32 / known.len() as f32))
    };
    Attribute::ALL.into_iter().filter_map(share).collect()
}

/// Logarithms of probabilities of all pictures together, by attribute.
fn look(judge: &Judge, pictures: &[RgbImage]) -> Result<BTreeMap<String, Tensor>> {
    let side = judge.config.image_size;
    let preprocess = Preprocess { shortest_edge: side, crop: side, mean: [0.5; 3], std: [0.5; 3] };
    let pixels = pictures.iter().map(|picture| preprocess.pixels(picture)).collect::<candle_core::Result<Vec<_>>>()?;
    Ok(judge.look(&Tensor::cat(&pixels, 0)?)?)
}

/// The most probable name.
fn name(judge: &Judge, attribute: &str, values: &[f32]) -> Result<String> {
    let best = values.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(i, _)| i);
    match best.and_then(|best| judge.config.labels.get(attribute)?.get(best)) {
        Some(name) => Ok(name.clone()),
        None => bail!("the judge has no names for {attribute}"),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use candle_core::Device;

    use super::*;
    use crate::base::load_judge;
    use crate::model::Config;
    use crate::subject::{Request, bundled, find};

    const CONFIG: &str = r#"{
        "image_size": 8, "widths": [4], "colorless": ["sketch"],
        "labels": {"word": ["dog", "car"], "main": ["red", "yellow"], "dog ears": ["long", "short"]},
        "wordings": {
            "background": [["on a yellow background", "plain"], ["at the beach", "beach"]],
            "style": [["a pencil sketch of", "sketch"], ["in neon style", "neon"]],
            "main": [["red", "red"], ["yellow", "yellow"]], "pattern": [["striped", "stripes"]]
        }
    }"#;

    fn asked(prompt: &str) -> Result<String> {
        let names = [("word", "dog"), ("main", "red"), ("second", "yellow"), ("pattern", "dots"), ("dog ears", "long")];
        let subject: Looks = names.map(|(key, name)| (key.to_string(), name.to_string())).into();
        let wanted = wanted(&JudgeConfig::from_json(CONFIG)?, Some(prompt), &subject);
        let keys = ["main", "second", "pattern", "dog ears", "background", "style"];
        Ok(keys.map(|key| wanted.get(key).map_or("-", String::as_str)).join(" "))
    }

    #[test]
    fn prompts_ask_for_places_and_styles() -> Result<()> {
        assert_eq!(asked("a dog")?, "red yellow dots long - photo");
        assert_eq!(asked("a dog in neon style at the beach")?, "red yellow dots long beach neon");
        assert_eq!(asked("a dog on a yellow background")?, "red yellow dots long plain photo");
        assert_eq!(asked("A pencil sketch of a dog")?, "- - dots long - sketch");
        assert_eq!(asked("a yellow striped dog")?, "- - - long - photo");
        Ok(())
    }

    #[test]
    fn the_embedded_judge_names_the_bundled_subjects() -> Result<()> {
        #[derive(Deserialize)]
        struct Card {
            looks: Looks,
        }
        let judge = load_judge("mini", true, &Device::Cpu)?.context("mini has no judge")?;
        let (mut told, mut known) = (0, 0);
        for name in bundled() {
            let card = format!("{}/assets/subjects/{name}/subject.json", env!("CARGO_MANIFEST_DIR"));
            let Card { looks: true_looks } = serde_json::from_str(&std::fs::read_to_string(card)?)?;
            let subject = find(&Request { subject: &name, ..Request::default() })?;
            let photos: Vec<_> = subject.photos.into_iter().map(|photo| photo.image).collect();
            let seen = looks(&judge, &photos)?;
            assert_eq!(seen["word"], true_looks["word"], "{name}");
            for attribute in ["main", "second", "pattern"] {
                known += 1;
                told += (seen[attribute] == true_looks[attribute]) as usize;
            }
        }
        assert!(told * 10 >= known * 9, "{told} of {known}");
        Ok(())
    }

    #[test]
    fn shares_leave_out_what_is_not_known() {
        let finding = |attribute: &str, found: &str, wanted: Option<&str>| Finding {
            attribute: attribute.into(),
            found: found.into(),
            wanted: wanted.map(String::from),
        };
        let findings = [
            finding("shape", "long", Some("long")),
            finding("shape", "scarf", Some("collar")),
            finding("place", "beach", None),
            finding("word", "dog", Some("dog")),
        ];
        assert_eq!(shares(findings.iter()), [("word", 1.), ("shape", 0.5)]);
    }
}
