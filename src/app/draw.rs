//! Drawing prompts.

mod fitting;
mod like;
mod request;
mod start;

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::explain::explain;
use super::grid::{Cell, SHEET, cells, draw_grid, save_sheet};
use super::lines::{Flags, Line, Preset};
use super::studio::Studio;
use super::{Nobody, Observer, Usage, elite, places};
use crate::adapter::Adapter;
use crate::base::Base;
use crate::files::check_writable;
use crate::images::png::is_ours;
use crate::images::{self, shown};
use crate::method::eqdiff::several::unified;
use crate::model::tokenizer::PLACEHOLDER;
use crate::sampling::samplers::sampler;
use crate::sampling::{Order, Special, Start, Style, latent_size};
use crate::subject;
use fitting::{check_explained, check_matched, dial};
use like::like;
pub use request::{Reference, Request, Seed, Source, Turned};

/// More pictures than this in one call are a slip of the hand.
const MOST: usize = 100_000;

/// Draws, and gives the files of all pictures and of the sheet that shows them.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if something cannot be read, drawn or written.
pub fn draw(request: &Request, observer: &mut dyn Observer) -> Result<Vec<PathBuf>> {
    let taken_over = request.like.as_deref().map(|picture| like(picture, request, observer)).transpose()?;
    let request = taken_over.as_ref().unwrap_or(request);
    let adapter = adapter(&request.adapter)?;
    check_writable(&request.out)?;
    let lines = lines(request, adapter.as_ref(), observer)?;
    let again = request.clone();
    let studio = studio(request, adapter, observer)?.on_all(&request.machine, move |machine| {
        self::studio(&Request { machine, ..again.clone() }, self::adapter(&again.adapter)?, &mut Nobody)
    });
    let subjects = 1 + request.more.len();
    let (base, side) = (&studio.base, studio.side());
    let source = start::Source::read(request, base, side, observer)?;
    let size = source.as_ref().map_or_else(|| request.size.unwrap_or((side, side)), start::Source::size);
    let (width, height) = latent_size(base, size).map_err(|e| Usage(format!("--size: {e}")))?;
    let latents = request.init_latents.as_deref().map(|p| start::init_latents(p, base, (width, height))).transpose()?;
    let reference = match &request.reference {
        Reference::Photo(_) if studio.learned.recorder().is_none() => None,
        Reference::None => None,
        Reference::Photo(path) => Some(square(path, side, studio.learned.inverts(), observer)?),
        Reference::Default => studio.reference.clone(),
    };
    if request.matching_guidance.is_some_and(|weight| !(weight.is_finite() && weight >= 0.)) {
        bail!(Usage("--matching-guidance: give a finite number, 0 or more".into()));
    }
    let dial = dial(request, &studio, observer)?;
    let prompts: Vec<String> = lines.iter().map(|line| unified(&line.prompt, subjects).0).collect();
    let presets = presets(request)?;
    let typed = request.negative.as_deref().unwrap_or_default();
    let negative = presets.iter().fold(typed.to_string(), |negative, preset| preset.negative(&negative));
    let negatives = lines.iter().filter_map(|line| line.flags.negative.as_deref()).chain([negative.as_str()]);
    warn_of_prompts(&prompts, negatives.clone(), &studio, observer)?;
    let all = prompts.iter().map(String::as_str).chain(negatives);
    request.machine.warn_of_words(all, base, observer)?;
    if subjects > 1 {
        observer.info("Several subjects are drawn without reference attention, which looks at a photo of one");
    }
    if latents.is_some() && request.count > 1 {
        observer.warn(
            "--count: all pictures start from the latents given, so only noise of the sampler can tell them apart",
        );
    }
    let seed = request.seed.unwrap_or(Seed::Given(0)).number(observer);
    let mut style = studio.style(&negative, reference.as_ref());
    style.size = size;
    style.sampler = request.sampler.unwrap_or(style.sampler);
    style.steps = request.steps.unwrap_or(style.steps);
    style.guidance = request.guidance.unwrap_or(style.guidance);
    style.guidance_rescale = request.guidance_rescale.unwrap_or(style.guidance_rescale);
    style.special = Special {
        start: source.as_ref().map(start::Source::start),
        variation: request.variations.map(|share| (request.variation_of.unwrap_or(seed), share)),
        dial,
        sketch: request.sketch,
    };
    if request.explain {
        check_explained(request, &studio)?;
    }
    if request.grid.len() > 2 {
        bail!(Usage("--grid: a sheet has columns and rows, so give it once or twice".into()));
    }
    if let [columns, rows] = &request.grid[..]
        && columns.name() == rows.name()
    {
        bail!(Usage(format!("--grid: {} is given twice: name all its values in one", rows.name())));
    }
    let mut batches: Vec<Batch> = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        if line.flags.is_sized() && (latents.is_some() || source.is_some()) {
            bail!(Usage("--w, --h in the file of prompts: --from and --init-latents have a size of their own".into()));
        }
        let seed = line.seed.unwrap_or_else(|| seed.wrapping_add((i * request.count) as u64));
        let order =
            |j| Order { prompt: line.prompt.clone(), seed: seed.wrapping_add(j as u64), init_latents: latents.clone() };
        let orders = (0..request.count).map(order);
        match batches.last_mut().filter(|batch| *batch.flags == line.flags) {
            Some(batch) => batch.orders.extend(orders),
            None => {
                let mut style = style.clone();
                line.flags.put(&mut style);
                if let Some(axis) = request.grid.iter().find(|axis| line.flags.sets(axis.name())) {
                    bail!(Usage(format!("--grid {}: {:?} has a value of its own", axis.name(), line.prompt)));
                }
                latent_size(base, style.size).map_err(|e| Usage(format!("{:?}: {e}", line.prompt)))?;
                let cells = cells(&style, &request.grid).map_err(|e| Usage(format!("--grid {e}")))?;
                for Cell { style, .. } in &cells {
                    check(style, base)?;
                    check_matched(style, studio.learned.as_ref())?;
                }
                batches.push(Batch { flags: &line.flags, cells, orders: orders.collect() });
            }
        }
    }
    let count: usize = batches.iter().map(|batch| batch.cells.len().saturating_mul(batch.orders.len())).sum();
    if count > MOST {
        bail!(Usage(format!("--grid: {count} pictures, at most {MOST}")));
    }
    let (mut files, mut captions) = (Vec::new(), Vec::new());
    for Batch { cells, orders, .. } in &batches {
        match &request.grid[..] {
            [] => {
                files.extend(studio.draw(&cells[0].style, orders, &request.out, observer)?);
                captions.extend(orders.iter().map(|order| order.prompt.as_str()));
            }
            [axis, ..] => {
                files.extend(draw_grid(&studio, cells, orders, (axis.values.len(), &request.out), observer)?);
            }
        }
    }
    if !request.grid.is_empty() {
        return Ok(files);
    }
    if let (true, Some(batch), Some(file)) = (request.explain, batches.first(), files.first()) {
        let (style, order) = (&batch.cells[0].style, &batch.orders[0]);
        explain(&studio, style, order, file, observer)?;
    }
    if let [file] = &files[..] {
        observer.info(&format!("Picture: {}", file.display()));
        return Ok(files);
    }
    let columns = if request.count > 1 { request.count.min(6) } else { files.len().min(4) };
    let sheet = sheet_path(&request.out);
    save_sheet(&sheet, &files, &captions, columns)?;
    let shown = if files.len() > SHEET { format!("the first {SHEET}") } else { "all".into() };
    observer.info(&format!("{} pictures in {}, {shown} on {}", files.len(), request.out.display(), sheet.display()));
    files.push(sheet);
    Ok(files)
}

