//! `eqdiff runs`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Outcome;
use super::output::print;
use crate::app::Observer;
use crate::app::runs::{Request, runs};

const EXAMPLES: &str = "\
Examples:
  eqdiff runs
  eqdiff runs --page runs.html
  eqdiff runs /data/adapters";

/// Arguments of `runs`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunsArgs {
    /// The folder that the trainings are in [default: outputs]
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
    /// A page of them with pictures
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
}

pub(super) fn run(args: RunsArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    for run in runs(&Request { folder: args.folder, page: args.page }, observer)? {
        print(run.adapter.folder.display())?;
        let facts = run.facts();
        let line = facts.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join("; ");
        print(format!("  {line}"))?;
    }
    Ok(Outcome::Done)
}
