//! The command line: arguments become requests, outcomes become exit codes.

mod bands;
mod bench;
mod count;
mod demo;
mod doctor;
mod eval;
mod export;
mod generate;
mod import;
mod info;
mod mask;
mod observer;
mod output;
mod runs;
mod sample;
mod signals;
mod study;
mod train;
mod ui;
mod verify;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::app::{Interrupted, Machine, Usage};
use crate::base;
use crate::files::advice;
use crate::ops::{Precision, check_level};
use observer::{Console, end, event, say};
use output::Closed;

/// Teach Stable Diffusion a subject from 4-6 photos, then draw it in any style.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Progress for programs: one JSON object a line on the standard error
    #[arg(long, global = true)]
    json_progress: bool,
}

const EXAMPLES: &str = "\
Examples:
  eqdiff demo                                        # train, draw and score a bundled subject
  eqdiff train --subject dog --masks masks/          # customise the base to a subject
  eqdiff sample --prompt \"S* dog in van gogh style\"  # draw it; S* stands for the subject
  eqdiff eval --metrics clip-t,clip-i,dino           # score the last adapter

Exit code: 0 done, 1 failed, 2 wrong usage, 130 stopped; what was finished by then is kept.";

#[derive(Subcommand)]
enum Command {
    /// Customise a base to a subject: photos and masks in, an adapter out
    Train(Box<train::TrainArgs>),
    /// Draw pictures from prompts
    Sample(Box<sample::SampleArgs>),
    /// Score an adapter, or a folder of pictures
    Eval(Box<eval::EvalArgs>),
    /// Train, draw and score many subjects by many methods
    Study(Box<study::StudyArgs>),
    /// Write an adapter as other programs read it
    Export(export::ExportArgs),
    /// Make an adapter of another program's files
    Import(import::ImportArgs),
    /// Make masks for photos that have none
    Mask(mask::MaskArgs),
    /// Train, draw, score and export on a page in the browser
    Ui(ui::UiArgs),
    /// Train, draw and score a bundled subject, and show it all on one page
    Demo(demo::DemoArgs),
    /// List trainings with their settings and scores
    Runs(runs::RunsArgs),
    /// Tell what a file or folder is: an adapter, a LoRA, a checkpoint, a picture
    Info(info::InfoArgs),
    /// Write the low and the high frequency band of a picture
    Bands(bands::BandsArgs),
    /// Time the models and a training step on this machine
    Bench(bench::BenchArgs),
    /// Write a shell's completions
    Completions(generate::CompletionsArgs),
    /// Write man pages
    Man(generate::ManArgs),
    /// Check this build on this device against recorded PyTorch results
    Verify(verify::VerifyArgs),
    /// Say what this machine has to compute with, and check each operation there
    Doctor(doctor::DoctorArgs),
}

/// How a command ended, where that is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was done.
    Done,
    /// All was done, and the answer is no.
    Failed,
    /// The user stopped it; what there was is saved.
    Interrupted,
}

