//! Shell completions and man pages, from the same definitions as the commands.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::output::print;
use super::{Cli, Outcome};
use crate::files::make_folder;

/// Arguments of `completions`.
#[derive(Args)]
#[command(after_help = "Example:\n  eqdiff completions bash > ~/.local/share/bash-completion/completions/eqdiff")]
pub(super) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args)]
#[command(after_help = "Example:\n  eqdiff man --out ~/.local/share/man/man1 && man eqdiff-train")]
pub(super) struct ManArgs {
    /// Where eqdiff.1, eqdiff-train.1 and so on go
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<Outcome> {
    let mut script = Vec::new(); // on a full disk the library would panic
    clap_complete::generate(args.shell, &mut Cli::command(), "eqdiff", &mut script);
    print(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Outcome::Done)
}

pub(super) fn man(args: &ManArgs) -> Result<Outcome> {
    make_folder(&args.out)?;
    let context = || format!("cannot write man pages to {}", args.out.display());
    clap_mangen::generate_to(Cli::command(), &args.out).with_context(context)?;
    Ok(Outcome::Done)
}
