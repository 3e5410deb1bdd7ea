//! The steps of a training whose folder is there, by the method that its settings name.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use image::RgbImage;
use sha2::{Digest, Sha256};

use super::places::{LAST_ADAPTER, OUTPUTS, remember};
use super::{Interrupted, Machine, Nobody, Observer};
use crate::adapter::{Manifest, OwnImages};
use crate::base::Base;
use crate::files::Lock;
use crate::images::typed;
use crate::method::custom_diffusion::{CustomDiffusion, Published};
use crate::method::dreambooth::{self, DreamBooth};
use crate::method::eqdiff::EqDiff;
use crate::method::eqdiff::data::{self, Data};
use crate::method::eqdiff::mgdp::Guidance;
use crate::method::pictures::Pictures;
use crate::method::textual_inversion::{self, TextualInversion};
use crate::method::{BaseAlone, Method, MethodName};
use crate::sampling::{Open, Set};
use crate::settings::{self, Settings};
use crate::subject::Subject;
use crate::training::budget::{Budget, MemoryPlan};
use crate::training::class_images::{self, Asked, Course};
use crate::training::{Event, Next, PAGE, Trainer, is_complete};

/// The folder of class images, beside the adapters.
const CLASS_IMAGES: &str = "class-images";

/// A training whose folder is there.
pub(super) struct Run<'a> {
    /// The base.
    pub base: &'a Base,
    /// The subject.
    pub subject: &'a Subject,
    /// The adapter's folder.
    pub folder: &'a Path,
    /// The memory that it may take.
    pub memory: Budget,
    /// Whose other cards draw class images too.
    pub machine: &'a Machine,
    /// The folder of the study that it is a part of: class images are kept there, and it is nobody's last training.
    pub study: Option<&'a Path>,
    /// Held as long as it runs.
    pub _lock: Lock,
}

/// How a training ended.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The adapter's folder.
    pub folder: PathBuf,
    /// Whether all steps were taken; if not, the user stopped it and it can go on.
    pub finished: bool,
}

/// Trains from where the folder stands to the end, or until the user stops it.
///
/// # Errors
/// If something cannot be read, computed or written.
pub(super) fn run(run: &Run, manifest: Manifest, observer: &mut dyn Observer) -> Result<Trained> {
    let typed = typed(run.folder);
    let first = manifest.steps + 1;
    match steps(run, manifest, observer) {
        Err(error) if error.is::<Interrupted>() => {
            observer.info(&format!("Stopped before step {first}. Go on with: eqdiff train --resume --out {typed}"));
            Ok(Trained { folder: run.folder.to_path_buf(), finished: false })
        }
        done => done,
    }
}

