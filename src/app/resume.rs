//! Going on with a training: what it began with is used again, and what contradicts that is refused.

use anyhow::{Context, Result, bail};

use super::steps::{self, Run, Trained, own_images};
use super::train::{Request, find_subject};
use super::{Machine, Observer, Usage, page, places};
use crate::adapter::{Adapter, MANIFEST, Manifest};
use crate::base::Base;
use crate::files::{Lock, write_whole};
use crate::ops::Precision;
use crate::report::html::check_ours;
use crate::settings::Layers;
use crate::subject::Crop;
use crate::training::PAGE;

/// Goes on with the training in `request.out`, or with the one that began last. A training that was stopped before its
/// first step begins anew.
///
/// # Errors
/// [`Usage`] if the request contradicts what the training began with, else as [`train`](super::train::train).
pub fn resume(request: &Request, observer: &mut dyn Observer) -> Result<Trained> {
    resume_on(None, request, observer)
}

/// The same on a base that is loaded already, if there is one.
///
/// # Errors
/// As [`resume`].
pub(super) fn resume_on(base: Option<&Base>, request: &Request, observer: &mut dyn Observer) -> Result<Trained> {
    let folder = places::training(request.out.as_deref())?;
    Adapter::open(&folder)?;
    let lock = Lock::take(&folder)?;
    let lock = lock.with_context(|| format!("{} is in use: another training writes there", folder.display()))?;
    lock.sweep()?;
    let adapter = Adapter::open(&folder)?; // what another training left meanwhile
    if !adapter.manifest.imported.is_empty() {
        bail!(Usage(format!(
            "{} was imported: there is no training to go on with; begin one with --subject and another --out",
            folder.display()
        )));
    }
    check_ours(&folder.join(PAGE))?; // before the base is loaded
    let subject = page::subject(&adapter)?;
    let mut manifest = adapter.manifest;
    contradictions(request, &manifest)?;
    if let (Some(given), Some(own)) = (&request.class_images, &mut manifest.class_images) {
        own.folder = std::path::absolute(given)?; // the same pictures, wherever they are now
    }
    if let Some(steps) = request.overrides.steps {
        if steps < manifest.steps {
            bail!(Usage(format!("--steps {steps}: {} are taken already", manifest.steps)));
        }
        manifest.settings.training.steps = steps;
        manifest.settings.check().map_err(|error| Usage(format!("{error:#}")))?;
    }
    let machine = Machine { precision: Some(precision(request, &manifest)?), ..request.machine.clone() };
    let loaded = match (base, &request.base) {
        (Some(_), _) => None,
        (None, Some(name)) => Some(machine.base(name, observer)?),
        (None, None) => Some(machine.base_of_adapter(&manifest.base, observer)?),
    };
    let base = base.or(loaded.as_ref()).context("no base")?;
    if base.fingerprint != manifest.fingerprint {
        bail!("the base {} is not the one that the training in {} began with", base.name, folder.display());
    }
    // more steps are wanted whatever happens to this process
    write_whole(&folder.join(MANIFEST), manifest.toml()?.as_bytes())?;
    let study = request.study.as_deref();
    if study.is_none() {
        places::remember(places::LAST_TRAINING, &folder, observer);
    }
    let (memory, machine) = (request.memory, &request.machine);
    let run = Run { base, subject: &subject, folder: &folder, memory, machine, study, _lock: lock };
    steps::run(&run, manifest, observer)
}

/// How weights were kept when the training began; older versions did not write it down.
fn precision(request: &Request, manifest: &Manifest) -> Result<Precision> {
    let Ok(known) = manifest.dtype.parse() else { return Ok(request.machine.precision()) };
    match request.machine.precision {
        Some(given) if given != known => {
            bail!(Usage(format!("--dtype {given}: the training began with {known}; leave it out")))
        }
        _ => Ok(known),
    }
}

/// Whether anything that was given is not what the training began with.
fn contradictions(request: &Request, manifest: &Manifest) -> Result<()> {
    let differs = |option: &str, given: &str, known: &str| {
        let text =
            format!("{option} {given}: the training began with {known}; leave it out, or begin another with --out");
        Err(Usage(text).into())
    };
    if let Some(preset) = request.preset.as_deref().filter(|preset| *preset != manifest.preset)
        && !manifest.preset.is_empty()
    {
        return differs("--preset", preset, &manifest.preset);
    }
    if let Some(class) = request.class.as_deref().filter(|class| class.trim() != manifest.class) {
        return differs("--class", class, &manifest.class);
    }
    let mut given = Layers::of(&manifest.settings)?;
    if let Some(path) = &request.config {
        given = given.file(path)?;
    }
    // over the file, as when the training began: what the file alone says may have been overridden then too
    let given = given.over(&request.overrides.toml()?, "the command line").map_err(|e| Usage(format!("{e:#}")))?;
    let changed = Layers::of(&manifest.settings)?.changes(&given);
    // more steps, or fewer, are what one goes on for
    if let Some((key, given, known)) = changed.into_iter().find(|(key, ..)| key != "training.steps") {
        return differs(&format!("{key} ="), &given, &known);
    }
    match (&request.class_images, &manifest.class_images) {
        // in the same place they are looked at when they are used
        (Some(given), Some(own))
            if std::path::absolute(given)? != own.folder && own_images(given, manifest.side)?.digest != own.digest =>
        {
            let known = format!("other pictures, from {}", own.folder.display());
            return differs("--class-images", &given.display().to_string(), &known);
        }
        (Some(given), None) => return differs("--class-images", &given.display().to_string(), "images of its own"),
        _ => {}
    }
    let names_photos = request.subject.is_some() || request.images.is_some() || request.masks.is_some();
    if !names_photos && (request.invert_masks || request.crop != Crop::None) {
        bail!(Usage(
            "--invert-masks, --crop: this training keeps its photos and masks as it took them: leave it out".into()
        ));
    }
    if names_photos {
        let name = request.subject.clone().unwrap_or_else(|| manifest.subject.clone());
        let named = Request { subject: Some(name.clone()), class: Some(manifest.class.clone()), ..request.clone() };
        let given = find_subject(&named, &manifest.settings)?;
        if given.digest() != manifest.photos {
            let option = match (&request.images, &request.masks) {
                (Some(_), _) => "--images",
                (None, Some(_)) => "--masks",
                (None, None) => "--subject",
            };
            return differs(option, &name, &format!("other photos of {}", manifest.subject));
        }
    }
    Ok(())
}
