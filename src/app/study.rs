//! A study: what is missing of its trainings, pictures and scores is made, and what is there is put together.

mod work;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result, bail};

use super::{Interrupted, Machine, Observer, Usage, elite, page};
use crate::files::{Lock, advice, check_writable, make_folder, read_text, write_whole};
use crate::images::typed;
use crate::report::study::{StudyInput, study_page};
use crate::study::ledger::{self, LEDGER, Merged, Progress, training_folder};
use crate::study::plan::{Method, PLAN, Subject};
use crate::study::statistics::Statistics;
use crate::study::tables::{TABLES, tables};
use crate::study::{Plan, Shard, Sources, Training};
use work::{NoTools, Work, found, swept};

/// What to do of which study.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff study --help`
pub struct Request {
    pub plan: PathBuf,
    pub out: PathBuf,
    pub shard: Shard,
    pub machine: Machine,
}

/// The page, in the study's folder.
const REPORT: &str = "report.html";

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
/// [`Usage`] if the request makes no sense, else if something cannot be read, computed or written; [`Interrupted`] if
/// the user stops it. What is finished stays. Where one training fails the others are made all the same.
pub fn study(request: &Request, observer: &mut dyn Observer) -> Result<Finished> {
    let Request { out, shard, machine, .. } = request;
    let plan =
        Plan::read(&request.plan, machine.precision(), machine.offline).map_err(|error| Usage(format!("{error:#}")))?;
    for method in plan.methods.iter().filter(|method| method.elite.is_some()) {
        if method.is_there() { observer.warn(elite::UNTRIED) } else { warn_of_absent(method, observer) }
    }
    check_writable(out)?;
    keep_plan(&plan, out, observer)?;
    let trainings = plan.trainings()?;
    let share = shard.share(trainings.len());
    let cells: usize = trainings[share.clone()].iter().map(|training| training.cells().count()).sum();
    let part = if shard.is_whole() { String::new() } else { format!(", part {shard}: {} trainings", share.len()) };
    observer.info(&format!("{}: {} trainings{part}, {cells} pictures", plan.title, trainings.len()));
    check_encoders(&plan, out, &trainings[share.clone()])?;
    let mut work = Work::new(&plan, out, machine);
    let (mut busy, mut failed) = (0, 0);
    for (i, training) in trainings[share.clone()].iter().enumerate() {
        if observer.stopped() {
            bail!(Interrupted);
        }
        let place = format!("{}/{} {}", i + 1, share.len(), training.id);
        match work.finish(training, &place, observer).with_context(|| training.id.clone()) {
            Ok(true) => {}
            Ok(false) => busy += 1,
            Err(error) if concerns_all(&error) => return Err(error),
            Err(error) => {
                observer.warn(&format!("{error:#}"));
                failed += 1;
            }
        }
    }
    if busy > 0 {
        observer.warn(&format!("{busy} trainings are in the hands of other processes"));
    }
    let progress = if shard.is_whole() { Some(merge(out, observer)?) } else { None };
    if failed > 0 {
        bail!("{failed} of {} trainings failed: the same study command tries them again", share.len());
    }
    if !shard.is_whole() {
        observer.info(&format!("Part {shard} is done. When all are: eqdiff study merge {}", typed(out)));
    }
    Ok(Finished { progress, busy })
}

/// Says that a method's files are not there.
fn warn_of_absent(Method { name, elite, .. }: &Method, observer: &mut dyn Observer) {
    let folder = elite.as_ref().map(|files| files.mappers.display());
    let folder = folder.map_or_else(String::new, |folder| folder.to_string());
    observer.warn(&format!("{name} is left out: {folder} has not the files that its authors publish"));
}

/// Whether other trainings would fail as well.
fn concerns_all(error: &Error) -> bool {
    error.is::<Interrupted>() || error.is::<NoTools>() || advice(error).is_some()
}

/// Puts together what is done of the study in a folder: its ledger, its tables, its page.
///
/// # Errors
/// If there is none, or something cannot be read or written.
pub fn merge(study: &Path, observer: &mut dyn Observer) -> Result<Progress> {
    let plan = Plan::open(study)?;
    let _lock = swept(study)?;
    let mut statistics = Statistics::new(plan.subjects.len());
    let Merged { progress, left_out, damaged } = ledger::merge(&plan, study, |entry| statistics.add(entry))?;
    left_out.iter().for_each(|method| warn_of_absent(method, observer));
    damaged.iter().for_each(|error| observer.warn(&format!("{error:#}")));
    let Progress { done, all } = progress;
    if done < all {
        observer.warn(&format!("{} of {all} pictures are missing: the same study command makes them", all - done));
    }
    let tables = tables(&plan, &statistics);
    let folder = study.join("tables");
    make_folder(&folder)?;
    let _lock = swept(&folder)?;
    // a plan that changed may have fewer
    for name in TABLES.iter().filter(|name| tables.iter().all(|table| table.name != **name)) {
        for path in ["csv", "tex"].map(|kind| folder.join(format!("{name}.{kind}"))) {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
    }
    for table in &tables {
        write_whole(&folder.join(format!("{}.csv", table.name)), &table.csv()?)?;
        write_whole(&folder.join(format!("{}.tex", table.name)), table.latex().as_bytes())?;
    }
    let path = study.join(REPORT);
    let truths: Vec<_> =
        plan.subjects.iter().map(|subject| found(subject).ok().map(|found| page::truth(&found))).collect();
    let truth = |subject: &Subject, prompt: &str| {
        let place = plan.subjects.iter().position(|known| known == subject)?;
        truths[place].as_ref()?(prompt)
    };
    let (statistics, tables, left_out) = (&statistics, &tables, &left_out);
    let input = StudyInput { plan: &plan, progress, left_out, statistics, tables, folder: study, truth: &truth };
    study_page(&input)?.write(&path)?;
    observer.info(&format!("{done} pictures: {}, tables in {}", path.display(), folder.display()));
    Ok(progress)
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
    if path.exists() {
        let old = Plan::open(out).map_err(|error| {
            Usage(format!("{error:#}: give another --out, or remove {} if a study left it", path.display()))
        })?;
        // weights are rounded otherwise: names tell it, and nothing of what is there would be used
        if old.dtype != plan.dtype {
            let (out, old) = (out.display(), old.dtype);
            bail!(Usage(format!(
                "{out} is computed in {old}, and not in {}: give --dtype {old}, or another --out",
                plan.dtype
            )));
        }
        observer.info("The plan has changed: what it still asks for is kept");
    } else if !out.join("trainings").exists() {
        let foreign = [LEDGER, REPORT, "tables"].map(|name| out.join(name));
        if let Some(foreign) = foreign.iter().find(|path| path.exists()) {
            bail!(Usage(format!("{} is none of a study's: give another --out", foreign.display())));
        }
    }
    write_whole(&path, text.as_bytes())
}

/// Refuses other encoders than those of the scores that are there.
fn check_encoders(plan: &Plan, out: &Path, trainings: &[Training]) -> Result<()> {
    for folder in trainings.iter().map(|training| training_folder(out, training)) {
        let Some(Sources { clip, dino, .. }) = Sources::of(&folder)? else { continue };
        if [&clip, &dino] != plan.encoders() {
            let out = out.display();
            bail!(Usage(format!(
                "{out} holds scores by the CLIP of {clip} and the DINO of {dino}: give another --out"
            )));
        }
    }
    Ok(())
}