fn steps(run: &Run, manifest: Manifest, observer: &mut dyn Observer) -> Result<Trained> {
    let Run { base, subject, memory, .. } = run;
    let (settings, side, class) = (&manifest.settings, manifest.side, manifest.class.as_str());
    without_effect(settings, subject, *memory).iter().for_each(|what| observer.warn(what));
    let (batch_size, seed) = (settings.training.batch_size, settings.training.seed);
    if is_complete(run.folder, &manifest) {
        // before class images are drawn for nothing
        observer.info(&format!("{} steps are taken already: more need --steps above that", manifest.steps));
        return Ok(ended(run, &manifest.called(), observer));
    }
    let class_images = class_images(run, &manifest, observer)?;
    let samples = batch_size * if class_images.is_empty() { 1 } else { 2 };
    let latents = side / base.vae.factor();
    let plan = MemoryPlan::new(&base.unet, latents, samples, *memory, (&base.device, base.precision));
    if settings.training.method != MethodName::DreamBooth {
        observer.info(&plan.to_string());
    }
    let pictures = |images| Pictures::new(base, subject, images, |photo| photo.square(side as u32));
    match settings.training.method {
        MethodName::Eqdiff => {
            let recipe = settings.recipe(class);
            observer.begin("Encoding images", data::encodings(subject, class_images.len(), &recipe), 0);
            let data = Data::encode(base, subject, &class_images, &recipe, side, || observer.go_on(1))?;
            observer.end();
            let method = EqDiff::new(base, &data, &recipe, class, plan.keep)?;
            by_method(run, method, manifest, observer)
        }
        MethodName::CustomDiffusion => {
            let init = first_token(base, settings, class)?;
            let keep = plan.keep;
            let options = Published { init, prior_weight: settings.prior.weight, batch_size, seed, keep };
            let prompt = settings.prior.prompt_of(class);
            let method =
                CustomDiffusion::new(base, &subject.photos, pictures(class_images), [class, &prompt], options)?;
            by_method(run, method, manifest, observer)
        }
        MethodName::DreamBooth => {
            let settings::DreamBooth { identifier, text_encoder } = settings.dreambooth.clone();
            let values: usize =
                dreambooth::shapes(base, text_encoder)?.values().map(|s| s.iter().product::<usize>()).sum();
            // weights, gradients and two moments of four bytes each
            let mib = values * 16 / (1 << 20);
            observer.info(&format!("Memory: {values} values are trained, {mib} MiB beside a step's activations"));
            let prior_weight = settings.prior.weight;
            let options = dreambooth::Options { identifier, text_encoder, prior_weight, batch_size, seed };
            let prompt = settings.prior.prompt_of(class);
            let pictures = Pictures::new(base, subject, class_images, |photo| photo.covering(side as u32));
            let method = DreamBooth::new(base, pictures, [class, &prompt], options)?;
            by_method(run, method, manifest, observer)
        }
        MethodName::TextualInversion => {
            let init = first_token(base, settings, class)?;
            let options = textual_inversion::Options { init, batch_size, seed, keep: plan.keep };
            let method = TextualInversion::new(base, pictures(class_images), options)?;
            by_method(run, method, manifest, observer)
        }
    }
}

fn by_method<M: Method>(run: &Run, method: M, manifest: Manifest, observer: &mut dyn Observer) -> Result<Trained> {
    let Run { base, subject, folder, study, .. } = run;
    let place = folder.display();
    let reference = subject.photos.first().context("the subject has no photo")?.square(manifest.side as u32);
    let (all, called) = (manifest.settings.training.steps, manifest.called());
    let mut trainer = Trainer::new(base, method, folder, manifest, reference)?;
    match trainer.steps() {
        0 => {}
        taken => observer.info(&format!("Going on after step {taken}")),
    }
    observer.begin("Training", all, trainer.steps());
    let mut first = true;
    trainer.run(|event| {
        match event {
            Event::Step(record, names) => {
                let losses = names.iter().zip(&record.losses).filter_map(|(name, loss)| Some((*name, (*loss)?)));
                observer.advance(1, &losses.collect::<Vec<_>>());
            }
            Event::Saved if study.is_none() && std::mem::take(&mut first) => {
                remember(LAST_ADAPTER, folder, observer);
                observer.info(&format!("Watch it on {place}/{PAGE}"));
            }
            Event::Saved | Event::Drawing => {}
            Event::Preview(path) => observer.tell(super::Note::Picture(path)),
        }
        Ok(if observer.stopped() { Next::Stop } else { Next::Continue })
    })?;
    observer.end();
    let steps = trainer.steps();
    if steps < all {
        let typed = typed(folder);
        observer.info(&format!("Stopped after step {steps} of {all}. Go on with: eqdiff train --resume --out {typed}"));
        return Ok(Trained { folder: folder.to_path_buf(), finished: false });
    }
    Ok(ended(run, &called, observer))
}

/// Says where the adapter is, which is the one to draw with now.
fn ended(run: &Run, called: &str, observer: &mut dyn Observer) -> Trained {
    let (place, typed) = (run.folder.display(), typed(run.folder));
    if run.study.is_none() {
        remember(LAST_ADAPTER, run.folder, observer);
    }
    observer.info(&format!("Adapter: {place}  (losses and previews: {place}/{PAGE})"));
    observer.info(&format!("Draw with: eqdiff sample --adapter {typed} --prompt \"{called} in van gogh style\""));
    Trained { folder: run.folder.to_path_buf(), finished: true }
}

