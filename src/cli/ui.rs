//! `eqdiff ui`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::output::print;
use super::{Outcome, observer::Console, signals};
use crate::ui::{Request, Stop, serve};

const EXAMPLES: &str = "\
Examples:
  eqdiff ui                        # a page on this machine, for this folder's subjects and outputs
  eqdiff ui shop --port 8000       # for another folder
  eqdiff ui --listen 0.0.0.0       # for the phone in the same network too: whoever has the address may use it";

/// Arguments of `ui`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct UiArgs {
    /// The folder that subjects/ and outputs/ are in
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// The port of the page; 0: any that is free
    #[arg(long, value_name = "N", default_value_t = 7861)]
    port: u16,
    /// The address to listen on. With another than this machine's own, other machines reach the page too
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
}

pub(super) fn run(args: UiArgs, json: bool) -> Result<Outcome> {
    crate::memory::keep_nothing();
    let stop = Stop::default();
    let asked = stop.clone();
    let mut console = Console::asking(json, move || asked.ask());
    let request = Request { folder: args.folder, port: args.port, listen: args.listen };
    serve(&request, &stop, &mut console, |addresses| {
        print("Open one of these in a browser (Ctrl-C ends it; a job that runs goes on next time):")?;
        addresses.iter().try_for_each(|address| print(format!("  {address}")))
    })?;
    Ok(if signals::stopped() { Outcome::Interrupted } else { Outcome::Done })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    #[test]
    fn what_the_page_asks_for_is_understood() {
        for line in crate::ui::command_lines() {
            let words = ["eqdiff".to_string()].into_iter().chain(line.clone()).chain(["--json-progress".into()]);
            assert!(Cli::try_parse_from(words).is_ok_and(|cli| cli.json_progress()), "{line:?}");
        }
    }
}
