//! `eqdiff train`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use image::RgbImage;

use super::{MachineArgs, OUTPUTS, Outcome, Usage, fresh_folder, last_file, make_folder, ui};
use crate::adapter::{Adapter, Manifest};
use crate::base::{Base, MINI};
use crate::files::write_whole;
use crate::images::png::save_png;
use crate::model::tokenizer::PLACEHOLDER;
use crate::settings::{Layers, PRESETS, Settings};
use crate::subject::{self, Subject};
use crate::training::budget::{Budget, Plan};
use crate::training::log::{Record, TERMS};
use crate::training::{Data, Next, Trainer, class_images, data};

const EXAMPLES: &str = "\
Examples:
  eqdiff train --subject dog --masks masks/
  eqdiff train --subject photos/my_teapot --class teapot --base sd14 --device cuda
  eqdiff train --resume                       go on where the last training stopped
  eqdiff train --subject dog --preset paper --steps 300 --out outputs/dog-paper";

/// Arguments of `train`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct TrainArgs {
    /// The subject: a folder of photos, or a name looked up here, in subjects/ and among the bundled ones
    #[arg(long, value_name = "NAME_OR_DIR", required_unless_present = "resume")]
    pub subject: Option<String>,
    /// Where the photos are, if not in the subject's folder
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,
    /// Masks (white = subject): NAME.png beside NAME.jpg's name, or NAME/anything.jpg; found by itself if
    /// it is masks/ or seg_masks/
    #[arg(long, value_name = "DIR")]
    pub masks: Option<PathBuf>,
    /// The ordinary noun for the subject, e.g. dog [default: from the folder's name]
    #[arg(long, value_name = "WORD")]
    pub class: Option<String>,
    /// mini (embedded), sd14, OWNER/NAME of the Hugging Face hub, or a directory in the diffusers layout
    #[arg(long, default_value = MINI)]
    pub base: String,
    /// eqdiff, paper, or the paper's ablations a to f
    #[arg(long, value_parser = PRESETS.map(|(name, _)| name), default_value = "eqdiff")]
    pub preset: String,
    /// A TOML file with settings (configs/eqdiff.toml has all of them, with comments)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Training steps
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Photos per step; as many class images come with them
    #[arg(long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// Learning rate
    #[arg(long, value_name = "X")]
    pub lr: Option<f64>,
    /// The same seed gives the same adapter
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Class images for prior preservation from this folder instead of drawing them
    #[arg(long, value_name = "DIR")]
    pub class_images: Option<PathBuf>,
    /// How many class images to draw (0: train without)
    #[arg(long, value_name = "N", conflicts_with = "class_images")]
    pub num_class_images: Option<usize>,
    /// Where the adapter goes [default: outputs/SUBJECT]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Memory to train in: auto (what is free) or GiB for the whole program; with little, a step computes
    /// the inside of its blocks twice
    #[arg(long, value_name = "auto|N", default_value = "auto")]
    pub memory: Budget,
    /// Go on with the training in --out, or with the last one
    #[arg(long)]
    pub resume: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Trains, or goes on.
pub fn run(args: &TrainArgs) -> Result<Outcome> {
    let (outcome, _) = if args.resume { resume(args)? } else { fresh(args)? };
    Ok(outcome)
}

/// Trains from the beginning; also gives the adapter's folder.
pub fn fresh(args: &TrainArgs) -> Result<(Outcome, PathBuf)> {
    let settings = settings(args, Base::defaults(&args.base, args.machine.offline)?)?;
    let Some(name) = &args.subject else { bail!(Usage("give --subject".into())) };
    let subject = subject::find(&subject::Request {
        subject: name,
        images: args.images.as_deref(),
        masks: args.masks.as_deref(),
        class: args.class.as_deref(),
        ..subject::Request::default()
    })?;
    report(&subject);
    let base = args.machine.base(&args.base)?;
    let folder = match &args.out {
        Some(out) if out.join("adapter.toml").exists() => bail!(Usage(format!(
            "{} holds an adapter already: give another --out, or --resume to go on with it",
            out.display()
        ))),
        Some(out) => out.clone(),
        None => fresh_folder(&Path::new(OUTPUTS).join(&subject.name)),
    };
    let side = if settings.training.side == 0 { base.side() } else { settings.training.side };
    crate::sampling::latent_size(&base, (side, side)).context("training.side")?;
    make_folder(&folder)?;
    keep_photos(&subject, &folder)?;
    let manifest = Manifest {
        version: env!("CARGO_PKG_VERSION").into(),
        placeholder: PLACEHOLDER.into(),
        subject: subject.name.clone(),
        class: subject.class.clone(),
        photos: subject.digest(),
        base: base.name.clone(),
        fingerprint: base.fingerprint.clone(),
        side,
        steps: 0,
        settings,
    };
    train(args, &base, &subject, &folder, manifest, false)
}

fn resume(args: &TrainArgs) -> Result<(Outcome, PathBuf)> {
    let folder = super::adapter_folder(args.out.as_deref())?;
    let adapter = Adapter::open(&folder)?;
    let subject = crate::app::page::subject(&adapter)?;
    let mut manifest = adapter.manifest;
    if let Some(steps) = args.steps {
        manifest.settings.training.steps = steps;
    }
    if subject.digest() != manifest.photos {
        bail!("the photos or masks in {} are not those that the training began with", folder.display());
    }
    let base = args.machine.base(&manifest.base)?;
    if base.fingerprint != manifest.fingerprint {
        bail!("the base {} has changed since the training in {} began", manifest.base, folder.display());
    }
    train(args, &base, &subject, &folder, manifest, true)
}

