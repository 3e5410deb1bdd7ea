//! The training run: from what a method starts with to a saved adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Tensor, Var};
use image::RgbImage;

use super::events;
use super::log::{Log, Record};
use super::optimiser::{AdamW, AdamWSettings};
use super::state;
use crate::adapter::{self, Manifest};
use crate::base::Base;
use crate::files::{Set, make_own_folder};
use crate::images::png::{SHEET, save_png};
use crate::images::{self, typed};
use crate::method::Method;
use crate::report::{Course, contact_sheet, course_page};
use crate::sampling::{Drawn, Order, Special, Style, draw};

/// What a run tells while it works.
pub enum Event<'a> {
    /// A step is done: its losses by name, total first.
    Step(&'a Record, &'a [&'static str]),
    /// A checkpoint is on the disk.
    Saved,
    /// A preview is being drawn.
    Drawing,
    /// A preview picture is on the disk.
    Preview(&'a Path),
}

/// Whether training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    Continue,
    /// It saves its state and stops.
    Stop,
}

/// A run in its folder.
pub struct Trainer<'a, M: Method> {
    base: &'a Base,
    method: M,
    folder: PathBuf,
    manifest: Manifest,
    optimiser: AdamW,
    learned: M::Learned,
    log: Log,
    /// The photo that previews refer to.
    reference: RgbImage,
    /// When the page was written last, and how long that took.
    shown: (Instant, Duration),
}

impl<'a, M: Method> Trainer<'a, M> {
    /// A run of `manifest.settings` that goes on after the checkpoint in `folder`, if there is one.
    ///
    /// # Errors
    /// If the folder's state is damaged or of another base.
    pub fn new(base: &'a Base, method: M, folder: &Path, manifest: Manifest, reference: RgbImage) -> Result<Self> {
        let settings = &manifest.settings.training;
        let initial = method.initial()?;
        let (tensors, moments, steps) = if manifest.steps > 0 {
            let state = state::load(folder, &base.device)?;
            if state.steps != manifest.steps {
                let (of_state, of_adapter) = (state.steps, manifest.steps);
                bail!(
                    "the saved training has {of_state} steps, its adapter {of_adapter}: they are not of one checkpoint"
                );
            }
            (state.variables, state.moments, state.steps)
        } else {
            (initial.clone(), BTreeMap::new(), 0)
        };
        let mut variables = BTreeMap::new();
        for (name, initial) in &initial {
            let tensor = tensors.get(name).with_context(|| format!("{name} is missing in the saved training"))?;
            if tensor.shape() != initial.shape() {
                bail!("{name} of the saved training has another shape than the base's: was it another base?");
            }
            variables.insert(name.clone(), Var::from_tensor(tensor)?);
        }
        let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let adamw = AdamWSettings {
            learning_rate: settings.learning_rate,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: settings.weight_decay,
            max_grad_norm: settings.max_grad_norm,
        };
        let mut log = Log::new(M::TERMS);
        if steps > 0 {
            log.read(&folder.join(LOSSES), steps)?;
        }
        Ok(Self {
            base,
            folder: folder.to_path_buf(),
            learned: method.learned(&tensors)?,
            optimiser: AdamW::new(variables, adamw, steps, moments)?
                .multiplied(|name| method.learning_rate_multiplier(name)),
            method,
            log,
            manifest,
            reference,
            shown: (Instant::now(), Duration::ZERO),
        })
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.optimiser.steps()
    }

