//! `eqdiff demo`.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use super::output::print;
use super::{MachineArgs, Outcome};
use crate::app::Observer;
use crate::app::demo::{Request, demo};
use crate::evaluation::scores::table;

/// Arguments of `demo`.
#[derive(Args)]
#[command(after_help = "Example:\n  eqdiff demo --subject teapot --out teapot.html")]
pub(super) struct DemoArgs {
    /// A bundled subject
    #[arg(long, default_value = "dog")]
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

pub(super) fn run(args: DemoArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let start = Instant::now();
    let DemoArgs { subject, steps, limit, out, machine } = args;
    let evaluation = demo(&Request { subject, steps, limit, page: out.clone(), machine: machine.into() }, observer)?;
    print(table(&evaluation))?;
    let minutes = start.elapsed().as_secs_f64() / 60.;
    observer.info(&format!("Done in {minutes:.1} minutes: open {}", out.display()));
    Ok(Outcome::Done)
}