fn train(
    args: &TrainArgs,
    base: &Base,
    subject: &Subject,
    folder: &Path,
    manifest: Manifest,
    resume: bool,
) -> Result<(Outcome, PathBuf)> {
    let settings = manifest.settings.clone();
    let side = manifest.side;
    let class_images = class_images(args, base, &manifest.class, side, &settings)?;
    let bar = ui::bar("Encoding images", data::encodings(subject, class_images.len(), &settings));
    let data = Data::encode(base, subject, &class_images, &settings, side, || ui::advance(&bar, 1))?;
    bar.finish();

    let reference = subject.photos.first().context("the subject has no photo")?.square(side as u32);
    let samples = settings.training.batch_size * if class_images.is_empty() { 1 } else { 2 };
    let plan = Plan::new(&base.unet, side / base.vae.factor(), samples, args.memory);
    eprintln!("{plan}");
    let mut trainer = Trainer::new(base, &data, folder, manifest, reference, plan.keep, resume)?;
    let steps = settings.training.steps;
    if trainer.steps() > 0 {
        eprintln!("Going on after step {}", trainer.steps());
    }
    write_whole_last(folder)?;
    let bar = ui::bar("Training", steps);
    bar.set_position(trainer.steps() as u64);
    bar.reset_eta();
    trainer.run(|record| {
        bar.inc(1);
        bar.set_message(format!("Training {}", losses(record)));
        if ui::stopped() { Next::Stop } else { Next::Continue }
    })?;
    bar.finish();
    let place = folder.display();
    if trainer.steps() < steps {
        eprintln!("Stopped after step {} of {steps}. Go on with: eqdiff train --resume --out {place}", trainer.steps());
        return Ok((Outcome::Interrupted, folder.to_path_buf()));
    }
    eprintln!("Adapter: {place}  (loss curve: {place}/loss.png, previews: {place}/previews)");
    eprintln!("Draw with: eqdiff sample --prompt \"{PLACEHOLDER} {} in van gogh style\"", subject.class);
    Ok((Outcome::Done, folder.to_path_buf()))
}

/// Command line over file over preset over the base's own settings over the defaults.
fn settings(args: &TrainArgs, of_base: Option<String>) -> Result<Settings> {
    let mut layers = Layers::new()?;
    if let Some(toml) = of_base {
        layers = layers.over(&toml, &format!("eqdiff.toml of the base {}", args.base))?;
    }
    layers = layers.preset(&args.preset)?;
    if let Some(path) = &args.config {
        layers = layers.file(path)?;
    }
    let mut typed = String::new();
    let mut add = |section: &str, key: &str, value: Option<String>| {
        if let Some(value) = value {
            typed += &format!("{section}.{key} = {value}\n");
        }
    };
    add("training", "steps", args.steps.map(|n| n.to_string()));
    add("training", "batch_size", args.batch_size.map(|n| n.to_string()));
    add("training", "learning_rate", args.lr.map(|x| format!("{x:?}")));
    add("training", "seed", args.seed.map(|n| n.to_string()));
    add("prior", "class_images", args.num_class_images.map(|n| n.to_string()));
    let layers = layers.over(&typed, "the command line")?;
    layers.settings().map_err(|e| Usage(format!("{e:#}")).into())
}

fn class_images(args: &TrainArgs, base: &Base, class: &str, side: usize, settings: &Settings) -> Result<Vec<RgbImage>> {
    if let Some(folder) = &args.class_images {
        return class_images::from_folder(folder, side);
    }
    if settings.prior.class_images == 0 {
        return Ok(Vec::new());
    }
    let folder = class_images::folder(&Path::new(OUTPUTS).join("class-images"), base, class, side);
    let bar = ui::bar("Class images", 0);
    let images = class_images::generated(base, &folder, class, side, settings, |done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        ui::advance(&bar, 0)
    })?;
    bar.finish_and_clear();
    eprintln!("Class images: {} in {}", images.len(), folder.display());
    Ok(images)
}

fn report(subject: &Subject) {
    eprintln!("Subject: {}, a {}", subject.name, subject.class);
    eprintln!("{}", subject.summary());
    for warning in &subject.warnings {
        eprintln!("Warning: {warning}");
    }
}

/// Sampling and evaluation look at the photos, so the adapter brings them along.
fn keep_photos(subject: &Subject, folder: &Path) -> Result<()> {
    let (photos, masks) = (folder.join("photos"), folder.join("masks"));
    make_folder(&photos)?;
    make_folder(&masks)?;
    for (i, photo) in subject.photos.iter().enumerate() {
        save_png(&photos.join(format!("{i:02}.png")), &photo.image, &[])?;
        let mask = image::DynamicImage::ImageLuma8(photo.mask.clone()).to_rgb8();
        save_png(&masks.join(format!("{i:02}.png")), &mask, &[])?;
    }
    Ok(())
}

fn write_whole_last(folder: &Path) -> Result<()> {
    make_folder(Path::new(OUTPUTS))?;
    let full = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
    write_whole(&last_file(), full.display().to_string().as_bytes())
}

fn losses(record: &Record) -> String {
    let shown = TERMS.iter().zip(record.losses).filter_map(|(name, loss)| Some(format!("{name} {:.3}", loss?)));
    shown.collect::<Vec<_>>().join(" ")
}