    /// Trains to the end, or until `observe` says stop; saves either way, and after the first step too, so that there
    /// is something to go on with soon.
    ///
    /// # Errors
    /// If a step fails or diverges; what the last checkpoint saved stays.
    pub fn run(&mut self, mut observe: impl FnMut(Event) -> Result<Next>) -> Result<()> {
        let settings = self.manifest.settings.training.clone();
        let every = |interval: usize, step: usize| interval > 0 && step.is_multiple_of(interval);
        if self.steps() > 0 && self.steps() < settings.steps {
            self.show(Next::Continue)?; // it may say that the training was stopped
        }
        // a run that was killed between a checkpoint and the preview of the same step draws it now
        if self.steps() > 0
            && every(settings.preview_every, self.steps())
            && !self.preview_path().is_file()
            && self.preview(&mut observe)? == Next::Stop
        {
            return self.show(Next::Stop);
        }
        while self.steps() < settings.steps {
            self.step().with_context(|| format!("step {}", self.steps() + 1))?;
            let Some(record) = self.log.last() else { bail!("a step left no record") };
            let mut next = observe(Event::Step(record, self.log.names()))?;
            let last = next == Next::Stop || self.steps() == settings.steps;
            if last || self.steps() == 1 || every(settings.checkpoint_every, self.steps()) {
                self.save(next)?;
                observe(Event::Saved)?;
            }
            if next == Next::Continue && every(settings.preview_every, self.steps()) {
                next = self.preview(&mut observe)?;
                if next == Next::Stop {
                    self.save(next)?;
                }
            }
            if next == Next::Stop {
                break;
            }
            let (at, took) = self.shown;
            if at.elapsed() >= SHOWN_EVERY.max(took * SHARE) && self.show(next).is_err() {
                self.shown.0 = Instant::now(); // no reason to stop: if it lasts, the next checkpoint says it
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let step = self.steps();
        let losses = self.method.losses(&self.learned, step)?;
        let grads = losses.total.backward()?;
        let terms: Vec<_> = [("total", losses.total)].into_iter().chain(losses.terms).collect();
        let (norm, read) = self.optimiser.step(&grads, &terms.iter().map(|(_, loss)| loss).collect::<Vec<_>>())?;
        let value = |((name, _), value): (&(&'static str, Tensor), f64)| -> Result<(&'static str, f64)> {
            if !value.is_finite() {
                bail!("the loss {name} is {value}: the training diverged, lower the learning rate");
            }
            Ok((*name, value))
        };
        // the total is a sum: a term says more about what went wrong
        let values = terms.iter().zip(read).rev().map(value).collect::<Result<Vec<_>>>()?;
        if !norm.is_finite() {
            bail!("the gradient is not finite after {step} steps: lower the learning rate");
        }
        self.log.push(step + 1, &values, norm)
    }

    /// Writes the adapter, the optimiser's state and the losses in one step, and the page after it.
    fn save(&mut self, next: Next) -> Result<()> {
        self.manifest.steps = self.steps();
        let tensors = self.trained();
        let mut set = Set::new(&self.folder);
        adapter::save(&mut set, &self.manifest, &tensors)?;
        state::save(&mut set, &self.optimiser)?;
        set.add(LOSSES, &self.log.csv()?)?;
        set.commit()?;
        events::update(&self.folder.join(events::FILE), &self.log.events())?;
        self.log.draw(&self.folder.join("loss.png"))?;
        self.show(next)
    }

    /// Writes the page of the losses and previews.
    fn show(&mut self, next: Next) -> Result<()> {
        let begun = Instant::now();
        let step = |path: PathBuf| {
            let step = path.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            Some((step, path))
        };
        let files = std::fs::read_dir(self.folder.join(PREVIEWS)).into_iter().flatten().flatten();
        let mut files: Vec<(usize, PathBuf)> = files.filter_map(|entry| step(entry.path())).collect();
        files.sort_by_key(|(step, _)| std::cmp::Reverse(*step));
        // a preview that cannot be read is no reason to stop
        let read = |(step, path): (usize, PathBuf)| Some((step, images::open(&path).ok()?));
        let (taken, all) = (self.steps(), self.manifest.settings.training.steps);
        let stopped = next == Next::Stop && taken < all;
        let course = Course {
            title: format!("{} {}", self.manifest.placeholder, self.manifest.class),
            steps: (taken, all),
            stopped: stopped.then(|| format!("eqdiff train --resume --out {}", typed(&self.folder))),
            losses: self.log.series(),
            previews: files.into_iter().take(SHOWN).filter_map(read).collect(),
        };
        course_page(&course)?.write(&self.folder.join(PAGE))?;
        self.shown = (Instant::now(), begun.elapsed());
        Ok(())
    }

    fn trained(&self) -> BTreeMap<String, Tensor> {
        let variables = self.optimiser.variables().iter();
        variables.map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    fn preview_path(&self) -> PathBuf {
        preview_path(&self.folder, self.steps())
    }

    /// Draws the subject with fixed prompts and seeds. Stopped in the middle there is no preview: the next run draws it.
    fn preview(&mut self, observe: &mut impl FnMut(Event) -> Result<Next>) -> Result<Next> {
        let Manifest { settings, class, side, .. } = &self.manifest;
        let called = self.manifest.called();
        let prompts = [format!("photo of a {called}"), format!("{called} in van gogh style")];
        let style = Style {
            negative: "",
            sampler: settings.sampling.sampler,
            steps: settings.sampling.steps,
            guidance: settings.sampling.guidance,
            guidance_rescale: settings.sampling.guidance_rescale,
            size: (*side, *side),
            reference: Some((&self.reference, class.as_str())),
            reference_noise: settings.rra.reference_noise,
            special: Special::default(),
        };
        let orders: Vec<Order> = prompts
            .iter()
            .flat_map(|prompt| (0..2).map(|seed| Order { prompt: prompt.clone(), seed, init_latents: None }))
            .collect();
        let mut cells = Vec::with_capacity(orders.len());
        let mut next = Next::Continue;
        let drawn = draw(self.base, &self.method.learned(&self.trained())?, &style, &orders, |drawn| {
            if let Drawn::Picture(i, picture) = drawn {
                cells.push((picture, orders[i].prompt.clone()));
            }
            next = observe(Event::Drawing)?;
            ensure!(next == Next::Continue, "stopped");
            Ok(())
        });
        if next == Next::Stop {
            return Ok(next);
        }
        drawn?;
        let path = self.preview_path();
        make_own_folder(&self.folder.join(PREVIEWS))?;
        save_png(&path, &contact_sheet(&cells, 2), &SHEET)?;
        self.show(Next::Continue)?;
        observe(Event::Preview(&path))
    }
}

/// Whether nothing is left to do in a training's folder: all steps are taken, and their page and last preview are there.
pub fn is_complete(folder: &Path, manifest: &Manifest) -> bool {
    let (taken, settings) = (manifest.steps, &manifest.settings.training);
    let shows = settings.preview_every > 0 && taken.is_multiple_of(settings.preview_every);
    taken >= settings.steps && folder.join(PAGE).is_file() && (!shows || preview_path(folder, taken).is_file())
}

fn preview_path(folder: &Path, step: usize) -> PathBuf {
    folder.join(format!("{PREVIEWS}/step-{step:06}.png"))
}

const LOSSES: &str = "loss.csv";

const PREVIEWS: &str = "previews";

/// The page to watch a training on.
pub const PAGE: &str = "training.html";

/// The page is written when that has passed, also without a checkpoint or a preview.
const SHOWN_EVERY: Duration = Duration::from_secs(10);

/// It takes at most one part in so many of the time: with many large previews it is written less often.
const SHARE: u32 = 50;

/// Previews on that page, at most: it is written at every checkpoint.
const SHOWN: usize = 12;
