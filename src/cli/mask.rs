//! `eqdiff mask`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{MachineArgs, Outcome, noun};
use crate::app::Observer;
use crate::app::mask::{Anything, Request, Way, mask};
use crate::model::sam::Prompt;

const EXAMPLES: &str = "\
Examples:
  eqdiff mask my_teapot --class teapot --base sd14
  eqdiff mask photo1.jpg photo2.jpg --class dog --out masks/
  eqdiff mask my_teapot --way plain                  # no model, for plain backgrounds
  eqdiff mask dog --compare                          # how near the masks come to the given ones
  eqdiff mask my_teapot --class teapot --sam mobile  # Segment Anything around what the base sees
  eqdiff mask photo1.jpg --sam sam_vit_b_01ec64.safetensors --box 90,60,410,380 --neg-point 120,350

Photos of one subject help each other: its colours are in all of them, each background is in one.
`eqdiff train --auto-mask` does the same on the way.";

/// Arguments of `mask`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MaskArgs {
    /// Photos of one subject: files, a folder, or a bundled subject
    #[arg(value_name = "PHOTOS", required = true)]
    photos: Vec<PathBuf>,
    /// The ordinary noun for the subject, e.g. dog [default: from the folder's name]
    #[arg(long, value_name = "WORD", value_parser = noun)]
    class: Option<String>,
    /// How masks are made
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    way: Way,
    /// Let Segment Anything cut what --way finds, or what is pointed at: mobile or vit-b from the Hugging Face hub
    /// (lmz/candle-sam), or a file with the published names (.safetensors, .pth, .pt). Published weights were never run here:
    /// it is checked on random ones
    #[arg(long, value_name = "MODEL")]
    sam: Option<String>,
    /// With --sam, instead of --way and --base: a place on the subject, in pixels of the upright photo. Repeatable
    #[arg(long, value_name = "X,Y", requires = "sam", conflicts_with_all = ["way", "base", "dtype"],
        allow_hyphen_values = true, value_parser = numbers::<2>)]
    point: Vec<[f64; 2]>,
    /// With --sam: a place that is not the subject's. Repeatable
    #[arg(long, value_name = "X,Y", requires = "sam", conflicts_with_all = ["way", "base", "dtype"],
        allow_hyphen_values = true, value_parser = numbers::<2>)]
    neg_point: Vec<[f64; 2]>,
    /// With --sam: a box around the subject, left, upper, right and lower edge
    #[arg(long = "box", value_name = "X,Y,X,Y", requires = "sam", conflicts_with_all = ["way", "base", "dtype"],
        allow_hyphen_values = true, value_parser = numbers::<4>)]
    corners: Option<[f64; 4]>,
    /// The base that looks for the subject [default: mini]
    #[arg(long, value_name = "NAME_OR_DIR")]
    base: Option<String>,
    /// Where masks, overlays and the page go [default: masks/ beside the photos, where training finds them; with
    /// --compare outputs/masks/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compare with the masks that the photos have
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(super) fn run(args: MaskArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let marked = |places: Vec<[f64; 2]>, inside| places.into_iter().map(move |place| (place, inside));
    let prompt = Prompt {
        points: marked(args.point, true).chain(marked(args.neg_point, false)).collect(),
        corners: args.corners.map(|[left, top, right, bottom]| [[left, top], [right, bottom]]),
    };
    let request = Request {
        photos: args.photos,
        class: args.class,
        way: args.way,
        sam: args.sam.map(|model| Anything { model, prompt }),
        base: args.base,
        out: args.out,
        compare: args.compare,
        machine: args.machine.into(),
    };
    mask(&request, observer).map(|_| Outcome::Done)
}

/// So many finite numbers, separated by commas.
fn numbers<const N: usize>(text: &str) -> Result<[f64; N], String> {
    let numbers = text.split(',').map(|number| number.trim().parse().ok().filter(|number| f64::is_finite(*number)));
    let numbers: Option<Vec<f64>> = numbers.collect();
    numbers
        .and_then(|numbers| numbers.try_into().ok())
        .ok_or_else(|| format!("give {N} numbers, e.g. {}", ["120"; N].join(",")))
}
