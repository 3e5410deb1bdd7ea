//! `eqdiff study`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::{MachineArgs, Outcome};
use crate::app::study::{Request, merge, study};
use crate::app::{Observer, Usage};
use crate::study::Shard;
use crate::study::shard::Typed;

const EXAMPLES: &str = "\
Examples:
  eqdiff study mini --out mini-study              # trains, draws and scores what is missing there
  eqdiff study my.toml --out my-study --shard 2/8 # the second of eight parts
  eqdiff study merge my-study                     # puts the parts together

In a job array of Slurm the part is the task's; in an indexed job of Kubernetes with --shard /N.";

/// Arguments of `study`.
#[derive(Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(super) struct StudyArgs {
    #[command(subcommand)]
    merge: Option<Merge>,
    /// The plan: a TOML file, or paper, ablation, fdte, mini, fdte-mini or rows
    #[arg(required = true)]
    plan: Option<PathBuf>,
    /// The study's folder; what is there already is used
    #[arg(long, value_name = "DIR", required = true)]
    out: Option<PathBuf>,
    /// Do the I-th of N parts, to be put together when all are done [default: everything, or a job's part]
    #[arg(long, value_name = "I/N")]
    shard: Option<Typed>,
    #[command(flatten)]
    machine: MachineArgs,
}

#[derive(Subcommand)]
enum Merge {
    /// Put together what is done of a study: ledger, tables, page
    Merge {
        /// The study's folder
        study: PathBuf,
    },
}

pub(super) fn run(args: StudyArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    if let Some(Merge::Merge { study }) = args.merge {
        let progress = merge(&study, observer)?;
        return Ok(if progress.done < progress.all { Outcome::Failed } else { Outcome::Done });
    }
    let shard = Shard::of(args.shard, |name| std::env::var(name).ok()).map_err(|error| Usage(format!("{error:#}")))?;
    let (plan, out) = (args.plan.context("no plan")?, args.out.context("no folder")?);
    let finished = study(&Request { plan, out, shard, machine: args.machine.into() }, observer)?;
    let incomplete = match finished.progress {
        Some(progress) => progress.done < progress.all,
        None => finished.busy > 0,
    };
    Ok(if incomplete { Outcome::Failed } else { Outcome::Done })
}
