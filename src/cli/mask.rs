//! `eqdiff mask`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{MachineArgs, Outcome};
use crate::app::Observer;
use crate::app::mask::{Request, Way, mask};

const EXAMPLES: &str = "\
Examples:
  eqdiff mask my_teapot --class teapot --base sd14
  eqdiff mask photo1.jpg photo2.jpg --class dog --out masks/
  eqdiff mask my_teapot --way plain                  no model, for plain backgrounds
  eqdiff mask dog --compare                          how near the masks come to the given ones

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
    #[arg(long, value_name = "WORD")]
    class: Option<String>,
    /// How masks are made
    #[arg(long, value_name = "WAY", value_enum, default_value_t)]
    way: Way,
    /// The base that looks for the subject [default: mini]
    #[arg(long, value_name = "NAME_OR_DIR")]
    base: Option<String>,
    /// Where masks, overlays and the page go [default: masks/ beside the photos, where training finds them]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Compare with the masks that the photos have
    #[arg(long)]
    compare: bool,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(super) fn run(args: MaskArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let MaskArgs { photos, class, way, base, out, compare, machine } = args;
    let request = Request { photos, class, way, base, out, compare, machine: machine.into() };
    mask(&request, observer).map(|_| Outcome::Done)
}
