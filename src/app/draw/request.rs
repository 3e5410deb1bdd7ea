//! What a drawing is asked for.

use std::path::PathBuf;

use serde::Deserialize;

use super::super::grid::Axis;
use super::super::{Machine, Observer, WeightedFile};
use crate::method::elite::Files;
use crate::settings::SamplerName;

/// What to draw, with what, and where to. What is not given is the adapter's or the base's.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff sample --help`
pub struct Request {
    pub prompts: Vec<String>,
    pub prompt_file: Option<PathBuf>,
    pub adapter: Source,
    /// More adapters, whose subjects the prompts call `S2*` and so on.
    pub more: Vec<PathBuf>,
    pub base: Option<String>,
    pub loras: Vec<WeightedFile>,
    pub like: Option<PathBuf>,
    pub negative: Option<String>,
    pub styles: Vec<String>,
    pub style_file: Option<PathBuf>,
    pub sampler: Option<SamplerName>,
    pub steps: Option<usize>,
    pub guidance: Option<f64>,
    pub guidance_rescale: Option<f64>,
    pub count: usize,
    pub seed: Option<Seed>,
    pub size: Option<(usize, usize)>,
    pub reference: Reference,
    pub dreammatcher: bool,
    pub matching_guidance: Option<f64>,
    pub init_latents: Option<PathBuf>,
    /// Whether a page says how the first picture came about.
    pub explain: bool,
    pub from: Option<PathBuf>,
    pub strength: Option<f64>,
    /// The mask of where the picture in `from` is drawn anew.
    pub anew: Option<PathBuf>,
    pub variations: Option<f64>,
    /// The seed of the picture that variations are near to; none: the first one's.
    pub variation_of: Option<u64>,
    pub dial: Turned,
    pub grid: Vec<Axis>,
    pub sketch: Option<usize>,
    pub out: PathBuf,
    pub machine: Machine,
}

/// How strongly what was learnt shall show, as far as that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // each is explained by `eqdiff sample --help`
pub struct Turned {
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub reference: Option<f64>,
}

/// What pictures are drawn with.
#[derive(Clone, Debug)]
pub enum Source {
    /// The adapter that was trained last.
    LastAdapter,
    /// The adapter in that folder.
    Adapter(PathBuf),
    /// The base alone.
    BaseAlone,
    /// ELITE's encoder on a photo of the subject of that name or in that folder.
    Elite(Files, String),
}

/// The photo that reference attention looks at.
#[derive(Clone, Debug)]
pub enum Reference {
    /// The first of the training.
    Default,
    /// Another one.
    Photo(PathBuf),
    /// None: no reference attention.
    None,
}

/// The seed of the first picture; those of the others count up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seed {
    /// That one.
    Given(u64),
    /// One that is drawn, and told.
    Drawn,
}

impl std::str::FromStr for Seed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "-1" => Ok(Self::Drawn),
            number => number.parse().map(Self::Given).map_err(|_| "give a whole number, or -1 for any".into()),
        }
    }
}

impl Seed {
    /// The number; one that is drawn is small enough to type.
    pub fn number(self, observer: &mut dyn Observer) -> u64 {
        match self {
            Self::Given(seed) => seed,
            Self::Drawn => {
                let seed = u64::from(rand::random::<u32>());
                observer.info(&format!("Seed: {seed}"));
                seed
            }
        }
    }
}
