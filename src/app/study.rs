//! A study: what is missing of its trainings, pictures and scores is made, and what is there is put together.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Error, Result, anyhow, bail};
use image::RgbImage;

use super::resume::resume_on;
use super::studio::Studio;
use super::train::{self, Overrides, train_on};
use super::{Interrupted, Machine, Note, Observer, Usage, elite, page};
use crate::adapter::{Adapter, MANIFEST};
use crate::base::{Base, device};
use crate::evaluation::judge::shares;
use crate::evaluation::scorer::{Concept, Scorer, Wanted};
use crate::files::{Lock, check_writable, make_folder, read_text, write_whole};
use crate::images;
use crate::images::png::save_png;
use crate::report::study::{StudyInput, study_page};
use crate::sampling::{Drawn, Order, Style, blocks, draw};
use crate::study::ledger::{self, Progress, adapter_folder, training_folder};
use crate::study::plan::{PLAN, Subject};
use crate::study::statistics::Statistics;
use crate::study::tables::tables;
use crate::study::{Cell, Entry, Ledger, Plan, Shard, Training};
use crate::subject::{self, Crop};
use crate::training::budget::Budget;

/// What to do of which study.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff study --help`
pub struct Request {
    pub plan: PathBuf,
    pub out: PathBuf,
    pub shard: Shard,
    pub machine: Machine,
}

/// How a study ended.
pub struct Finished {
    /// How much of it is done; none if that is for others to say.
    pub progress: Option<Progress>,
    /// Trainings that other processes had in hand.
    pub busy: usize,
}

/// Makes what is missing of a study, or of a part of it. A whole one is put together at the end.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if something cannot be read, computed or written;
/// [`Interrupted`] if the user stops it. What is finished stays.
pub fn study(request: &Request, observer: &mut dyn Observer) -> Result<Finished> {
    let Request { out, shard, machine, .. } = request;
    let plan =
        Plan::read(&request.plan, machine.precision(), machine.offline).map_err(|error| Usage(format!("{error:#}")))?;
    for (method, files) in plan.methods.iter().filter_map(|method| Some((method, method.elite.as_ref()?))) {
        match method.is_there() {
            true => observer.warn(elite::UNTRIED),
            false => observer.warn(&format!(
                "{} is left out: {} has not the files that its authors publish",
                method.name,
                files.mappers.display()
            )),
        }
    }
    check_writable(out)?;
    keep_plan(&plan, out, observer)?;
    let trainings = plan.trainings()?;
    let share = shard.share(trainings.len());
    let cells: usize = trainings[share.clone()].iter().map(|training| training.cells().count()).sum();
    let part = if shard.is_whole() { String::new() } else { format!(", part {shard}: {} trainings", share.len()) };
    observer.info(&format!("{}: {} trainings{part}, {cells} pictures", plan.title, trainings.len()));
    let mut work = Work { plan: &plan, out, machine, base: None, scorer: None, concept: None, photos: None };
    let mut busy = 0;
    for (i, training) in trainings[share.clone()].iter().enumerate() {
        if observer.stopped() {
            bail!(Interrupted);
        }
        let place = format!("{}/{} {}", i + 1, share.len(), training.id);
        if !work.finish(training, &place, observer).with_context(|| training.id.clone())? {
            busy += 1;
        }
    }
    if busy > 0 {
        observer.warn(&format!("{busy} trainings are in the hands of other processes"));
    }
    if !shard.is_whole() {
        observer.info(&format!("Part {shard} is done. When all are: eqdiff study merge {}", out.display()));
        return Ok(Finished { progress: None, busy });
    }
    Ok(Finished { progress: Some(merge(out, observer)?), busy })
}

