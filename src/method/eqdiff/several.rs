//! Several subjects in one picture: `S*` is the first, `S2*` the second, and so on.
//!
//! Keys and values are merged as Custom Diffusion merges them. Reference attention is left out: it looks at one photo of one
//! subject, wherever in the picture it is.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use candle_core::{Result, Tensor};

use super::fdte::{Band, ConceptEmbedding};
use super::{Customisation, Customised};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::method::custom_diffusion::Regularised;
use crate::method::{Dial, Dials, Learned, Pass, Recorder, plain};
use crate::model::tokenizer::{PLACEHOLDER, Tokens};

/// One of several subjects.
pub struct Member<'a> {
    /// The tensors of its adapter.
    pub tensors: &'a BTreeMap<String, Tensor>,
    /// Its class word.
    pub class: &'a str,
}

/// What was learnt of several subjects.
pub struct Several {
    concepts: Vec<ConceptEmbedding>,
    merged: Customisation,
}

impl Several {
    /// Merges adapters of one base; `captions` are what the base shall go on to draw as before.
    ///
    /// # Errors
    /// If one has no vector of its own, or the subjects' words cannot be told apart.
    pub fn merge(base: &Base, members: &[Member], captions: &[String]) -> anyhow::Result<Self> {
        let (concepts, tensors) = merged(base, members, captions)?;
        Ok(Self { concepts, merged: Customisation::from_tensors(&base.unet, &tensors)? })
    }

    /// The tokens of a prompt with one placeholder for all subjects, and which of them each stands for.
    fn tokens(&self, base: &Base, prompt: &str) -> anyhow::Result<(Tokens, Vec<usize>)> {
        let (prompt, owners) = unified(prompt, self.concepts.len());
        Ok((base.tokenizer.encode(&prompt, PLACEHOLDER)?, owners))
    }
}

/// See [`Several::merge`]: the vectors, and the keys and values.
fn merged(
    base: &Base,
    members: &[Member],
    captions: &[String],
) -> anyhow::Result<(Vec<ConceptEmbedding>, BTreeMap<String, Tensor>)> {
    let texts = Texts::new(base);
    let mut regularising = Vec::with_capacity(captions.len());
    for caption in captions {
        let words = base.tokenizer.plain(caption)?.len();
        let states = texts.plain(&plain(base, caption)?)?.squeeze(0)?;
        // from the start to the end of the text; what fills up is like its end
        regularising.push(states.narrow(0, 0, (words + 2).min(states.dim(0)?))?);
    }
    let regularised = Regularised::of(&Tensor::cat(&regularising, 0)?)?;
    let (mut concepts, mut states) = (Vec::new(), Vec::new());
    for member in members {
        let concept = ConceptEmbedding::from_tensors(member.tensors)?;
        let tokens = base.tokenizer.encode(&format!("photo of a {PLACEHOLDER} {}", member.class), PLACEHOLDER)?;
        let all = texts.with_concept(&tokens, &concept.of(Band::Original)?)?.squeeze(0)?;
        let first = tokens.placeholder.first().copied().context("a prompt has no place for the subject")?;
        let count = 1 + base.tokenizer.plain(member.class)?.len();
        ensure!(first + count < all.dim(0)?, "the class {:?} is too long", member.class);
        states.push(all.narrow(0, first, count)?);
        concepts.push(concept);
    }
    let together = Tensor::cat(&states, 0)?;
    let mut tensors = BTreeMap::from([(ConceptEmbedding::LOW.to_string(), concepts[0].low.clone())]);
    for layer in base.unet.attentions().into_iter().filter(|layer| layer.name.ends_with("attn2")) {
        for (name, own) in [("to_k", &layer.parts.to_k), ("to_v", &layer.parts.to_v)] {
            let name = format!("{}.{name}.weight", layer.name);
            if !members.iter().any(|member| member.tensors.contains_key(&name)) {
                continue;
            }
            let own = own.weight()?.to_device(&base.device)?;
            let wanted = members.iter().zip(&states).map(|(member, states)| {
                // of a word alone (Textual Inversion) they are the base's
                states.matmul(&member.tensors.get(&name).unwrap_or(&own).t()?)
            });
            let wanted = Tensor::cat(&wanted.collect::<Result<Vec<_>>>()?, 0)?;
            let merged = regularised.merged(&own, &together, &wanted)?;
            tensors.insert(name, merged);
        }
    }
    Ok((concepts, tensors))
}

