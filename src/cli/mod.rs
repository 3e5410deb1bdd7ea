//! The command line: what was typed, turned into calls of the library.

mod bands;
mod bench;
mod demo;
mod eval;
mod sample;
mod train;
mod ui;
mod verify;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::Device;
use clap::{Args, Parser, Subcommand};

use crate::base::{Base, MINI, device};
use crate::ops::Precision;
pub use ui::Interrupted;

/// Teach Stable Diffusion a subject from 4-6 photos, then draw it in any style.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  eqdiff demo                                        train, draw and score a bundled subject
  eqdiff train --subject dog --masks masks/          customise the base to a subject
  eqdiff sample --prompt \"S* dog in van gogh style\"  draw it; S* stands for the subject
  eqdiff eval --metrics clip-t,clip-i,dino           score the last adapter";

#[derive(Subcommand)]
enum Command {
    /// Customise a base to a subject: photos and masks in, an adapter out
    Train(train::TrainArgs),
    /// Draw pictures from prompts
    Sample(sample::SampleArgs),
    /// Score an adapter, or a folder of pictures
    Eval(eval::EvalArgs),
    /// Train, draw and score a bundled subject, and show it all on one page
    Demo(demo::DemoArgs),
    /// Write the low and the high frequency band of a picture
    Bands(bands::BandsArgs),
    /// Time the models and a training step on this machine
    Bench(bench::BenchArgs),
    /// Check this build on this device against recorded PyTorch results
    Verify(verify::VerifyArgs),
}

/// How a command ended, where that is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All was done.
    Done,
    /// All was done, and the answer is no: exit code 1.
    Failed,
    /// The user stopped it; what there was is saved: exit code 130.
    Interrupted,
}

/// Mistakes in what was typed, as opposed to failures while working: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Runs the command that was typed.
///
/// # Errors
/// With [`Usage`] in the chain if it makes no sense, else if it fails.
pub fn run(cli: Cli) -> Result<Outcome> {
    match cli.command {
        Command::Train(args) => train::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bands(args) => bands::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Verify(args) => verify::run(&args),
    }
}

/// Where models come from and where they compute.
#[derive(Args, Clone)]
struct MachineArgs {
    /// Use files on this machine only, download nothing
    #[arg(long)]
    offline: bool,
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "auto")]
    device: String,
    /// How weights are kept: f32, or f16 or bf16 in half the memory. With bf16, processors that multiply
    /// it compute in it; sums, norms and all that is trained stay in f32
    #[arg(long, default_value = "f32")]
    dtype: Precision,
}

impl MachineArgs {
    fn base(&self, name: &str) -> Result<Base> {
        let device = self.device()?;
        if name == MINI {
            eprintln!("Base: mini, a small Stable Diffusion inside this program (--base sd14 for the real one)");
        } else {
            eprintln!("Base: {name}");
        }
        let base = Base::load(name, self.offline, &device, self.dtype);
        let base = base.with_context(|| format!("cannot load the base {name}"))?;
        base.notes.iter().for_each(|note| eprintln!("Base: {note}"));
        Ok(base)
    }

    fn device(&self) -> Result<Device> {
        let (device, warning) = device(&self.device)?;
        if let Some(warning) = warning {
            eprintln!("Warning: {warning}");
        }
        Ok(device)
    }
}

/// Where results go unless something else is asked for.
const OUTPUTS: &str = "outputs";

/// Remembers which adapter was trained last.
fn last_file() -> PathBuf {
    Path::new(OUTPUTS).join("last-adapter.txt")
}

/// The adapter that was named, or the one trained last.
fn adapter_folder(named: Option<&Path>) -> Result<PathBuf> {
    match named {
        Some(folder) => Ok(folder.to_path_buf()),
        None => {
            let last = std::fs::read_to_string(last_file()).map_err(|_| {
                Usage("no adapter was trained here yet: eqdiff train --subject dog, or name one with --adapter".into())
            })?;
            Ok(PathBuf::from(last.trim()))
        }
    }
}

/// The first of `stem`, `stem-2`, `stem-3`... that does not exist.
fn fresh_folder(stem: &Path) -> PathBuf {
    let numbered = |n: usize| {
        let mut name = stem.as_os_str().to_owned();
        name.push(format!("-{n}"));
        PathBuf::from(name)
    };
    if !stem.exists() {
        return stem.to_path_buf();
    }
    (2..).map(numbered).find(|folder| !folder.exists()).unwrap_or_else(|| stem.to_path_buf())
}

fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}
