//! `eqdiff eval`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::output::print;
use super::{MachineArgs, Outcome};
use crate::app::Observer;
use crate::app::draw::{Seed, Source};
use crate::app::evaluate::{Request, evaluate};
use crate::app::score::{Pictures, score};
use crate::evaluation::scorer::Wanted;
use crate::evaluation::scores::table;

const EXAMPLES: &str = "\
Examples:
  eqdiff eval --metrics clip-t,clip-i,dino
  eqdiff eval --adapter outputs/dog --baseline --limit 8
  eqdiff eval --generated drawn/ --concept photos/ --json scores.json";

/// Arguments of `eval`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EvalArgs {
    /// Which metrics, separated by commas: clip-t, clip-i, dino, and judge: the attributes that a base's own judge
    /// finds, where it brings one
    #[arg(long, value_delimiter = ',', default_value = "clip-t,clip-i,dino,judge")]
    metrics: Vec<Wanted>,
    /// The adapter to score: it draws the built-in prompts [default: the last one trained]
    #[arg(long, value_name = "DIR", conflicts_with = "generated")]
    adapter: Option<PathBuf>,
    /// Where the base is now, or a base to download [default: the adapter's]; with --generated the one whose encoders
    /// and judge score [default: mini]
    #[arg(long, value_name = "NAME|DIR|FILE|ID")]
    base: Option<String>,
    /// Draw the same prompts without the adapter too, for comparison
    #[arg(long, conflicts_with = "generated")]
    baseline: bool,
    /// The first N prompts of each built-in list only
    #[arg(long, value_name = "N", conflicts_with = "generated")]
    limit: Option<usize>,
    /// The seed of the first picture; the others count up. -1: any
    #[arg(long, value_name = "N", default_value = "0", allow_negative_numbers = true, conflicts_with = "generated")]
    seed: Seed,
    /// Score the pictures of this folder instead; their prompts are in prompts.json there or in the folder
    /// above, in --prompts, or in the files
    #[arg(long, value_name = "DIR", requires = "concept")]
    generated: Option<PathBuf>,
    /// Photos of the subject to compare with
    #[arg(long, value_name = "DIR", requires = "generated")]
    concept: Option<PathBuf>,
    /// The prompts of --generated, a line for each picture by name (2.png is before 10.png), as sample --prompts reads
    /// them; {} is S* and the class word of --concept
    #[arg(long, value_name = "FILE", requires = "generated")]
    prompts: Option<PathBuf>,
    /// The CLIP: a directory or a repository of the hub [default: as the base's]
    #[arg(long, value_name = "DIR|ID")]
    clip: Option<String>,
    /// The DINO: a directory or a repository of the hub [default: as the base's]
    #[arg(long, value_name = "DIR|ID")]
    dino: Option<String>,
    /// Write the scores to this file too
    #[arg(long, value_name = "F")]
    json: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(super) fn run(args: EvalArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let request = Request {
        metrics: args.metrics,
        adapter: args.adapter.map_or(Source::LastAdapter, Source::Adapter),
        base: args.base,
        baseline: args.baseline,
        limit: args.limit,
        seed: args.seed,
        clip: args.clip,
        dino: args.dino,
        json: args.json,
        page: None,
        machine: args.machine.into(),
    };
    let evaluation = match (args.generated, args.concept) {
        (Some(generated), Some(concept)) => {
            score(&Pictures { generated, concept, prompts: args.prompts }, &request, observer)?
        }
        _ => evaluate(&request, observer)?,
    };
    print(table(&evaluation))?;
    Ok(Outcome::Done)
}
