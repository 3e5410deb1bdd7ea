//! What pictures are called.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::base::Base;
use crate::files::digest;
use crate::method::Dial;
use crate::method::eqdiff::rra::ReferenceNoise;
use crate::sampling::{Order, Style};

/// A picture's name, made of the prompt's words, the seed, and a digest of all that the picture depends on: the same on every
/// machine, whatever else is in the folder. `identity` tells what was learnt.
///
/// # Errors
/// If given latents cannot be read.
pub(super) fn file_name(base: &Base, order: &Order, style: &Style, identity: &str) -> Result<String> {
    let latents = order.init_latents.as_ref().map(|latents| -> Result<String> {
        let values = latents.flatten_all()?.to_vec1::<f32>()?;
        Ok(digest(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>(), 16))
    });
    let depends = Depends {
        prompt: &order.prompt,
        seed: order.seed.to_string(),
        init_latents: latents.transpose()?,
        negative: style.negative,
        sampler: style.sampler.title(),
        steps: style.steps,
        guidance: style.guidance,
        guidance_rescale: Some(style.guidance_rescale).filter(|&share| share != 0.),
        size: style.size,
        reference: style.reference.map(|(photo, class)| (digest(photo.as_raw(), 16), class)),
        reference_noise: style.reference_noise,
        base: &base.identity,
        dtype: base.precision.to_string(),
        learned: identity,
        start: style.special.start.map(|start| {
            let mask = start.anew.map(|mask| mask.as_raw().as_slice()).unwrap_or_default();
            (digest(&[start.picture.as_raw().as_slice(), mask].concat(), 16), start.strength)
        }),
        variation: style.special.variation.map(|(seed, share)| (seed.to_string(), share)),
        dial: Some(style.special.dial).filter(|&dial| dial != Dial::default()).map(|d| [d.low, d.high, d.reference]),
    };
    let digest = digest(toml::to_string(&depends).context("cannot name a picture")?.as_bytes(), 4);
    Ok(format!("{}-{}-{digest}.png", words(&order.prompt), order.seed))
}

/// All that a picture depends on.
#[derive(Serialize)]
struct Depends<'a> {
    prompt: &'a str,
    seed: String,
    init_latents: Option<String>,
    negative: &'a str,
    sampler: &'a str,
    steps: usize,
    guidance: f64,
    /// None where it has no effect, as in names from before there was one.
    guidance_rescale: Option<f64>,
    size: (usize, usize),
    reference: Option<(String, &'a str)>,
    reference_noise: ReferenceNoise,
    base: &'a str,
    dtype: String,
    learned: &'a str,
    /// These are none where they have no effect too.
    start: Option<(String, f64)>,
    variation: Option<(String, f64)>,
    dial: Option<[f64; 3]>,
}

/// A prompt's words as a part of a file name, which begins with a letter or digit.
pub(super) fn words(prompt: &str) -> String {
    let letters = prompt.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { ' ' }).collect::<String>();
    let words = letters.split_whitespace().collect::<Vec<_>>().join("-");
    // with the seed and the digest it must not be longer than 255 bytes
    let words: String = words.char_indices().take(60).take_while(|(at, _)| *at < 200).map(|(_, c)| c).collect();
    match words.trim_end_matches('-') {
        "" => "picture".into(),
        words => words.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn names_are_made_of_words() {
        assert_eq!(words("(S*) Thing, oil  painting!"), "s-thing-oil-painting");
        assert_eq!([words("--x"), words("?!"), words("")], ["x", "picture", "picture"]);
        assert_eq!(words(&"ab ".repeat(40)).len(), 59);
        assert!(words(&"\u{20000}".repeat(90)).len() <= 203);
    }
}
