//! The `eqdiff` program: exit code 0 for success, 1 for failure, 2 for wrong usage, 130 when stopped.

use std::process::ExitCode;

use clap::Parser;
use eqdiff::cli::{Cli, Outcome, Usage, run};

#[global_allocator]
static MEMORY: eqdiff::memory::Recycling = eqdiff::memory::Recycling::new();

/// candle walks the graph of a training step recursively, deeper than a main thread's stack.
const STACK: usize = 512 << 20;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let worker = std::thread::Builder::new().name("eqdiff".into()).stack_size(STACK).spawn(move || run(cli));
    let result = match worker.map(|worker| worker.join()) {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => return ExitCode::FAILURE, // a panic has printed itself
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Ok(Outcome::Interrupted) => ExitCode::from(130),
        Err(error) if error.is::<eqdiff::cli::Interrupted>() => {
            eprintln!("Stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}