/// Puts together what is done of the study in a folder: its ledger, its tables, its page.
///
/// # Errors
/// If there is none, or something cannot be read or written.
pub fn merge(study: &Path, observer: &mut dyn Observer) -> Result<Progress> {
    let plan = Plan::open(study)?;
    let _lock = swept(study)?;
    let mut statistics = Statistics::default();
    let progress = ledger::merge(&plan, study, |entry| statistics.add(entry))?;
    let Progress { done, all } = progress;
    if done < all {
        observer.warn(&format!("{} of {all} pictures are missing: the same study command makes them", all - done));
    }
    let tables = tables(&plan, &statistics);
    let folder = study.join("tables");
    make_folder(&folder)?;
    let _lock = swept(&folder)?;
    for table in &tables {
        write_whole(&folder.join(format!("{}.csv", table.name)), &table.csv()?)?;
        write_whole(&folder.join(format!("{}.tex", table.name)), table.latex().as_bytes())?;
    }
    let path = study.join("report.html");
    let truths: Vec<_> =
        plan.subjects.iter().map(|subject| found(subject).ok().map(|found| page::truth(&found))).collect();
    let truth = |subject: &Subject, prompt: &str| {
        let place = plan.subjects.iter().position(|known| known == subject)?;
        truths[place].as_ref()?(prompt)
    };
    let (statistics, tables) = (&statistics, &tables);
    let input = StudyInput { plan: &plan, progress, statistics, tables, folder: study, truth: &truth };
    study_page(&input)?.write(&path)?;
    observer.info(&format!("{done} pictures: {}, tables in {}", path.display(), folder.display()));
    Ok(progress)
}

/// A subject of a plan with its photos.
fn found(subject: &Subject) -> Result<subject::Subject> {
    let (folder, class) = (subject.folder.as_str(), Some(subject.class.as_str()));
    subject::find(&subject::Request { subject: folder, class, ..subject::Request::default() })
}

/// Refuses pictures of other photos than those that the first ones in the same folder were drawn of.
fn keep_digest(file: &Path, digest: &str, subject: &Subject) -> Result<()> {
    match read_text(file) {
        Ok(known) if known == digest => Ok(()),
        Ok(_) => Err(other_photos(file, subject)),
        Err(_) => write_whole(file, digest.as_bytes()),
    }
}

fn other_photos(what: &Path, subject: &Subject) -> Error {
    anyhow!(
        "{} is of other photos than those in {}: give another --out, or remove the former",
        what.display(),
        subject.folder
    )
}

/// Leaves the plan in the study's folder, for whoever puts it together.
fn keep_plan(plan: &Plan, out: &Path, observer: &mut dyn Observer) -> Result<()> {
    let (path, text) = (out.join(PLAN), plan.toml()?);
    let known = || read_text(&path).ok();
    let differs = || if observer.stopped() { Err(Interrupted.into()) } else { Ok(known().as_ref() != Some(&text)) };
    let lock = Lock::wait(out, differs)?;
    if lock.is_none() {
        return Ok(()); // another part has written it
    }
    if known().is_some() {
        observer.info("The plan has changed: what it still asks for is kept");
    }
    write_whole(&path, text.as_bytes())
}

/// The lock of a folder that is there, and what dead processes left in it gone; none if another process has it.
fn swept(folder: &Path) -> Result<Option<Lock>> {
    let lock = Lock::take(folder)?;
    lock.as_ref().map(Lock::sweep).transpose()?;
    Ok(lock)
}

