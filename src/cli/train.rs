//! `eqdiff train`.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{MachineArgs, Outcome, noun};
use crate::app::Observer;
use crate::app::draw::Seed;
use crate::app::mask::Way;
use crate::app::resume::resume;
use crate::app::train::{Overrides, PRESET, Request, train};
use crate::base::MINI;
use crate::settings::PRESETS;
use crate::subject::Crop;
use crate::training::budget::Budget;

const EXAMPLES: &str = "\
Examples:
  eqdiff train --subject dog --masks masks/
  eqdiff train --subject photos/my_teapot --class teapot --base sd14 --device cuda
  eqdiff train --subject cup --invert-masks --crop subject
  eqdiff train --subject cup --auto-mask    # masks are made
  eqdiff train --resume                     # go on where the last training stopped
  eqdiff train --subject dog --preset paper --steps 300 --out outputs/dog-paper";

/// Arguments of `train`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TrainArgs {
    /// The subject: a folder of photos, or a name looked up here, in subjects/ and among the bundled ones
    #[arg(long, value_name = "NAME_OR_DIR", required_unless_present = "resume")]
    subject: Option<String>,
    /// Where the photos are, if not in the subject's folder
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Masks (white = subject): NAME.png beside NAME.jpg's name, or NAME/anything.jpg; found by itself if
    /// it is masks/ or seg_masks/, and not needed where the settings use none
    #[arg(long, value_name = "DIR")]
    masks: Option<PathBuf>,
    /// Make the masks that are not found: attention (what the base sees the class word in) or plain (a cut
    /// by colours). Look at them in the adapter's masks/, or make them beforehand with `eqdiff mask`
    #[arg(long, value_name = "WAY", value_enum, num_args = 0..=1, default_missing_value = "attention",
        conflicts_with = "resume", hide_possible_values = true)]
    auto_mask: Option<Way>,
    /// The ordinary noun for the subject, e.g. dog [default: from the folder's name]
    #[arg(long, value_name = "WORD", value_parser = noun)]
    class: Option<String>,
    /// Black marks the subject in the masks, white everything else
    #[arg(long)]
    invert_masks: bool,
    /// What becomes of photos that are not square: none (squeezed) or subject (a square around the mask)
    #[arg(long, value_name = "none|subject", value_enum, default_value = "none", hide_possible_values = true)]
    crop: CropArg,
    /// mini (embedded), sd14, OWNER/NAME of the Hugging Face hub, a directory in the diffusers layout, or a safetensors
    /// file in the original one
    #[arg(long, value_name = "NAME_OR_DIR", default_value_if("resume", "true", None), default_value = MINI)]
    base: Option<String>,
    /// eqdiff, paper, the paper's ablations a to f, or another method: custom-diffusion, dreambooth, ti
    /// (docs/methods.md)
    #[arg(long, visible_alias = "method", value_parser = PRESETS.map(|(name, _)| name), default_value_if("resume", "true", None), default_value = PRESET)]
    preset: Option<String>,
    /// A TOML file with settings (configs/eqdiff.toml has all of them, with comments)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Training steps
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Photos per step; as many class images come with them
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Learning rate
    #[arg(long, value_name = "X")]
    lr: Option<f64>,
    /// The same seed gives the same adapter; -1 for any
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<Seed>,
    /// Class images for prior preservation from this folder instead of drawing them: the squares at their centres
    #[arg(long, value_name = "DIR")]
    class_images: Option<PathBuf>,
    /// How many class images to draw (0: train without)
    #[arg(long, value_name = "N", conflicts_with = "class_images")]
    num_class_images: Option<usize>,
    /// Where the adapter goes [default: outputs/SUBJECT]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Memory to train in: auto (what is free) or GiB for the whole program; with little, a step computes
    /// the inside of its blocks twice
    #[arg(long, value_name = "auto|N", default_value = "auto")]
    memory: Budget,
    /// Go on with the training in --out, or with the last one: what it began with is used again, --steps extends it
    #[arg(long)]
    resume: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

/// What is typed for a [`Crop`].
#[derive(Clone, Copy, ValueEnum)]
enum CropArg {
    None,
    Subject,
}

pub(super) fn run(args: TrainArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let request = Request {
        subject: args.subject,
        images: args.images,
        masks: args.masks,
        auto_mask: args.auto_mask,
        class: args.class,
        invert_masks: args.invert_masks,
        crop: match args.crop {
            CropArg::None => Crop::None,
            CropArg::Subject => Crop::Subject,
        },
        base: args.base,
        preset: args.preset,
        config: args.config,
        overrides: Overrides {
            steps: args.steps,
            batch_size: args.batch_size,
            learning_rate: args.lr,
            seed: args.seed.map(|seed| seed.number(observer)),
            class_images: args.num_class_images,
        },
        class_images: args.class_images,
        out: args.out,
        memory: args.memory,
        study: None,
        machine: args.machine.into(),
    };
    let trained = if args.resume { resume(&request, observer)? } else { train(&request, observer)? };
    Ok(if trained.finished { Outcome::Done } else { Outcome::Interrupted })
}
