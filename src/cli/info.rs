//! `eqdiff info`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::output::print;
use super::{Outcome, complain};
use crate::app::info::{Info, info};

const EXAMPLES: &str = "\
Examples:
  eqdiff info outputs/dog
  eqdiff info watercolour.safetensors
  eqdiff info drawn/a-dog-7-1a2b3c4d.png";

/// Arguments of `info`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InfoArgs {
    /// An adapter's or a base's folder, weights in a safetensors file, or a picture
    #[arg(value_name = "FILE", required = true)]
    paths: Vec<PathBuf>,
}

pub(super) fn run(args: &InfoArgs, json: bool) -> Result<Outcome> {
    let mut outcome = Outcome::Done;
    for path in &args.paths {
        let Info { kind, facts } = match info(path) {
            Ok(info) => info,
            Err(error) => {
                complain(&error, json);
                outcome = Outcome::Failed;
                continue;
            }
        };
        print(format!("{}: {kind}", path.display()))?;
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in facts {
            print(format!("  {name:width$}  {}", value.replace('\n', " ")))?;
        }
    }
    Ok(outcome)
}