/// The prompt with the first placeholder for all of them, and which of `count` subjects each stands for, in order.
pub fn unified(prompt: &str, count: usize) -> (String, Vec<usize>) {
    let marks: Vec<String> =
        (0..count).map(|i| if i == 0 { PLACEHOLDER.to_string() } else { format!("S{}*", i + 1) }).collect();
    let (mut text, mut owners, mut rest) = (String::new(), Vec::new(), prompt);
    let next = |rest: &str| {
        let found = marks.iter().enumerate().filter_map(|(i, mark)| Some((rest.find(mark.as_str())?, i)));
        found.min()
    };
    while let Some((at, owner)) = next(rest) {
        text += &rest[..at];
        text += PLACEHOLDER;
        owners.push(owner);
        rest = &rest[at + marks[owner].len()..];
    }
    (text + rest, owners)
}

impl Learned for Several {
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor> {
        let (tokens, owners) = self.tokens(base, prompt)?;
        let embeddings = owners.iter().map(|&owner| self.concepts[owner].of(Band::Original));
        Ok(texts.with_several(&tokens, &embeddings.collect::<Result<Vec<_>>>()?)?)
    }

    fn places(&self, base: &Base, prompt: &str) -> anyhow::Result<(Tokens, Option<usize>)> {
        let (tokens, owners) = self.tokens(base, prompt)?;
        let first = tokens.placeholder.iter().zip(owners).find(|(_, owner)| *owner == 0).map(|(place, _)| *place);
        Ok((tokens, first))
    }

    fn attention<'a>(&'a self, _: Pass<'a>) -> Box<dyn Recorder + 'a> {
        Box::new(Customised::new(&self.merged, None, None))
    }

    fn dials(&self) -> Dials {
        Dials { low: true, high: self.concepts.iter().any(|concept| concept.high.is_some()), reference: false }
    }

    fn turned(&self, dial: Dial) -> Result<Option<Box<dyn Learned>>> {
        let concepts = self.concepts.iter().map(|concept| concept.weighted(dial.low, dial.high));
        let merged = self.merged.turned(dial)?;
        Ok(Some(Box::new(Self { concepts: concepts.collect::<Result<_>>()?, merged })))
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::base::MINI;
    use crate::ops::Precision;

    #[test]
    fn the_keys_of_a_word_alone_are_the_bases() -> anyhow::Result<()> {
        let base = Base::load(MINI, true, &Device::Cpu, Precision::F32)?;
        let whole = Customisation::initial(&base.unet, &base.text.token_embedding(7)?, false, false)?;
        let alone = BTreeMap::from([(ConceptEmbedding::LOW.to_string(), whole[ConceptEmbedding::LOW].clone())]);
        let mut other = whole.clone();
        for (name, tensor) in other.iter_mut().filter(|(name, _)| name.as_str() != ConceptEmbedding::LOW) {
            *tensor = (&*tensor * if name.contains("to_k") { 1.1 } else { 0.8 })?;
        }
        let captions = ["a photo of a dog".to_string(), "a clock on the beach".to_string()];
        let of = |word| merged(&base, &[word, &other].map(|tensors| Member { tensors, class: "dog" }), &captions);
        let ((_, with_base), (_, with_word)) = (of(&whole)?, of(&alone)?);
        assert_eq!(with_base.len(), whole.len());
        for (name, tensor) in &with_base {
            assert_eq!(
                tensor.flatten_all()?.to_vec1::<f32>()?,
                with_word[name].flatten_all()?.to_vec1::<f32>()?,
                "{name}"
            );
        }
        let words = [&alone, &alone].map(|tensors| Member { tensors, class: "dog" });
        assert_eq!(merged(&base, &words, &captions)?.1.len(), 1);
        Ok(())
    }

    #[test]
    fn every_placeholder_stands_for_its_own_subject() {
        let (text, owners) = unified("a S2* cup beside S*, S2* and S3*", 2);
        assert_eq!((text.as_str(), owners), ("a S* cup beside S*, S* and S3*", vec![1, 0, 1]));
        assert_eq!(unified("no subject", 3), ("no subject".into(), Vec::new()));
    }
}
