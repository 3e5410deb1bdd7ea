//! A study at work: trainings, pictures and scores, one training after another.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Error, Result, anyhow, bail};
use image::RgbImage;

use super::super::resume::resume_on;
use super::super::studio::Studio;
use super::super::train::{self, Overrides, train_on};
use super::super::{Interrupted, Machine, Note, Observer, page};
use crate::adapter::{Adapter, MANIFEST};
use crate::base::{Base, device};
use crate::evaluation::judge::shares;
use crate::evaluation::scorer::{Concept, Scorer, Wanted};
use crate::files::{Lock, make_folder, write_whole};
use crate::images;
use crate::images::png::save_png;
use crate::sampling::{Drawn, Order, Style, blocks, draw};
use crate::study::ledger::{self, adapter_folder, training_folder};
use crate::study::plan::Subject;
use crate::study::{Cell, Entry, Ledger, Plan, Sources, Training};
use crate::subject::{self, Crop};
use crate::training::budget::Budget;

/// What an error says that every training would end with.
#[derive(Debug)]
pub(super) struct NoTools;

impl std::fmt::Display for NoTools {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("no training can begin")
    }
}

/// A study at work.
pub(super) struct Work<'a> {
    plan: &'a Plan,
    out: &'a Path,
    machine: &'a Machine,
    /// Base and encoders, which are loaded before the first training that something is missing of.
    tools: Option<(Rc<Base>, Rc<Scorer>)>,
    /// The photos of the subject at hand as the encoders see them.
    concept: Option<(&'a str, Rc<Concept>)>,
    /// The subject at hand with its photos.
    photos: Option<(&'a str, Rc<subject::Subject>)>,
}

impl<'a> Work<'a> {
    /// Nothing is loaded yet.
    pub(super) fn new(plan: &'a Plan, out: &'a Path, machine: &'a Machine) -> Self {
        Self { plan, out, machine, tools: None, concept: None, photos: None }
    }

    /// Makes what is missing of a training; `false` if another process is at it.
    pub(super) fn finish(&mut self, training: &Training<'a>, place: &str, observer: &mut dyn Observer) -> Result<bool> {
        if !training.method.is_there() {
            return Ok(true);
        }
        let folder = training_folder(self.out, training);
        make_folder(&folder)?;
        let Some(_lock) = swept(&folder)? else { return Ok(false) };
        self.keep_sources(training, &folder)?;
        let mut ledger = Ledger::open(&folder)?;
        let cells: Vec<Cell> = training.cells().collect();
        let missing = cells.iter().filter(|cell| !self.is_done(training, cell, &ledger)).count();
        if missing == 0 {
            return Ok(true);
        }
        observer.info(&format!("{place}: {} of {} pictures are done", cells.len() - missing, cells.len()));
        let (base, scorer) = self.tools(observer).context(NoTools)?;
        let studio = match &training.method.elite {
            Some(files) => {
                let subject = self.subject(training.subject)?;
                Studio::of_base(base, training.settings.clone()).with_elite(files, &subject, self.machine.offline)?
            }
            None => {
                let adapter = self.trained(training, &base, observer)?;
                Studio::with(base, adapter)?
            }
        };
        self.draw_and_score(training, &cells, (&studio, &scorer), &mut ledger, observer)?;
        Ok(true)
    }

    /// Whether a picture is there with its scores.
    fn is_done(&self, training: &Training, cell: &Cell, ledger: &Ledger) -> bool {
        ledger.has(training, cell) && ledger::picture(self.out, training, cell).is_file()
    }

    /// Refuses other photos than those of which is what there is in a training's folder; leaves there what else is.
    fn keep_sources(&mut self, training: &Training<'a>, folder: &Path) -> Result<()> {
        let sources = Sources::new(self.plan, self.subject(training.subject)?.digest());
        match Sources::of(folder)? {
            None => sources.keep(folder),
            Some(known) if known.photos == sources.photos => Ok(()),
            Some(_) => Err(other_photos(folder, training.subject)),
        }
    }

    fn tools(&mut self, observer: &mut dyn Observer) -> Result<(Rc<Base>, Rc<Scorer>)> {
        if let Some(tools) = &self.tools {
            return Ok(tools.clone());
        }
        let Plan { base, clip, dino, .. } = self.plan;
        let loaded = Rc::new(self.machine.base(base, observer)?);
        let (device, _) = device(&self.machine.device)?;
        let (clip, dino) = (clip.as_deref(), dino.as_deref());
        let scorer = Rc::new(Scorer::load(&Wanted::ALL, base, clip, dino, self.machine.offline, &device)?);
        Ok(self.tools.insert((loaded, scorer)).clone())
    }

    /// The training's adapter; what is missing of it is trained. Methods that only draw otherwise share one.
    fn trained(&mut self, training: &Training<'a>, base: &Base, observer: &mut dyn Observer) -> Result<Adapter> {
        let folder = &adapter_folder(self.out, training);
        for alike in std::iter::once(training.clone()).chain(training.alike()?) {
            if let Some(mut adapter) = self.known(&alike)? {
                adapter.manifest.settings.sampling = training.settings.sampling.clone();
                return Ok(adapter);
            }
        }
        let settings = folder.with_file_name("settings.toml");
        let toml = toml::to_string_pretty(&training.settings).context("cannot list the settings")?;
        write_whole(&settings, toml.as_bytes())?;
        let request = train::Request {
            subject: Some(training.subject.folder.clone()),
            images: None,
            masks: None,
            class: Some(training.subject.class.clone()),
            invert_masks: false,
            crop: Crop::None,
            base: Some(self.plan.base.clone()),
            preset: training.method.preset.clone(),
            config: Some(settings),
            overrides: Overrides::default(),
            class_images: None,
            out: Some(folder.to_path_buf()),
            auto_mask: None,
            memory: Budget::Auto,
            study: Some(self.out.to_path_buf()),
            machine: self.machine.clone(),
        };
        let observer = &mut Quiet(observer);
        let trained = match folder.join(MANIFEST).exists() {
            true => resume_on(Some(base), &request, observer)?,
            false => train_on(base, &request, observer)?,
        };
        if !trained.finished {
            bail!(Interrupted);
        }
        Adapter::open(folder)
    }

    /// The adapter of a training that has come to its end.
    fn known(&mut self, training: &Training<'a>) -> Result<Option<Adapter>> {
        let folder = adapter_folder(self.out, training);
        let known = folder.join(MANIFEST).exists().then(|| Adapter::open(&folder)).transpose()?;
        let Some(adapter) = known.filter(|adapter| adapter.manifest.steps >= training.settings.training.steps) else {
            return Ok(None);
        };
        swept(&folder)?; // it may have been killed over its last file
        if adapter.manifest.photos != self.subject(training.subject)?.digest() {
            return Err(other_photos(&training_folder(self.out, training), training.subject));
        }
        Ok(Some(adapter))
    }

    /// A subject with its photos.
    fn subject(&mut self, subject: &'a Subject) -> Result<Rc<subject::Subject>> {
        if let Some((known, found)) = &self.photos
            && *known == subject.name
        {
            return Ok(found.clone());
        }
        let found = Rc::new(found(subject)?);
        self.photos = Some((&subject.name, found.clone()));
        Ok(found)
    }

    /// Draws what is missing of a training's pictures and scores them, block by block: a picture is the same, to the
    /// last bit, however often it was tried, and any number of them take the memory of a block.
    fn draw_and_score(
        &mut self,
        training: &Training<'a>,
        cells: &[Cell],
        (studio, scorer): (&Studio, &Scorer),
        ledger: &mut Ledger,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let concept = self.concept(training.subject, scorer)?;
        let style = studio.style("", studio.reference.as_ref());
        let pictures = ledger::pictures_folder(self.out, training);
        make_folder(&pictures)?;
        let _lock = swept(&pictures)?;
        let done = cells.iter().filter(|cell| self.is_done(training, cell, ledger)).count();
        observer.begin("Drawing, scoring", cells.len() * style.steps, done * style.steps);
        for block in blocks(&studio.base, studio.learned.as_ref(), &style, cells.len())? {
            let cells = &cells[block];
            let path = |cell: &Cell| ledger::picture(self.out, training, cell);
            if cells.iter().any(|cell| !path(cell).is_file()) {
                let before = cells.iter().filter(|cell| self.is_done(training, cell, ledger)).count();
                draw_block(studio, &style, cells, &path, before, observer)?;
            }
            let missing: Vec<&Cell> = cells.iter().filter(|cell| !ledger.has(training, cell)).collect();
            let score = |cell: &&Cell| -> Result<Entry> {
                let picture = images::open(&path(cell))?;
                let scores = scorer.scores(&picture, Some(&cell.named), &concept)?;
                let findings = scorer.findings(&picture, Some(&cell.named), &concept)?;
                Ok(Entry::new(training, cell, scores, shares(findings.iter())))
            };
            if !missing.is_empty() {
                ledger.append(&missing.iter().map(score).collect::<Result<Vec<_>>>()?)?;
            }
            observer.go_on(0)?;
        }
        observer.end();
        Ok(())
    }

    /// The photos of a subject as the encoders see them.
    fn concept(&mut self, subject: &'a Subject, scorer: &Scorer) -> Result<Rc<Concept>> {
        if let Some((known, concept)) = &self.concept
            && *known == subject.name
        {
            return Ok(concept.clone());
        }
        let found = self.subject(subject)?;
        let photos: Vec<RgbImage> = found.photos.iter().map(|photo| photo.image.clone()).collect();
        let concept = Rc::new(scorer.concept(&photos, page::truth(&found))?);
        self.concept = Some((&subject.name, concept.clone()));
        Ok(concept)
    }
}

/// Draws a block's pictures and saves those that are not there. `before` of them are counted already.
fn draw_block(
    studio: &Studio,
    style: &Style,
    cells: &[Cell],
    path: &dyn Fn(&Cell) -> PathBuf,
    before: usize,
    observer: &mut dyn Observer,
) -> Result<()> {
    let order = |cell: &Cell| Order { prompt: cell.prompt.clone(), seed: cell.seed, init_latents: None };
    let orders: Vec<Order> = cells.iter().map(order).collect();
    let mut counted = before * style.steps;
    draw(&studio.base, studio.learned.as_ref(), style, &orders, |drawn| match drawn {
        Drawn::Steps(steps) => {
            let known = steps.min(counted);
            counted -= known;
            observer.go_on(steps - known)
        }
        Drawn::Sketch(..) | Drawn::Lost(_) => Ok(()),
        Drawn::Picture(i, picture) => {
            let path = path(&cells[i]);
            if !path.is_file() {
                let parameters = studio.parameters_of_learned(&orders[i], style).to_string();
                save_png(&path, &picture, &[("parameters", &parameters)])?;
                observer.tell(Note::Picture(&path));
            }
            Ok(())
        }
    })
}

/// A subject of a plan with its photos.
pub(super) fn found(subject: &Subject) -> Result<subject::Subject> {
    let (folder, class) = (subject.folder.as_str(), Some(subject.class.as_str()));
    // a training that needs masks asks for them itself
    subject::find(&subject::Request { subject: folder, class, whole: true, ..subject::Request::default() })
}

/// The lock of a folder that is there, and what dead processes left in it gone; none if another process has it.
pub(super) fn swept(folder: &Path) -> Result<Option<Lock>> {
    let lock = Lock::take(folder)?;
    lock.as_ref().map(Lock::sweep).transpose()?;
    Ok(lock)
}

fn other_photos(training: &Path, subject: &Subject) -> Error {
    anyhow!(
        "{} is of other photos than those in {}: give another --out, or remove that whole folder",
        training.display(),
        subject.folder
    )
}

/// Hears everything but how things stand: a study has many trainings.
struct Quiet<'a>(&'a mut dyn Observer);

impl Observer for Quiet<'_> {
    fn tell(&mut self, note: Note) {
        if !matches!(note, Note::Info(_)) {
            self.0.tell(note);
        }
    }

    fn begin(&mut self, work: &'static str, units: usize, done: usize) {
        self.0.begin(work, units, done);
    }

    fn advance(&mut self, units: usize, values: &[(&str, f64)]) {
        self.0.advance(units, values);
    }

    fn end(&mut self) {
        self.0.end();
    }

    fn stopped(&self) -> bool {
        self.0.stopped()
    }
}
