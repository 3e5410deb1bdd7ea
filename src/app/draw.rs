//! Drawing prompts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::explain::explain;
use super::like::like;
use super::studio::Studio;
use super::{Machine, Observer, Usage, places};
use crate::adapter::{Adapter, load_tensors};
use crate::base::Base;
use crate::evaluation::prompts;
use crate::files::check_writable;
use crate::images::png::{is_ours, save_over_ours};
use crate::images::{self, shown};
use crate::model::tokenizer::PLACEHOLDER;
use crate::report::contact_sheet;
use crate::sampling::samplers::sampler;
use crate::sampling::{Order, latent_size};
use crate::settings::SamplerName;

/// What to draw, with what, and where to. What is not given is the adapter's or the base's.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff sample --help`
pub struct Request {
    pub prompts: Vec<String>,
    pub prompt_file: Option<PathBuf>,
    pub adapter: Source,
    pub base: Option<String>,
    pub like: Option<PathBuf>,
    pub negative: Option<String>,
    pub sampler: Option<SamplerName>,
    pub steps: Option<usize>,
    pub guidance: Option<f64>,
    pub guidance_rescale: Option<f64>,
    pub count: usize,
    pub seed: Option<Seed>,
    pub size: Option<(usize, usize)>,
    pub reference: Reference,
    pub init_latents: Option<PathBuf>,
    /// Whether a page says how the first picture came about.
    pub explain: bool,
    pub out: PathBuf,
    pub machine: Machine,
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

/// More pictures than this in one call are a slip of the hand.
const MOST: usize = 100_000;

/// Draws, and gives the files of all pictures and of the sheet that shows them.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if something cannot be read, drawn or written.
pub fn draw(request: &Request, observer: &mut dyn Observer) -> Result<Vec<PathBuf>> {
    let taken_over = request.like.as_deref().map(|picture| like(picture, request, observer)).transpose()?;
    let request = taken_over.as_ref().unwrap_or(request);
    let adapter = match &request.adapter {
        Source::LastAdapter => Some(Adapter::open(&places::adapter(None)?)?),
        Source::Adapter(folder) => Some(Adapter::open(folder)?),
        Source::BaseAlone => None,
    };
    check_writable(&request.out)?;
    let texts = texts(request, adapter.as_ref())?;
    let studio = Studio::open(&request.machine, request.base.as_deref(), adapter, observer)?;
    let (base, side) = (&studio.base, studio.side());
    let size = request.size.unwrap_or((side, side));
    let (width, height) = latent_size(base, size).map_err(|e| Usage(format!("--size: {e}")))?;
    let latents = request.init_latents.as_deref().map(|p| init_latents(p, base, (width, height))).transpose()?;
    let reference = match &request.reference {
        Reference::None => None,
        Reference::Photo(path) => Some(square(path, side, observer)?),
        Reference::Default => studio.reference.clone(),
    };
    if matches!(request.reference, Reference::Photo(_)) && studio.learned.recorder().is_none() {
        observer.warn("this adapter was trained without reference attention: --reference has no effect");
    }
    let negative = request.negative.as_deref().unwrap_or_default();
    warn_of_prompts(&texts, negative, &studio, observer)?;
    let all = texts.iter().map(String::as_str).chain([negative]);
    request.machine.warn_of_words(all, base, observer)?;
    let seed = request.seed.unwrap_or(Seed::Given(0)).number(observer);
    let mut orders = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        for j in 0..request.count {
            let seed = seed.wrapping_add((i * request.count + j) as u64);
            orders.push(Order { prompt: text.clone(), seed, init_latents: latents.clone() });
        }
    }
    let mut style = studio.style(negative, reference.as_ref());
    style.size = size;
    style.sampler = request.sampler.unwrap_or(style.sampler);
    style.steps = request.steps.unwrap_or(style.steps);
    style.guidance = request.guidance.unwrap_or(style.guidance);
    style.guidance_rescale = request.guidance_rescale.unwrap_or(style.guidance_rescale);
    sampler(style.sampler, &base.scheduler, style.steps).map_err(|e| Usage(format!("--steps: {e}")))?;
    if !style.guidance.is_finite() {
        bail!(Usage("--guidance: give a finite number".into()));
    }
    if !(0. ..=1.).contains(&style.guidance_rescale) {
        bail!(Usage("--guidance-rescale: give a number from 0 to 1".into()));
    }
    if request.explain && studio.adapter.is_none() {
        bail!(Usage("--explain: without an adapter there is nothing to explain".into()));
    }
    let mut files = studio.draw(&style, &orders, &request.out, observer)?;
    if let (true, Some(order), Some(file)) = (request.explain, orders.first(), files.first()) {
        explain(&studio, &style, order, file, observer)?;
    }
    if let [file] = &files[..] {
        observer.info(&format!("Picture: {}", file.display()));
        return Ok(files);
    }
    let columns = if request.count > 1 { request.count.min(6) } else { files.len().min(4) };
    let sheet = sheet_path(&request.out);
    save_sheet(&sheet, &files, &orders, columns)?;
    observer.info(&format!("{} pictures in {}, all on {}", files.len(), request.out.display(), sheet.display()));
    files.push(sheet);
    Ok(files)
}