/// Runs the command that was typed.
///
/// # Errors
/// [`Usage`] if it makes no sense, [`Interrupted`] if the user stopped it, else if it fails.
pub fn run(cli: Cli) -> Result<Outcome> {
    check_level().map_err(Usage)?;
    let console = || Console::new(cli.json_progress);
    match cli.command {
        Command::Train(args) => train::run(*args, &mut console()),
        Command::Sample(args) => sample::run(*args, &mut console()),
        Command::Eval(args) => eval::run(*args, &mut console()),
        Command::Study(args) => study::run(*args, &mut console()),
        Command::Export(args) => export::run(args, &mut console()),
        Command::Import(args) => import::run(args, &mut console()),
        Command::Mask(args) => mask::run(args, &mut console()),
        Command::Ui(args) => ui::run(args, cli.json_progress),
        Command::Demo(args) => demo::run(args, &mut console()),
        Command::Runs(args) => runs::run(args, &mut console()),
        Command::Info(args) => info::run(&args, cli.json_progress),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
        Command::Bands(args) => bands::run(&args, &mut console()),
        Command::Bench(args) => bench::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}

impl Cli {
    /// Whether the standard error is read by a program.
    pub fn json_progress(&self) -> bool {
        self.json_progress
    }
}

/// The exit code of a command: 0 for success, 1 for failure, 2 for wrong usage, 130 when stopped. Says what went wrong,
/// as JSON to programs; to them it says too that it ended, for those that did not start it themselves.
pub fn exit_code(result: Result<Outcome>, json: bool) -> ExitCode {
    let ended = |code: u8| {
        if json {
            say(&end(code));
        }
        ExitCode::from(code)
    };
    let error = match result {
        Ok(Outcome::Done) => return ended(0),
        Ok(Outcome::Failed) => return ended(1),
        Ok(Outcome::Interrupted) => return ended(130),
        Err(error) if error.is::<Closed>() => return ended(0),
        Err(error) => error,
    };
    if error.is::<Interrupted>() {
        tell(json, "info", "", "Stopped");
        return ended(130);
    }
    complain(&error, json);
    ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
}

/// Says what went wrong, and what helps against it.
fn complain(error: &anyhow::Error, json: bool) {
    tell(json, "error", "error: ", told(&format!("{error:#}")));
    if let Some(advice) = advice(error).or_else(|| base::advice(error)) {
        tell(json, "info", "help: ", advice);
    }
}

/// Says something to a program as an event of that kind, or to people behind a word for it.
fn tell(json: bool, kind: &str, plain: &str, text: &str) {
    say(&if json { event(kind, text) } else { format!("{plain}{text}") });
}

/// An error's text without the frames of the program that candle lists below it.
fn told(text: &str) -> &str {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("0: ") {
            break;
        }
        end += line.len();
    }
    text[..end].trim_end()
}

/// Where models come from and where they compute.
#[derive(Args, Clone)]
struct MachineArgs {
    /// Use files on this machine only, download nothing
    #[arg(long)]
    offline: bool,
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto", value_parser = device_name)]
    device: String,
    /// How weights are kept: f32, or f16 or bf16 in half the memory. With bf16, processors that multiply
    /// it compute in it; sums, norms and all that is trained stay in f32. On a CUDA device bf16, f32 or tf32 (f32 whose
    /// products have 10 bits of mantissa); no f16, which overflows in the autoencoder [default: as a training began, else
    /// f32, bf16 on a CUDA device]
    #[arg(long)]
    dtype: Option<Precision>,
}

/// A class word as it is typed.
fn noun(text: &str) -> Result<String, String> {
    if text.trim().is_empty() { Err("give the ordinary noun, e.g. dog".into()) } else { Ok(text.into()) }
}

/// A device as it is typed; whether there is one shows when it is opened.
fn device_name(text: &str) -> Result<String, String> {
    let (kind, index) = text.split_once(':').map_or((text, None), |(kind, index)| (kind, Some(index)));
    let known = ["auto", "cpu", "cuda", "metal"].contains(&kind);
    let numbered = index.is_none_or(|index| kind == "cuda" && index.parse::<usize>().is_ok());
    if known && numbered { Ok(text.into()) } else { Err("auto, cpu, cuda, cuda:N or metal".into()) }
}

impl From<MachineArgs> for Machine {
    fn from(args: MachineArgs) -> Self {
        Self { offline: args.offline, device: args.device, precision: args.dtype }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn errors_are_told_without_frames() {
        let text = "step 3: DriverError(CUDA_ERROR_OUT_OF_MEMORY)\n   0: candle_core::error\n   1: clone3\n             at x.S:81:0\n";
        assert_eq!(super::told(text), "step 3: DriverError(CUDA_ERROR_OUT_OF_MEMORY)");
        assert_eq!(super::told("two lines:\n  10: of no frames"), "two lines:\n  10: of no frames");
    }
}
