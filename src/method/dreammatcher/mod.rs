//! DreamMatcher (Nam et al. 2024) on top of whatever was trained: the picture keeps its structure, but in the last layers'
//! self-attention its places take the values of those places of a photo that look like them.

pub mod matching;
mod pass;
mod subspace;

use anyhow::Result;
use candle_core::Tensor;

use super::{Dial, Dials, Learned, Pass, Recorder};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::model::Unet;
use crate::model::tokenizer::PLACEHOLDER;
use matching::{Match, foreground};
pub use pass::{DESCRIPTORS, FOREGROUND, GRADIENT, LOSS, outputs_of};
use pass::{Matched, ReferenceValues};

/// Its constants.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Principal directions of up blocks 1 and 2 (`second`, `third`).
    pub dims: [usize; 2],
    /// How far the way to the reference and back may miss, as a share of the side and of the foreground's.
    pub threshold: f32,
    /// Steps before the first matched one, as a share of all.
    pub plain: f64,
    /// Weight of semantic matching guidance at latents of 64 x 64; none: without it, as it was released.
    pub guidance: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { dims: [256; 2], threshold: 0.4, plain: 0.08, guidance: None }
    }
}

/// The weight of semantic matching guidance, which is off unless somebody asks for it.
pub const GUIDANCE: f64 = 50.;

/// Which token of a prompt shows where the subject is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The placeholder, which stands for the subject alone.
    Placeholder,
    /// The first token of this class word after the placeholder.
    Class(String),
}

/// What was learnt, with its pictures matched to a photo.
pub struct DreamMatcher {
    inner: Box<dyn Learned>,
    word: Word,
    /// See [`Options`].
    pub options: Options,
}

impl DreamMatcher {
    /// Decorates `inner`.
    pub fn new(inner: Box<dyn Learned>, word: Word, options: Options) -> Self {
        Self { inner, word, options }
    }

    /// Whether the values of a step, and of how many, are replaced.
    fn is_matched(&self, (step, steps): (usize, usize)) -> bool {
        step >= (self.options.plain * steps as f64).ceil() as usize
    }
}

impl Learned for DreamMatcher {
    fn unet<'a>(&'a self, base: &'a Base) -> &'a Unet {
        self.inner.unet(base)
    }

    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> Result<Tensor> {
        self.inner.text(base, texts, prompt)
    }

    fn reference_text(&self, base: &Base, texts: &Texts, class: &str) -> Result<Tensor> {
        let subject = match self.word {
            Word::Placeholder => PLACEHOLDER.to_string(),
            Word::Class(_) => format!("{PLACEHOLDER} {class}"),
        };
        self.inner.text(base, texts, &format!("a photo of a {subject}"))
    }

    fn inverts(&self) -> bool {
        true
    }

    fn guides(&self, step: (usize, usize)) -> bool {
        self.options.guidance.is_some() && self.is_matched(step)
    }

    /// The class word's first token after the first subject's placeholder, whose photo it is, else that placeholder.
    fn word(&self, base: &Base, prompt: &str) -> Result<usize> {
        // a placeholder takes one place, whatever it stands for: what was learnt knows the others'
        let (tokens, first) = self.inner.places(base, prompt)?;
        let first = first.unwrap_or(0);
        let Word::Class(class) = &self.word else { return Ok(first) };
        let Some(&noun) = base.tokenizer.plain(class)?.first() else { return Ok(first) };
        let after = tokens.ids.iter().skip(first + 1).position(|&id| id == noun);
        Ok(after.map_or(first, |place| first + 1 + place))
    }

    fn attention<'a>(&'a self, pass: Pass<'a>) -> Box<dyn Recorder + 'a> {
        if pass.seen.is_none() {
            return self.inner.attention(Pass::default());
        }
        let inner = self.inner.attention(Pass { seen: None, ..pass });
        Box::new(Matched::new(self, inner, pass))
    }

    /// Instead of the reference attention of what it decorates the picture is matched.
    fn dials(&self) -> Dials {
        Dials { reference: false, ..self.inner.dials() }
    }

    fn turned(&self, dial: Dial) -> candle_core::Result<Option<Box<dyn Learned>>> {
        let again = |inner| Box::new(Self::new(inner, self.word.clone(), self.options)) as Box<dyn Learned>;
        Ok(self.inner.turned(dial)?.map(again))
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        Some(Box::new(ReferenceValues::new(self.inner.attention(Pass::default()))))
    }
}

/// The match of one picture at `side` and how much it keeps of the reference, from the descriptors and the attention to its
/// word.
///
/// # Errors
/// If the match cannot be computed.
pub fn kept(
    descriptors: [&matching::Places; 2],
    attention: &[f32],
    side: usize,
    threshold: f32,
) -> candle_core::Result<(Match, Vec<f32>)> {
    let found = Match::new(descriptors, side)?;
    let keep = found.keep(&foreground(attention, side), threshold);
    Ok((found, keep))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::base::MINI;
    use crate::method::eqdiff::Customisation;
    use crate::method::eqdiff::several::{Member, Several};
    use crate::ops::Precision;

    #[test]
    fn the_word_is_that_of_the_first_subject() -> Result<()> {
        let base = Base::load(MINI, true, &Device::Cpu, Precision::F32)?;
        let initial = |class| -> Result<_> {
            let start = base.text.token_embedding(base.tokenizer.entry(class)?)?;
            Ok(Customisation::initial(&base.unet, &start, false, false)?)
        };
        let [dog, clock] = [initial("dog")?, initial("clock")?];
        let members = [Member { tensors: &dog, class: "dog" }, Member { tensors: &clock, class: "clock" }];
        let several = Several::merge(&base, &members, &["a photo of a dog".to_string()])?;
        let mut matcher = DreamMatcher::new(Box::new(several), Word::Class("dog".into()), Options::default());
        // the start is 0; read as text, S2* would be two tokens
        for (prompt, word, placeholder) in [
            ("a S2* clock beside a S* dog", 7, 6),
            ("S* dog and S2* clock", 2, 1),
            ("S2* clock, S2* clock and a red S*", 9, 9),
            ("a S2* clock", 0, 0),
        ] {
            matcher.word = Word::Class("dog".into());
            assert_eq!(matcher.word(&base, prompt)?, word, "{prompt}");
            matcher.word = Word::Placeholder;
            assert_eq!(matcher.word(&base, prompt)?, placeholder, "{prompt}");
        }
        Ok(())
    }
}
