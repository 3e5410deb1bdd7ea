//! `eqdiff export`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{MachineArgs, Outcome};
use crate::app::Observer;
use crate::app::export::{Layout, Request, export};

const EXAMPLES: &str = "\
Examples:
  eqdiff export outputs/dog --to webui --rank 64
  eqdiff export outputs/dog --to diffusers --name my-dog --out for-diffusers
  eqdiff export --to release                                    # the last adapter
  eqdiff export outputs/dog --to merged --base sd-v1-4.safetensors

Reference attention travels to nobody but the released code: other programs draw what `eqdiff sample --no-reference`
draws, which is less like the subject (docs/interop.md has figures). NAME.md beside the files says how to use them.
It computes on the CPU whatever --device says. --dtype is that of the files of a whole UNet, and can be f16 there.";

/// Arguments of `export`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExportArgs {
    /// The adapter's folder [default: the last one trained]
    #[arg(value_name = "ADAPTER")]
    adapter: Option<PathBuf>,
    /// For which program
    #[arg(long, value_name = "LAYOUT", value_enum)]
    to: Layout,
    /// Rank of the LoRA of webui: higher ranks are nearer to what was trained, and larger [default: 32]
    #[arg(long, value_name = "N")]
    rank: Option<usize>,
    /// What stands for the subject in prompts there, and what files are called [default: eqdiff-SUBJECT]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Where the files go [default: ADAPTER-LAYOUT]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The base [default: the adapter's]
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(super) fn run(args: ExportArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let request = Request {
        adapter: args.adapter,
        to: args.to,
        rank: args.rank,
        name: args.name,
        base: args.base,
        out: args.out,
        machine: args.machine.into(),
    };
    export(&request, observer).map(|_| Outcome::Done)
}
