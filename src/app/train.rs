//! Training: photos and masks in, an adapter out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::{DynamicImage, RgbImage};
use sha2::{Digest, Sha256};

use super::mask::{Way, with_maker};
use super::places::{LAST_ADAPTER, LAST_TRAINING, OUTPUTS, remember};
use super::{Interrupted, Machine, Observer, Usage};
use crate::adapter::{MANIFEST, Manifest, OwnImages};
use crate::base::{Base, MINI};
use crate::files::{self, Lock, make_folder, write_whole};
use crate::images;
use crate::images::png::save_png;
use crate::method::custom_diffusion::{CustomDiffusion, Published};
use crate::method::dreambooth::{self, DreamBooth};
use crate::method::eqdiff::data::{self, Data};
use crate::method::eqdiff::{EqDiff, init_token};
use crate::method::pictures::Pictures;
use crate::method::textual_inversion::{self, TextualInversion};
use crate::method::{Method, MethodName};
use crate::model::tokenizer::PLACEHOLDER;
use crate::sampling::samplers::sampler;
use crate::settings::{Layers, Settings};
use crate::subject::{self, Crop, Subject};
use crate::training::budget::{Budget, MemoryPlan};
use crate::training::class_images::{self, Asked};
use crate::training::{Event, Next, Trainer};

/// What to train, on what, and where to. What is not given is found or has a default.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff train --help`
pub struct Request {
    pub subject: Option<String>,
    pub images: Option<PathBuf>,
    pub masks: Option<PathBuf>,
    pub auto_mask: Option<Way>,
    pub class: Option<String>,
    pub invert_masks: bool,
    pub crop: Crop,
    pub base: Option<String>,
    pub preset: Option<String>,
    pub config: Option<PathBuf>,
    pub overrides: Overrides,
    pub class_images: Option<PathBuf>,
    pub out: Option<PathBuf>,
    pub memory: Budget,
    /// The folder of the study that it is a part of: class images are kept there, and it is nobody's last training.
    pub study: Option<PathBuf>,
    pub machine: Machine,
}

/// Settings that were typed one by one.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Overrides {
    pub steps: Option<usize>,
    pub batch_size: Option<usize>,
    pub learning_rate: Option<f64>,
    pub seed: Option<u64>,
    pub class_images: Option<usize>,
}

impl Overrides {
    /// As a layer of settings.
    ///
    /// # Errors
    /// [`Usage`] if a number is larger than any of TOML.
    pub fn toml(&self) -> Result<String> {
        let whole = [
            ("training.steps", self.steps.map(|n| n as u64)),
            ("training.batch_size", self.batch_size.map(|n| n as u64)),
            ("training.seed", self.seed),
            ("prior.class_images", self.class_images.map(|n| n as u64)),
        ];
        let mut lines = String::new();
        for (key, value) in whole.into_iter().filter_map(|(key, value)| Some((key, value?))) {
            if value > i64::MAX as u64 {
                bail!(Usage(format!("{key} = {value}: at most {}", i64::MAX)));
            }
            lines += &format!("{key} = {value}\n");
        }
        if let Some(rate) = self.learning_rate {
            lines += &format!("training.learning_rate = {}\n", format!("{rate:?}").to_lowercase()); // nan, not NaN
        }
        Ok(lines)
    }
}

/// How a training ended.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The adapter's folder.
    pub folder: PathBuf,
    /// Whether all steps were taken; if not, the user stopped it and it can go on.
    pub finished: bool,
}

/// The preset of a request that names none.
pub const PRESET: &str = "eqdiff";

/// Trains from the beginning.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if something cannot be read, computed or written.
pub fn train(request: &Request, observer: &mut dyn Observer) -> Result<Trained> {
    // before the subject where the base looks for it, else after: a missing photo shall be told at once
    let name = request.base.as_deref().unwrap_or(MINI);
    let early = match request.auto_mask {
        Some(Way::Attention) => Some(request.machine.base(name, observer)?),
        _ => None,
    };
    let asked = asked(request, early.as_ref(), observer)?;
    let base = match early {
        Some(base) => base,
        None => request.machine.base(name, observer)?,
    };
    begin_on(&base, request, asked, observer)
}

/// Trains from the beginning on a base that is loaded already.
///
/// # Errors
/// As [`train`].
pub(super) fn train_on(base: &Base, request: &Request, observer: &mut dyn Observer) -> Result<Trained> {
    let asked = asked(request, Some(base), observer)?;
    begin_on(base, request, asked, observer)
}