/// The adapter of a source that has one.
fn adapter(source: &Source) -> Result<Option<Adapter>> {
    match source {
        Source::LastAdapter => Adapter::open(&places::adapter(None)?).map(Some),
        Source::Adapter(folder) => Adapter::open(folder).map(Some),
        Source::BaseAlone | Source::Elite(..) => Ok(None),
    }
}

/// What the pictures are drawn with.
fn studio(request: &Request, mut adapter: Option<Adapter>, observer: &mut dyn Observer) -> Result<Studio> {
    let (machine, base) = (&request.machine, request.base.as_deref());
    // what is matched in the end is what all adapters draw together
    let set = adapter.as_mut().map(|adapter| &mut adapter.manifest.settings.sampling).and_then(|sampling| {
        let matches = std::mem::take(&mut sampling.dreammatcher);
        matches.then_some(sampling.matching_guidance)
    });
    let matching = (request.dreammatcher || set.is_some()).then_some(request.matching_guidance.or(set));
    let mut studio = Studio::open_with(machine, base, adapter, &request.loras, observer)?;
    if let Source::Elite(files, subject) = &request.adapter {
        let subject = subject::find(&subject::Request { subject, ..subject::Request::default() })?;
        studio = studio.with_elite(files, &subject, machine.offline)?;
        observer.warn(elite::UNTRIED);
    }
    if !request.more.is_empty() {
        let more = request.more.iter().map(|folder| Adapter::open(folder)).collect::<Result<Vec<_>>>()?;
        studio = studio.joined(&more)?;
    }
    match matching {
        Some(guidance) => studio.matched(guidance.filter(|&guidance| guidance != 0.)),
        None => Ok(studio),
    }
}

/// Pictures that are drawn in the same ways.
struct Batch<'a> {
    flags: &'a Flags,
    cells: Vec<Cell<'a>>,
    orders: Vec<Order>,
}

