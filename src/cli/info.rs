//! `eqdiff info`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::Outcome;
use super::output::print;
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

pub(super) fn run(args: &InfoArgs) -> Result<Outcome> {
    for path in &args.paths {
        let Info { kind, facts } = info(path)?;
        print(format!("{}: {kind}", path.display()))?;
        let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        for (name, value) in facts {
            print(format!("  {name:width$}  {}", value.replace('\n', " ")))?;
        }
    }
    Ok(Outcome::Done)
}
