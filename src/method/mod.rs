//! Ways to customise a base, a folder for each, and what training and sampling know of them.

pub mod custom_diffusion;
pub mod eqdiff;

use std::collections::{BTreeMap, HashMap};

use candle_core::{Result, Tensor};

use crate::base::Base;
use crate::base::texts::Texts;
use crate::model::tokenizer::{PLACEHOLDER, Tokens};
use crate::model::{AttentionProcessor, Plain};

/// A way to customise a base: what it trains, and towards what.
pub trait Method {
    /// What it has learnt. Made of variables, its layers see how they change.
    type Learned: Learned;

    /// Names of the loss terms; `total` is not among them.
    const TERMS: &'static [&'static str];

    /// The trained tensors before the first step, by the names they have in an adapter.
    fn initial(&self) -> Result<BTreeMap<String, Tensor>>;

    /// What such tensors mean to the layers.
    fn learned(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Self::Learned>;

    /// The losses of a step, which depend on nothing but its number and what has been learnt.
    fn losses(&self, learned: &Self::Learned, step: usize) -> anyhow::Result<Losses>;
}

/// The losses of one step, all scalars.
pub struct Losses {
    /// The sum that is differentiated.
    pub total: Tensor,
    /// Each term by name, unweighted, where it applies.
    pub terms: Vec<(&'static str, Tensor)>,
}

/// What was learnt of a subject, as sampling uses it.
pub trait Learned {
    /// States [1, L, d] of a prompt in which the placeholder may stand for the subject.
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor>;

    /// The attention of a pass, given what was seen of a reference photo at its timestep.
    fn attention<'a>(&'a self, seen: Option<&'a Seen>) -> Box<dyn AttentionProcessor + 'a>;

    /// The same as strong as a dial says; none if there is nothing to turn.
    ///
    /// # Errors
    /// If it cannot be computed.
    fn turned(&self, _dial: Dial) -> Result<Option<Box<dyn Learned>>> {
        Ok(None)
    }

    /// What takes down the features of a reference photo in a pass of the base; none if it looks at no photo.
    fn recorder(&self) -> Option<Box<dyn Recorder + '_>>;
}

/// How strongly what was learnt of a subject shows: 1 as it was trained, 0 not at all. More likeness, or more of the
/// prompt's style.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dial {
    /// The low band's embedding: layout, large shapes, colours.
    pub low: f64,
    /// The high band's: edges and texture.
    pub high: f64,
    /// Attention to the reference photo.
    pub reference: f64,
}

impl Default for Dial {
    fn default() -> Self {
        Self { low: 1., high: 1., reference: 1. }
    }
}

/// Takes down what a pass of the base on a reference photo shows.
pub trait Recorder: AttentionProcessor {
    /// What was taken down.
    fn seen(self: Box<Self>) -> Seen;
}

/// What the layers see of references, by layer: tensors whose first axis counts the entries.
#[derive(Default)]
pub struct Seen(HashMap<String, Vec<Tensor>>);

impl Seen {
    /// Adds a layer's tensors.
    pub fn insert(&mut self, layer: &str, tensors: Vec<Tensor>) {
        self.0.insert(layer.to_string(), tensors);
    }

    /// A layer's tensors.
    pub fn get(&self, layer: &str) -> Option<&[Tensor]> {
        self.0.get(layer).map(Vec::as_slice)
    }

    /// How many layers there are.
    pub fn layers(&self) -> usize {
        self.0.len()
    }

    /// Entries `first`, `first + step`, `first + 2 step` and so on of every layer.
    pub fn every(&self, step: usize, first: usize) -> Result<Self> {
        let chosen = |x: &Tensor| {
            let (entries, rest) = (x.dim(0)?, x.dims()[1..].to_vec());
            let rows = x.reshape([&[entries / step, step], rest.as_slice()].concat())?;
            rows.narrow(1, first, 1)?.squeeze(1)?.contiguous()
        };
        let layer = |(layer, tensors): (&String, &Vec<Tensor>)| {
            Ok((layer.clone(), tensors.iter().map(chosen).collect::<Result<_>>()?))
        };
        self.0.iter().map(layer).collect::<Result<_>>().map(Self)
    }
}

/// The base as it is: the placeholder means nothing.
pub struct BaseAlone;

impl Learned for BaseAlone {
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor> {
        Ok(texts.plain(&plain(base, prompt)?)?)
    }

    fn attention<'a>(&'a self, _: Option<&'a Seen>) -> Box<dyn AttentionProcessor + 'a> {
        Box::new(Plain)
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        None
    }
}

/// Tokens of a text in which the placeholder means nothing.
///
/// # Errors
/// If the text cannot be encoded.
pub fn plain(base: &Base, text: &str) -> anyhow::Result<Tokens> {
    base.tokenizer.encode(&text.replace(PLACEHOLDER, " "), PLACEHOLDER)
}