/// Pictures of a sheet; more would be no overview, and fill the memory.
const SHEET: usize = 200;

/// Where the sheet goes: over one of ours, but over no picture of the user's.
fn sheet_path(folder: &Path) -> PathBuf {
    let path = folder.join("contact-sheet.png");
    if path.exists() && !is_ours(&path) { folder.join("eqdiff-contact-sheet.png") } else { path }
}

fn save_sheet(path: &Path, files: &[PathBuf], orders: &[Order], columns: usize) -> Result<()> {
    let cells =
        files.iter().zip(orders).take(SHEET).map(|(file, order)| Ok((images::open(file)?, order.prompt.clone())));
    save_over_ours(path, &contact_sheet(&cells.collect::<Result<Vec<_>>>()?, columns))
}

fn texts(request: &Request, adapter: Option<&Adapter>) -> Result<Vec<String>> {
    let mut texts = request.prompts.clone();
    if let Some(path) = &request.prompt_file {
        let subject = match adapter {
            None => PLACEHOLDER.to_string(),
            Some(adapter) => format!("{PLACEHOLDER} {}", adapter.manifest.class),
        };
        texts.extend(prompts::read_file(path)?.iter().map(|template| prompts::fill(template, &subject)));
    }
    if texts.is_empty() || request.count == 0 {
        bail!(Usage("nothing to draw: give --prompt, --prompts with at least one line, and a --count above 0".into()));
    }
    if request.count.saturating_mul(texts.len()) > MOST {
        bail!(Usage(format!("--count {} of {} prompts: at most {MOST} pictures", request.count, texts.len())));
    }
    Ok(texts)
}

/// Says what was cut off long prompts, and which prompts leave out the subject.
fn warn_of_prompts(texts: &[String], negative: &str, studio: &Studio, observer: &mut dyn Observer) -> Result<()> {
    if let Some(cut) = studio.base.tokenizer.encode(negative, PLACEHOLDER)?.cut {
        observer.warn(&format!("the negative prompt is too long; cut off: {cut:?}"));
    }
    for text in texts {
        let tokens = studio.base.tokenizer.encode(text, PLACEHOLDER)?;
        if let Some(cut) = &tokens.cut {
            observer.warn(&format!("the prompt is longer than {} tokens; cut off: {cut:?}", tokens.ids.len()));
        }
        match (&studio.adapter, tokens.placeholder.is_empty()) {
            (Some(_), true) if tokens.placeholder_cut => observer
                .warn(&format!("{PLACEHOLDER}, which stands for the subject, is in what was cut off: put it in front")),
            (Some(adapter), true) => observer.warn(&format!(
                "{text:?} has no {PLACEHOLDER}, which stands for the subject: try \"{PLACEHOLDER} {}\"",
                adapter.manifest.class
            )),
            (None, false) => {
                observer
                    .warn(&format!("without an adapter {PLACEHOLDER} stands for nothing and is left out of {text:?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn square(path: &Path, side: usize, observer: &mut dyn Observer) -> Result<RgbImage> {
    let read = images::read(path)?;
    for warning in &read.warnings {
        observer.warn(&format!("{}: {warning}", shown(path)));
    }
    Ok(imageops::resize(&read.image, side as u32, side as u32, FilterType::CatmullRom))
}

fn init_latents(path: &Path, base: &Base, (width, height): (usize, usize)) -> Result<Tensor> {
    let tensors = load_tensors(path, &base.device)?;
    let (Some((name, latents)), 1) = (tensors.iter().next(), tensors.len()) else {
        bail!("{} must hold exactly one tensor, it has {}", path.display(), tensors.len());
    };
    if latents.dims() != [1, 4, height, width] {
        let shape = latents.dims();
        bail!("{name} in {} has shape {shape:?}, expected [1, 4, {height}, {width}]", path.display());
    }
    let finite = latents.sum_all()?.to_scalar::<f32>().with_context(|| format!("{name} in {}", path.display()))?;
    if !finite.is_finite() {
        bail!("{name} in {} is not finite", path.display());
    }
    Ok(latents.clone())
}
