//! The `eqdiff` program.

use std::process::ExitCode;

use clap::Parser;
use eqdiff::cli::{Cli, exit_code, run};
use eqdiff::machine::STACK;

#[global_allocator]
static MEMORY: eqdiff::memory::Recycling = eqdiff::memory::Recycling::new();

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json_progress();
    let worker = std::thread::Builder::new().name("eqdiff".into()).stack_size(STACK).spawn(move || run(cli));
    match worker.map(|worker| worker.join()) {
        Ok(Ok(result)) => exit_code(result, json),
        Ok(Err(_)) => ExitCode::FAILURE, // a panic has printed itself
        Err(error) => exit_code(Err(error.into()), json),
    }
}
