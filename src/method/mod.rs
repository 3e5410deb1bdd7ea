//! Ways to customise a base, a folder for each, and what training and sampling know of them.

pub mod custom_diffusion;
pub mod denoising;
pub mod dreambooth;
pub mod dreammatcher;
pub mod elite;
pub mod eqdiff;
pub mod pictures;
pub mod textual_inversion;

use std::collections::{BTreeMap, HashMap};

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::base::Base;
use crate::base::texts::Texts;
use crate::model::scheduler::Level;
use crate::model::tokenizer::{PLACEHOLDER, Tokens};
use crate::model::{AttentionProcessor, Plain, Unet};

/// The methods that are trained on a subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MethodName {
    /// Equilibrated Diffusion, and its ablations.
    #[default]
    Eqdiff,
    /// Custom Diffusion as published.
    CustomDiffusion,
    /// Textual Inversion.
    TextualInversion,
    /// DreamBooth.
    #[serde(rename = "dreambooth")]
    DreamBooth,
}

impl MethodName {
    /// What stands for the subject of that class word in prompts: the placeholder beside the word, or alone where it was
    /// learnt alone.
    pub fn called(self, class: &str) -> String {
        match self {
            Self::TextualInversion => PLACEHOLDER.into(),
            _ => format!("{PLACEHOLDER} {class}"),
        }
    }
}

/// A way to customise a base: what it trains, and towards what.
pub trait Method {
    /// What it has learnt. Made of variables, its layers see how they change.
    type Learned: Learned;

    /// Names of the loss terms; `total` is not among them.
    const TERMS: &'static [&'static str];

    /// The trained tensors before the first step, by the names they have in an adapter.
    ///
    /// # Errors
    /// If there is no room.
    fn initial(&self) -> Result<BTreeMap<String, Tensor>>;

    /// How many times the learning rate the trained tensor of that name takes.
    fn learning_rate_multiplier(&self, _name: &str) -> f64 {
        1.
    }

    /// What such tensors mean to the layers.
    ///
    /// # Errors
    /// If tensors are missing or of another shape.
    fn learned(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Self::Learned>;

    /// The losses of a step, which depend on nothing but its number and what has been learnt.
    ///
    /// # Errors
    /// If a sample cannot be made or shapes do not fit.
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
    /// The denoiser.
    fn unet<'a>(&'a self, base: &'a Base) -> &'a Unet {
        &base.unet
    }

    /// States [1, L, d] of a prompt in which the placeholder may stand for the subject.
    ///
    /// # Errors
    /// If the prompt cannot be encoded.
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor>;

    /// The attention of a pass.
    fn attention<'a>(&'a self, pass: Pass<'a>) -> Box<dyn Recorder + 'a>;

    /// The parts of it that a dial turns.
    fn dials(&self) -> Dials {
        Dials::default()
    }

    /// The same as strong as a dial says; none if there is nothing to turn.
    ///
    /// # Errors
    /// If it cannot be computed.
    fn turned(&self, _dial: Dial) -> Result<Option<Box<dyn Learned>>> {
        Ok(None)
    }

    /// What takes down the features of a reference photo in a pass of the denoiser; none if it looks at no photo.
    fn recorder(&self) -> Option<Box<dyn Recorder + '_>>;

    /// States [1, L, d] of the text that a reference photo of that class is shown with.
    ///
    /// # Errors
    /// If the prompt cannot be encoded.
    fn reference_text(&self, base: &Base, texts: &Texts, class: &str) -> anyhow::Result<Tensor> {
        Ok(texts.plain(&plain(base, &format!("photo of a {class}"))?)?)
    }

    /// Whether a reference photo is shown as the noise that leads to it, and to that again step by step.
    fn inverts(&self) -> bool {
        false
    }

    /// Whether the prediction of a step, and of how many, is changed by a gradient, so that pictures go through it one by one.
    fn guides(&self, _step: (usize, usize)) -> bool {
        false
    }

    /// The tokens of a prompt in which every placeholder takes one place, and where that of the first subject stands.
    ///
    /// # Errors
    /// If the prompt cannot be encoded.
    fn places(&self, base: &Base, prompt: &str) -> anyhow::Result<(Tokens, Option<usize>)> {
        let tokens = base.tokenizer.encode(prompt, PLACEHOLDER)?;
        let first = tokens.placeholder.first().copied();
        Ok((tokens, first))
    }

    /// Which token of a prompt shows where the subject is; of use to nobody but who looks there.
    ///
    /// # Errors
    /// If the prompt cannot be encoded.
    fn word(&self, _base: &Base, _prompt: &str) -> anyhow::Result<usize> {
        Ok(0)
    }
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

/// Which parts of a [`Dial`] something has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // those of the dial
pub struct Dials {
    pub low: bool,
    pub high: bool,
    pub reference: bool,
}

impl Default for Dial {
    fn default() -> Self {
        Self { low: 1., high: 1., reference: 1. }
    }
}

/// What a pass of the denoiser on several pictures may go by; by default on nothing but its input.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// What was seen of a reference photo at its timestep: without its prompt, and with it.
    pub seen: Option<&'a Seen>,
    /// What the last pass on the same pictures left behind.
    pub before: Option<&'a Seen>,
    /// See [`Learned::word`], for each picture.
    pub words: &'a [usize],
    /// Side of the latents.
    pub side: usize,
    /// The step, and how many there are.
    pub step: (usize, usize),
}

/// A prediction that may be changed by a gradient.
pub struct Guided<'a> {
    /// What the denoiser was given of one picture, twice [2, 4, h, w]: a variable.
    pub inputs: &'a Tensor,
    /// What it predicted of it, without the prompt and with it.
    pub predicted: &'a Tensor,
    /// The picture's latents [1, 4, h, w].
    pub latents: &'a Tensor,
    /// Their noise level.
    pub level: Level,
    /// The reference's clean latents [1, 4, h, w].
    pub reference: Option<&'a Tensor>,
}

/// The attention of a pass that may leave something behind.
pub trait Recorder: AttentionProcessor {
    /// What it took down.
    fn seen(self: Box<Self>) -> Seen {
        Seen::default()
    }

    /// The changed prediction; none if it stays.
    ///
    /// # Errors
    /// If there is no gradient.
    fn guide(&mut self, _guided: &Guided) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

impl Recorder for Plain {}

/// What the layers see of references, by layer: tensors whose first axis counts the entries.
#[derive(Clone, Default)]
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
    ///
    /// # Errors
    /// If `step` does not divide the number of entries.
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

    fn attention<'a>(&'a self, _: Pass<'a>) -> Box<dyn Recorder + 'a> {
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