/// What was given, and the method of the settings makes nothing of.
fn without_effect(settings: &Settings, subject: &Subject, memory: Budget) -> Vec<String> {
    let method = settings.training.method;
    if method == MethodName::Eqdiff {
        return Vec::new();
    }
    let Settings { fdte, mgdp, rra, cross_attention, .. } = settings;
    let given = [
        ("captions", subject.photos.iter().any(|photo| photo.caption.is_some())),
        ("fdte.enabled", fdte.enabled),
        ("mgdp.mask", mgdp.mask != Guidance::Off),
        ("rra.enabled", rra.enabled),
        ("cross_attention.loss_weight", cross_attention.loss_weight > 0.),
        ("--memory", method == MethodName::DreamBooth && memory != Budget::Auto),
    ];
    let given = given.into_iter().filter(|(_, given)| *given);
    given.map(|(what, _)| format!("{what}: no effect on this method")).collect()
}

/// The token that the vector of a method which has one starts from.
pub(super) fn first_token(base: &Base, settings: &Settings, class: &str) -> Result<u32> {
    textual_inversion::init_token(base, &settings.fdte.init_word, class).context("fdte.init_word")
}

/// What is kept of the user's class images.
pub(super) fn own_images(folder: &Path, side: usize) -> Result<OwnImages> {
    Ok(OwnImages { folder: std::path::absolute(folder)?, digest: digest_of(&class_images::from_folder(folder, side)?) })
}

/// Tells class images from others.
fn digest_of(images: &[RgbImage]) -> String {
    let mut hash = Sha256::new();
    images.iter().for_each(|image| hash.update(image.as_raw()));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// The user's class images, or those that the base draws and that are kept in a folder of their own, or none.
fn class_images(run: &Run, manifest: &Manifest, observer: &mut dyn Observer) -> Result<Vec<RgbImage>> {
    let &Run { base, machine, study, .. } = run;
    let (settings, side) = (&manifest.settings, manifest.side);
    if let Some(own) = &manifest.class_images {
        let images = class_images::from_folder(&own.folder, side)
            .context("the class images of this training (--class-images says where they are now)")?;
        if digest_of(&images) != own.digest {
            bail!("the class images in {} are not those that the training began with", own.folder.display());
        }
        return Ok(images);
    }
    if settings.prior.class_images == 0 {
        return Ok(Vec::new());
    }
    let asked = Asked::new(base, &manifest.class, side, settings);
    // a training that goes on from another folder finds those beside its adapter
    let here = study.unwrap_or(Path::new(OUTPUTS)).join(CLASS_IMAGES);
    let beside = run.folder.with_file_name(CLASS_IMAGES);
    let mut folder = asked.folder(&here)?;
    if !folder.is_dir() && asked.folder(&beside)?.is_dir() {
        folder = asked.folder(&beside)?;
    }
    let (mut begun, mut waits) = (0, false);
    let (name, precision) = (base.name.as_str(), Some(base.precision));
    let again = |card: usize| -> Result<Set> {
        let machine = Machine { precision, ..machine.on_card(card) };
        Ok(Set { base: Rc::new(machine.base(name, &mut Nobody)?), learned: Box::new(BaseAlone) })
    };
    let cards = machine.other_cards(base);
    let others: (&[usize], &Open) = (&cards, &again);
    let count = settings.prior.class_images;
    let images = class_images::generated(base, others, &folder, &asked, count, |course| match course {
        Course::Drawn { done, all } => {
            if begun == 0 {
                observer.begin("Class images", all, 0);
            }
            let more = done - begun;
            begun = done;
            observer.go_on(more)
        }
        Course::Waits => {
            if !std::mem::replace(&mut waits, true) {
                observer
                    .info(&format!("Another process draws the class images in {}: waiting for it", folder.display()));
            }
            if observer.stopped() { bail!(Interrupted) } else { Ok(()) }
        }
        Course::Lost(text) => {
            observer.warn(text);
            Ok(())
        }
    })?;
    if begun > 0 {
        observer.end();
    }
    observer.info(&format!("Class images: {} in {}", images.len(), folder.display()));
    Ok(images)
}