/// What a request asks for; only masks may need the base.
fn asked(request: &Request, base: Option<&Base>, observer: &mut dyn Observer) -> Result<(Settings, Subject)> {
    let settings = settings(request, request.base.as_deref().unwrap_or(MINI))?;
    if let Some(out) = &request.out {
        check_free(out)?;
    }
    let subject = match request.auto_mask {
        None => find_subject(request)?,
        Some(_) => with_maker(base, observer, |maker| subject::find_or_make(&wanted(request)?, maker))?,
    };
    introduce(&subject, observer);
    if let Some(folder) = &request.class_images {
        images::list(folder)?.warnings().iter().for_each(|warning| observer.warn(warning));
    }
    Ok((settings, subject))
}

fn begin_on(
    base: &Base,
    request: &Request,
    (settings, subject): (Settings, Subject),
    observer: &mut dyn Observer,
) -> Result<Trained> {
    let side = if settings.training.side == 0 { base.side() } else { settings.training.side };
    check(base, &settings, &subject, side)?;
    if settings.training.method == MethodName::TextualInversion && request.class_images.is_some() {
        bail!(Usage("--class-images: Textual Inversion has no prior preservation".into()));
    }
    request.machine.warn_of_words([subject.class.as_str()].into_iter(), base, observer)?;
    let manifest = Manifest {
        version: env!("CARGO_PKG_VERSION").into(),
        placeholder: PLACEHOLDER.into(),
        subject: subject.name.clone(),
        class: subject.class.clone(),
        photos: subject.digest(),
        base: lasting_name(&base.name),
        fingerprint: base.fingerprint.clone(),
        side,
        steps: 0,
        imported: Vec::new(),
        dtype: base.precision.to_string(),
        preset: request.preset.clone().unwrap_or(PRESET.into()),
        class_images: request.class_images.as_deref().map(|folder| own_images(folder, side)).transpose()?,
        settings,
    };
    // what opening would refuse, now rather than after the training
    manifest.check().map_err(|error| Usage(format!("{error:#}")))?;
    let (folder, lock) = begin(request.out.as_deref(), &subject, &manifest)?;
    let study = request.study.as_deref();
    if study.is_none() {
        remember(LAST_TRAINING, &folder, observer);
    }
    let run = Run { base, subject: &subject, folder: &folder, memory: request.memory, study, _lock: lock };
    self::run(&run, manifest, observer)
}

/// Whether a training is the one that a request asks for.
///
/// # Errors
/// If the request makes no sense.
pub fn is_asked_for(manifest: &Manifest, request: &Request) -> Result<bool> {
    let name = request.base.as_deref().unwrap_or(MINI);
    let subject = find_subject(request)?;
    let dtype = request.machine.precision.unwrap_or_default().to_string();
    let asked = (lasting_name(name), subject.digest(), dtype, settings(request, name)?);
    Ok((&manifest.base, &manifest.photos, &manifest.dtype, &manifest.settings)
        == (&asked.0, &asked.1, &asked.2, &asked.3))
}

/// The subject that a request asks for.
///
/// # Errors
/// As [`subject::find`].
pub fn find_subject(request: &Request) -> Result<Subject> {
    subject::find(&wanted(request)?)
}

fn wanted(request: &Request) -> Result<subject::Request<'_>> {
    let Some(name) = &request.subject else { bail!(Usage("give --subject".into())) };
    Ok(subject::Request {
        subject: name,
        images: request.images.as_deref(),
        masks: request.masks.as_deref(),
        class: request.class.as_deref(),
        invert_masks: request.invert_masks,
        crop: request.crop,
    })
}

/// Says what was found, and what is odd about it.
fn introduce(subject: &Subject, observer: &mut dyn Observer) {
    observer.info(&format!("Subject: {}, a {}", subject.name, subject.class));
    observer.info(&subject.summary());
    for warning in &subject.warnings {
        observer.warn(warning);
    }
}

/// What was typed over file over preset over the base's own settings over the defaults.
fn settings(request: &Request, base: &str) -> Result<Settings> {
    let mut layers = Layers::new()?;
    if let Some(toml) = Base::defaults(base, request.machine.offline)? {
        layers = layers.over(&toml, &format!("eqdiff.toml of the base {base}"))?;
    }
    layers = layers.preset(request.preset.as_deref().unwrap_or(PRESET))?;
    if let Some(path) = &request.config {
        layers = layers.file(path)?;
    }
    let typed = |layers: Layers| layers.over(&request.overrides.toml()?, "the command line")?.settings();
    typed(layers).map_err(|e| Usage(format!("{e:#}")).into())
}