/// A study at work.
struct Work<'a> {
    plan: &'a Plan,
    out: &'a Path,
    machine: &'a Machine,
    base: Option<Rc<Base>>,
    scorer: Option<Scorer>,
    /// The photos of the subject at hand as the encoders see them.
    concept: Option<(&'a str, Rc<Concept>)>,
    /// The subject at hand with its photos.
    photos: Option<(&'a str, Rc<subject::Subject>)>,
}

impl<'a> Work<'a> {
    /// Makes what is missing of a training; `false` if another process is at it.
    fn finish(&mut self, training: &Training<'a>, place: &str, observer: &mut dyn Observer) -> Result<bool> {
        if !training.method.is_there() {
            return Ok(true);
        }
        let folder = training_folder(self.out, training);
        make_folder(&folder)?;
        let Some(_lock) = swept(&folder)? else { return Ok(false) };
        let mut ledger = Ledger::open(&folder)?;
        let cells: Vec<Cell> = training.cells().collect();
        let missing = cells.iter().filter(|cell| !ledger.has(training, cell)).count();
        if missing == 0 {
            return Ok(true);
        }
        observer.info(&format!("{place}: {} of {} pictures are done", cells.len() - missing, cells.len()));
        let base = self.base(observer)?;
        let studio = match &training.method.elite {
            Some(files) => {
                let subject = self.subject(training.subject)?;
                keep_digest(&folder.join("photos.txt"), &subject.digest(), training.subject)?;
                Studio::of_base(base, training.settings.clone()).with_elite(files, &subject, self.machine.offline)?
            }
            None => Studio::with(base, self.trained(training, observer)?)?,
        };
        self.draw_and_score(training, &cells, &studio, &mut ledger, observer)?;
        Ok(true)
    }

    fn base(&mut self, observer: &mut dyn Observer) -> Result<Rc<Base>> {
        if let Some(base) = &self.base {
            return Ok(base.clone());
        }
        let base = Rc::new(self.machine.base(&self.plan.base, observer)?);
        self.base = Some(base.clone());
        Ok(base)
    }

    /// The training's adapter; what is missing of it is trained. Methods that only draw otherwise share one.
    fn trained(&mut self, training: &Training<'a>, observer: &mut dyn Observer) -> Result<Adapter> {
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
        let base = self.base(observer)?;
        let observer = &mut Quiet(observer);
        let trained = match folder.join(MANIFEST).exists() {
            true => resume_on(Some(&base), &request, observer)?,
            false => train_on(&base, &request, observer)?,
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
            return Err(other_photos(&folder, training.subject));
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
        studio: &Studio,
        ledger: &mut Ledger,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let concept = self.concept(training.subject)?;
        let Some(scorer) = &self.scorer else { bail!("no encoders") };
        let style = studio.style("", studio.reference.as_ref());
        let pictures = ledger::pictures_folder(self.out, training);
        make_folder(&pictures)?;
        let _lock = swept(&pictures)?;
        let units = |cells: &[Cell]| cells.iter().filter(|cell| !ledger.has(training, cell)).count() * style.steps;
        observer.begin("Drawing, scoring", cells.len() * style.steps, cells.len() * style.steps - units(cells));
        for block in blocks(&studio.base, studio.learned.as_ref(), &style, cells.len())? {
            let cells = &cells[block];
            let missing: Vec<&Cell> = cells.iter().filter(|cell| !ledger.has(training, cell)).collect();
            if missing.is_empty() {
                continue;
            }
            let path = |cell: &Cell| ledger::picture(self.out, training, cell);
            let before = cells.len() - missing.len();
            if missing.iter().any(|cell| !path(cell).is_file()) {
                draw_block(studio, &style, cells, &path, before, observer)?;
            }
            let score = |cell: &&Cell| -> Result<Entry> {
                let picture = images::open(&path(cell))?;
                let scores = scorer.scores(&picture, Some(&cell.named), &concept)?;
                let findings = scorer.findings(&picture, Some(&cell.named), &concept)?;
                Ok(Entry::new(training, cell, scores, shares(findings.iter())))
            };
            ledger.append(&missing.iter().map(score).collect::<Result<Vec<_>>>()?)?;
            observer.go_on(0)?;
        }
        observer.end();
        Ok(())
    }

    /// The photos of a subject as the encoders see them, which are loaded on the way.
    fn concept(&mut self, subject: &'a Subject) -> Result<Rc<Concept>> {
        if self.scorer.is_none() {
            let (device, _) = device(&self.machine.device)?;
            let Plan { base, clip, dino, .. } = self.plan;
            let (clip, dino) = (clip.as_deref(), dino.as_deref());
            self.scorer = Some(Scorer::load(&Wanted::ALL, base, clip, dino, self.machine.offline, &device)?);
        }
        if let Some((known, concept)) = &self.concept
            && *known == subject.name
        {
            return Ok(concept.clone());
        }
        let found = self.subject(subject)?;
        let Some(scorer) = &self.scorer else { bail!("no encoders") };
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