/// Whether pictures can be drawn so.
fn check(style: &Style, base: &Base) -> Result<()> {
    sampler(style.sampler, &base.scheduler, style.steps).map_err(|e| Usage(format!("--steps: {e}")))?;
    if !style.guidance.is_finite() {
        bail!(Usage("--guidance: give a finite number".into()));
    }
    let Special { start, variation, dial, sketch } = &style.special;
    let share = 0. ..=1.;
    for (name, value) in
        [("--guidance-rescale", Some(style.guidance_rescale)), ("--variations", variation.map(|(_, value)| value))]
    {
        if value.is_some_and(|value| !share.contains(&value)) {
            bail!(Usage(format!("{name}: give a number from 0 to 1")));
        }
    }
    for (name, value) in [("--low", dial.low), ("--high", dial.high), ("--reference-strength", dial.reference)] {
        if !(0. ..=STRONGEST).contains(&value) {
            bail!(Usage(format!("{name}: give a number from 0 to {STRONGEST}")));
        }
    }
    if let Some(start) = start
        && !(start.strength > 0. && start.strength <= 1. && style.taken() > 0)
    {
        let Start { strength, .. } = start;
        bail!(Usage(format!("--strength {strength}: of {} steps none is left to draw", style.steps)));
    }
    if *sketch == Some(0) {
        bail!(Usage("--preview 0: give a number of steps".into()));
    }
    Ok(())
}

/// More than twice as trained draws nothing anybody would know.
const STRONGEST: f64 = 2.;

/// Where the sheet goes: over one of ours, but over no picture of the user's.
fn sheet_path(folder: &Path) -> PathBuf {
    let path = folder.join("contact-sheet.png");
    if path.exists() && !is_ours(&path) { folder.join("eqdiff-contact-sheet.png") } else { path }
}

/// The styles that were asked for.
fn presets(request: &Request) -> Result<Vec<Preset>> {
    if request.styles.is_empty() {
        return Ok(Vec::new());
    }
    Preset::read(request.style_file.as_deref().unwrap_or(Path::new("styles.csv")), &request.styles)
}

/// All prompts in their styles.
fn lines(request: &Request, adapter: Option<&Adapter>, observer: &mut dyn Observer) -> Result<Vec<Line>> {
    let typed = request.prompts.iter().map(|prompt| Line { prompt: prompt.clone(), ..Line::default() });
    let mut lines: Vec<Line> = typed.collect();
    if let Some(path) = &request.prompt_file {
        let subject = match adapter {
            None => PLACEHOLDER.to_string(),
            Some(adapter) => adapter.manifest.called(),
        };
        lines.extend(Line::read(path, &subject, observer)?);
    }
    if lines.is_empty() || request.count == 0 {
        bail!(Usage("nothing to draw: give --prompt, --prompts with at least one line, and a --count above 0".into()));
    }
    if request.count.saturating_mul(lines.len()) > MOST {
        bail!(Usage(format!("--count {} of {} prompts: at most {MOST} pictures", request.count, lines.len())));
    }
    let presets = presets(request)?;
    for line in &mut lines {
        line.prompt = presets.iter().fold(line.prompt.clone(), |prompt, preset| preset.prompt(&prompt));
        if let Some(negative) = &mut line.flags.negative {
            *negative = presets.iter().fold(negative.clone(), |negative, preset| preset.negative(&negative));
        }
    }
    Ok(lines)
}

/// Says what was cut off long prompts, and which prompts leave out the subject.
fn warn_of_prompts<'a>(
    prompts: &[String],
    negatives: impl Iterator<Item = &'a str>,
    studio: &Studio,
    observer: &mut dyn Observer,
) -> Result<()> {
    for negative in negatives {
        if let Some(cut) = studio.base.tokenizer.encode(negative, PLACEHOLDER)?.cut {
            observer.warn(&format!("the negative prompt is too long; cut off: {cut:?}"));
        }
    }
    for text in prompts {
        let tokens = studio.base.tokenizer.encode(text, PLACEHOLDER)?;
        if let Some(cut) = &tokens.cut {
            observer.warn(&format!("the prompt is longer than {} tokens; cut off: {cut:?}", tokens.ids.len()));
        }
        match (&studio.adapter, tokens.placeholder.is_empty()) {
            (Some(_), true) if tokens.placeholder_cut => observer
                .warn(&format!("{PLACEHOLDER}, which stands for the subject, is in what was cut off: put it in front")),
            (Some(adapter), true) => observer.warn(&format!(
                "{text:?} has no {PLACEHOLDER}, which stands for the subject: try \"{}\"",
                adapter.manifest.called()
            )),
            (None, false) if !studio.has_subject => {
                observer
                    .warn(&format!("without an adapter {PLACEHOLDER} stands for nothing and is left out of {text:?}"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A photo at the training's size; one that is inverted is taken pixel by pixel, as DreamMatcher does.
fn square(path: &Path, side: usize, inverted: bool, observer: &mut dyn Observer) -> Result<RgbImage> {
    let read = images::read(path)?;
    for warning in &read.warnings {
        observer.warn(&format!("{}: {warning}", shown(path)));
    }
    let filter = if inverted { FilterType::Nearest } else { FilterType::CatmullRom };
    Ok(imageops::resize(&read.image, side as u32, side as u32, filter))
}