/// Finds out now what would fail after hours.
fn check(base: &Base, settings: &Settings, subject: &Subject, side: usize) -> Result<()> {
    crate::sampling::latent_size(base, (side, side)).context("training.side")?;
    let (sampling, prior) = (&settings.sampling, &settings.prior);
    for (name, steps, setting) in
        [(sampling.sampler, sampling.steps, "sampling.steps"), (prior.sampler, prior.class_steps, "prior.class_steps")]
    {
        sampler(name, &base.scheduler, steps).map_err(|e| Usage(format!("{setting}: {e}")))?;
    }
    if settings.training.method != MethodName::Eqdiff {
        return first_token(base, settings, &subject.class).map(|_| ());
    }
    init_token(base, &settings.fdte, &subject.class).context("fdte.init_word")?;
    let looks = settings.rra.enabled && settings.rra.loss_weight > 0. || settings.cross_attention.loss_weight > 0.;
    if looks && base.unit() / base.vae.factor() < 4 {
        let text = "rra.loss_weight and cross_attention.loss_weight must be 0: their maps have a quarter of the latents' \
                    side, and this base's UNet has no such level";
        bail!(Usage(text.into()));
    }
    // the losses look at maps of a quarter of the latents' side
    subject.check_at(side / base.vae.factor())?;
    Ok(())
}

/// The token that the vector of a method which has one starts from.
fn first_token(base: &Base, settings: &Settings, class: &str) -> Result<u32> {
    textual_inversion::init_token(base, &settings.fdte.init_word, class).context("fdte.init_word")
}

/// A folder's whole path, so that a training goes on from wherever it is called; other names as they are.
pub(super) fn lasting_name(base: &str) -> String {
    match Path::new(base).exists() {
        true => std::path::absolute(base).map_or_else(|_| base.into(), |path| path.display().to_string()),
        false => base.into(),
    }
}

fn own_images(folder: &Path, side: usize) -> Result<OwnImages> {
    Ok(OwnImages { folder: std::path::absolute(folder)?, digest: digest_of(&class_images::from_folder(folder, side)?) })
}

/// Tells class images from others.
fn digest_of(images: &[RgbImage]) -> String {
    let mut hash = Sha256::new();
    images.iter().for_each(|image| hash.update(image.as_raw()));
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a training can begin in a folder: nothing of anybody's is there.
fn check_free(out: &Path) -> Result<()> {
    if out.join(MANIFEST).exists() {
        bail!(Usage(format!(
            "{} holds an adapter already: give another --out, or --resume to go on with it",
            out.display()
        )));
    }
    if out.exists() && !(out.is_dir() && files::is_empty(out)?) {
        bail!(Usage(format!("{} is not an empty folder: give another --out", out.display())));
    }
    Ok(())
}

/// Makes the training's folder, with the photos and what was asked for in it. It appears as a whole: whoever finds it
/// can go on with it.
fn begin(out: Option<&Path>, subject: &Subject, manifest: &Manifest) -> Result<(PathBuf, Lock)> {
    let default = Path::new(OUTPUTS).join(&subject.name);
    let wanted = out.unwrap_or(&default);
    let staged = files::stage_folder(wanted)?;
    keep_photos(subject, staged.path())?;
    write_whole(&staged.path().join(MANIFEST), manifest.toml()?.as_bytes())?;
    let lock = Lock::take(staged.path())?.context("a folder that nobody knows is in use")?;
    let folder = match out {
        Some(out) => {
            staged.place(out)?.with_context(|| Usage(format!("another training began in {}", out.display())))?
        }
        None => staged.place_beside(&default)?,
    };
    Ok((folder, lock))
}

/// Sampling and evaluation look at the photos, so the adapter brings them along.
pub(super) fn keep_photos(subject: &Subject, folder: &Path) -> Result<()> {
    let (photos, masks) = (folder.join("photos"), folder.join("masks"));
    make_folder(&photos)?;
    make_folder(&masks)?;
    for (i, photo) in subject.photos.iter().enumerate() {
        save_png(&photos.join(format!("{i:02}.png")), &photo.image, &[])?;
        let mask = DynamicImage::ImageLuma8(photo.mask.clone()).to_rgb8();
        save_png(&masks.join(format!("{i:02}.png")), &mask, &[])?;
    }
    Ok(())
}

/// A training whose folder is there.
pub struct Run<'a> {
    /// The base.
    pub base: &'a Base,
    /// The subject.
    pub subject: &'a Subject,
    /// The adapter's folder.
    pub folder: &'a Path,
    /// The memory that it may take.
    pub memory: Budget,
    /// See [`Request::study`].
    pub study: Option<&'a Path>,
    /// Held as long as it runs.
    pub _lock: Lock,
}

