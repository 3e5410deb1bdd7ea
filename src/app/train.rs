//! Training: photos and masks in, an adapter out.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use image::DynamicImage;

use super::mask::{Way, with_maker};
use super::places::{LAST_TRAINING, OUTPUTS, remember};
pub use super::steps::Trained;
use super::steps::{self, Run, first_token, own_images};
use super::{Machine, Observer, Usage};
use crate::adapter::{MANIFEST, Manifest};
use crate::base::{Base, Folder, MINI};
use crate::files::{self, Lock, make_folder, write_whole};
use crate::images;
use crate::images::png::save_png;
use crate::method::MethodName;
use crate::method::dreambooth::check_identifier;
use crate::method::eqdiff::init_token;
use crate::model::tokenizer::PLACEHOLDER;
use crate::sampling::samplers::sampler;
use crate::settings::{Layers, Settings};
use crate::subject::{self, Crop, Subject};
use crate::training::budget::Budget;

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
        None => find_subject(request, &settings)?,
        Some(_) => with_maker(base, observer, |maker| subject::find_or_make(&wanted(request, &settings)?, maker))?,
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
    let (memory, machine) = (request.memory, &request.machine);
    let run = Run { base, subject: &subject, folder: &folder, memory, machine, study, _lock: lock };
    steps::run(&run, manifest, observer)
}

/// Whether a training is the one that a request asks for.
///
/// # Errors
/// If the request makes no sense.
pub fn is_asked_for(manifest: &Manifest, request: &Request) -> Result<bool> {
    let name = request.base.as_deref().unwrap_or(MINI);
    let settings = settings(request, name)?;
    let subject = find_subject(request, &settings)?;
    let dtype = request.machine.precision().to_string();
    let asked = (lasting_name(name), subject.digest(), dtype, settings);
    Ok((&manifest.base, &manifest.photos, &manifest.dtype, &manifest.settings)
        == (&asked.0, &asked.1, &asked.2, &asked.3))
}

/// The subject that a request asks for, to be trained with those settings.
///
/// # Errors
/// As [`subject::find`].
pub fn find_subject(request: &Request, settings: &Settings) -> Result<Subject> {
    subject::find(&wanted(request, settings)?)
}

fn wanted<'a>(request: &'a Request, settings: &Settings) -> Result<subject::Request<'a>> {
    let Some(name) = &request.subject else { bail!(Usage("give --subject".into())) };
    Ok(subject::Request {
        subject: name,
        images: request.images.as_deref(),
        masks: request.masks.as_deref(),
        class: request.class.as_deref(),
        invert_masks: request.invert_masks,
        crop: request.crop,
        // who says something of masks has them
        whole: !settings.uses_masks() && request.masks.is_none() && !request.invert_masks && request.crop == Crop::None,
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
    match settings.training.method {
        MethodName::Eqdiff => {}
        MethodName::DreamBooth => {
            let known = check_identifier(base, &settings.dreambooth.identifier);
            return known.map_err(|e| Usage(format!("dreambooth.identifier: {e}")).into());
        }
        _ => return first_token(base, settings, &subject.class).map(|_| ()),
    }
    init_token(base, &settings.fdte, &subject.class).context("fdte.init_word")?;
    if settings.sees_attention() && base.unit() / base.vae.factor() < 4 {
        let text = "rra.loss_weight and cross_attention.loss_weight must be 0: their maps have a quarter of the latents' \
                    side, and this base's UNet has no such level";
        bail!(Usage(text.into()));
    }
    // the losses look at maps of a quarter of the latents' side
    subject.check_at(side / base.vae.factor())?;
    Ok(())
}

/// The whole path of a base on disk, so that a training goes on from wherever it is called; other names as they are, also
/// where a folder happens to be called so.
pub(super) fn lasting_name(base: &str) -> String {
    match Folder::find(base, true) {
        Ok(Folder::Disk(path) | Folder::Single(path)) => {
            std::path::absolute(path).map_or_else(|_| base.into(), |path| path.display().to_string())
        }
        _ => base.into(),
    }
}

/// Whether a training can begin in a folder: nothing of anybody's is there.
fn check_free(out: &Path) -> Result<()> {
    let free = files::is_free(out)?;
    if out.join(MANIFEST).exists() {
        bail!(Usage(format!(
            "{} holds an adapter already: give another --out, or --resume to go on with it",
            out.display()
        )));
    }
    if !free {
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
        if let Some(caption) = &photo.caption {
            write_whole(&photos.join(format!("{i:02}.txt")), caption.as_bytes())?;
        }
    }
    Ok(())
}
