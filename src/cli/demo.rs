//! `eqdiff demo`: everything once, on a bundled subject.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::{Args, Parser};

use super::{Cli, Command, MachineArgs, Outcome, Usage, eval, train};
use crate::adapter::Adapter;
use crate::subject;

/// Arguments of `demo`.
#[derive(Args)]
#[command(after_help = "Example:\n  eqdiff demo --subject teapot --out teapot.html")]
pub struct DemoArgs {
    /// A bundled subject
    #[arg(long, default_value = "clock")]
    subject: String,
    /// Training steps [default: the base's]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Prompts of each list that are drawn and scored
    #[arg(long, value_name = "N", default_value_t = 8)]
    limit: usize,
    /// The page
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    out: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Trains, draws with and without the adapter, scores, and writes the page.
pub fn run(args: &DemoArgs) -> Result<Outcome> {
    let bundled = subject::bundled();
    if !bundled.contains(&args.subject) {
        return Err(Usage(format!("--subject {}: the bundled ones are {}", args.subject, bundled.join(", "))).into());
    }
    let start = Instant::now();
    let steps = args.steps.map(|steps| steps.to_string());
    let dtype = args.machine.dtype.to_string();
    let machine = ["--device", &args.machine.device, "--dtype", &dtype];
    let mut line = vec!["eqdiff", "train", "--subject", &args.subject];
    line.extend(machine);
    line.extend(steps.iter().flat_map(|steps| ["--steps", steps.as_str()]));
    let Command::Train(training) = Cli::try_parse_from(line)?.command else { return Ok(Outcome::Failed) };
    let (outcome, folder) = train::fresh(&training)?;
    if outcome != Outcome::Done {
        return Ok(outcome);
    }
    let limit = args.limit.to_string();
    let line = ["eqdiff", "eval", "--baseline", "--limit", &limit].into_iter().chain(machine);
    let Command::Eval(evaluation) = Cli::try_parse_from(line)?.command else { return Ok(Outcome::Failed) };
    eval::score_adapter(&evaluation, Adapter::open(&folder)?, Some(&args.out))?;
    eprintln!("Done in {:.1} minutes: open {}", start.elapsed().as_secs_f64() / 60., args.out.display());
    Ok(Outcome::Done)
}