/// Trains from where the folder stands to the end, or until the user stops it.
///
/// # Errors
/// If something cannot be read, computed or written.
pub fn run(run: &Run, manifest: Manifest, observer: &mut dyn Observer) -> Result<Trained> {
    let place = run.folder.display();
    let first = manifest.steps + 1;
    match steps(run, manifest, observer) {
        Err(error) if error.is::<Interrupted>() => {
            observer.info(&format!("Stopped before step {first}. Go on with: eqdiff train --resume --out {place}"));
            Ok(Trained { folder: run.folder.to_path_buf(), finished: false })
        }
        done => done,
    }
}

fn steps(run: &Run, manifest: Manifest, observer: &mut dyn Observer) -> Result<Trained> {
    let Run { base, subject, memory, study, .. } = run;
    let (settings, side, class) = (&manifest.settings, manifest.side, manifest.class.as_str());
    let (batch_size, seed) = (settings.training.batch_size, settings.training.seed);
    let kept = study.unwrap_or(Path::new(OUTPUTS)).join("class-images");
    let class_images = class_images(base, &manifest, &kept, observer)?;
    let samples = batch_size * if class_images.is_empty() { 1 } else { 2 };
    let plan = MemoryPlan::new(&base.unet, side / base.vae.factor(), samples, *memory);
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
            let method = CustomDiffusion::new(base, pictures(class_images), [class, &prompt], options)?;
            by_method(run, method, manifest, observer)
        }
        MethodName::DreamBooth => {
            let text_encoder = settings.dreambooth.text_encoder;
            let values: usize =
                dreambooth::shapes(base, text_encoder)?.values().map(|s| s.iter().product::<usize>()).sum();
            // weights, gradients and two moments of four bytes each
            let mib = values * 16 / (1 << 20);
            observer.info(&format!("Memory: {values} values are trained, {mib} MiB beside a step's activations"));
            let options = dreambooth::Options { text_encoder, prior_weight: settings.prior.weight, batch_size, seed };
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
    let all = manifest.settings.training.steps;
    let mut trainer = Trainer::new(base, method, folder, manifest, reference)?;
    match trainer.steps() {
        0 => {}
        taken if taken >= all => {
            observer.info(&format!("{taken} steps are taken already: more need --steps above that"))
        }
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
            Event::Saved if study.is_none() && std::mem::take(&mut first) => remember(LAST_ADAPTER, folder, observer),
            Event::Saved | Event::Drawing => {}
            Event::Preview(path) => observer.tell(super::Note::Picture(path)),
        }
        Ok(if observer.stopped() { Next::Stop } else { Next::Continue })
    })?;
    observer.end();
    let trained = Trained { folder: folder.to_path_buf(), finished: trainer.steps() >= all };
    if trained.finished {
        observer.info(&format!("Adapter: {place}  (loss curve: {place}/loss.png, previews: {place}/previews)"));
        let class = &subject.class;
        observer.info(&format!("Draw with: eqdiff sample --prompt \"{PLACEHOLDER} {class} in van gogh style\""));
    } else {
        let steps = trainer.steps();
        observer.info(&format!("Stopped after step {steps} of {all}. Go on with: eqdiff train --resume --out {place}"));
    }
    Ok(trained)
}

/// The user's class images, or those that the base draws and that are kept in a folder of their own in `kept`, or none.
fn class_images(base: &Base, manifest: &Manifest, kept: &Path, observer: &mut dyn Observer) -> Result<Vec<RgbImage>> {
    let (settings, side) = (&manifest.settings, manifest.side);
    if let Some(own) = &manifest.class_images {
        let images = class_images::from_folder(&own.folder, side).context("the class images of this training")?;
        if digest_of(&images) != own.digest {
            bail!("the class images in {} are not those that the training began with", own.folder.display());
        }
        return Ok(images);
    }
    if settings.prior.class_images == 0 {
        return Ok(Vec::new());
    }
    let asked = Asked::new(base, &manifest.class, side, settings);
    let folder = asked.folder(kept)?;
    let mut begun = 0;
    let images = class_images::generated(base, &folder, &asked, settings.prior.class_images, |done, all| {
        if done == 0 {
            return if observer.stopped() { bail!(Interrupted) } else { Ok(()) }; // another process draws
        }
        if begun == 0 {
            observer.begin("Class images", all, 0);
        }
        let more = done - begun;
        begun = done;
        observer.go_on(more)
    })?;
    if begun > 0 {
        observer.end();
    }
    observer.info(&format!("Class images: {} in {}", images.len(), folder.display()));
    Ok(images)
}
