//! `eqdiff bench`.

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::count::Counts;
use super::output::print;
use super::{Outcome, device_name};
use crate::app::Usage;
use crate::base::{MINI, device};
use crate::bench::{Bench, CASES};
use crate::machine::peak_memory;
use crate::ops::{Precision, level, memory};
use crate::training::budget::Budget;

const EXAMPLES: &str = "\
Examples:
  eqdiff bench                                             # the embedded base
  eqdiff bench --base random-sd14                          # Stable Diffusion 1.4's sizes, random weights
  eqdiff bench --base random-sd14 --case unet_b2 --dtype bf16 --json
  eqdiff bench --count --base random-sd14 --case eqdiff_step --device cuda --dtype bf16
                                                           # launches, bytes and products, by a driver that counts
  EQDIFF_SIMD=avx2 eqdiff bench                            # as on a processor without AVX-512";

/// Arguments of `bench`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    /// mini, random-sd14 (the sizes of Stable Diffusion 1.4, random weights), or another base
    #[arg(long, default_value = MINI)]
    base: String,
    /// gemm, unet_b1, unet_b2, vae_dec, vae_enc, clip_b2, train, train_ref, eqdiff_step, sample,
    /// sample_ref [default: all]
    #[arg(long, value_name = "CASE", value_delimiter = ',')]
    case: Vec<String>,
    /// auto, cpu, cuda, cuda:N or metal
    #[arg(long, default_value = "cpu", value_parser = device_name)]
    device: String,
    /// How weights are kept: f32, f16 or bf16; on a CUDA device f32, tf32 or bf16
    #[arg(long, default_value = "f32")]
    dtype: Precision,
    /// Timed runs of each case, after one that warms up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Memory for the training cases: auto (what is free) or GiB for the whole program
    #[arg(long, value_name = "auto|N", default_value = "auto")]
    memory: String,
    /// Count what a run asks of a CUDA device instead of timing it: launches, bytes and products by kind of kernel. The
    /// driver must be one that counts, such as the one of tests/cuda/driver
    #[arg(long, conflicts_with = "runs")]
    count: bool,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    /// Run the one case in this process
    #[arg(long, hide = true)]
    here: bool,
}

/// One line of results.
#[derive(Serialize, Deserialize)]
struct Line {
    case: String,
    /// Median.
    s: f64,
    runs: Vec<f64>,
    peak_rss_gib: Option<f64>,
    dtype: String,
    simd: String,
    threads: usize,
}

/// Measures every case in a process of its own, so that its peak memory is its own.
pub(super) fn run(args: &BenchArgs) -> Result<Outcome> {
    budget(args)?;
    if args.count && !args.device.starts_with("cuda") {
        bail!(Usage("--count counts what a CUDA device is asked for: it goes with --device cuda".into()));
    }
    args.dtype.check(&device(&args.device)?.0).map_err(|error| Usage(format!("--dtype {}: {error}", args.dtype)))?;
    let known = |case: &String| CASES.iter().any(|(name, _)| name == case);
    if let Some(case) = args.case.iter().find(|case| !known(case)) {
        let names = CASES.map(|(name, _)| name).join(", ");
        bail!(Usage(format!("there is no case {case:?}: {names}")));
    }
    let all = CASES.iter().map(|(name, _)| name.to_string());
    let cases: Vec<String> = if args.case.is_empty() { all.collect() } else { args.case.clone() };
    if args.here {
        for case in &cases {
            print(serde_json::to_string(&here(args, case)?)?)?;
        }
        return Ok(Outcome::Done);
    }
    if args.count {
        for case in &cases {
            let counts = Counts::of(case, |runs| again(args, case, runs))?;
            print(if args.json { serde_json::to_string(&counts)? } else { counts.table() })?;
        }
        return Ok(Outcome::Done);
    }
    if !args.json {
        print("case           seconds  peak GiB   what it is")?;
    }
    for case in &cases {
        let line = apart(args, case)?;
        if args.json {
            print(serde_json::to_string(&line)?)?;
        } else {
            let peak = line.peak_rss_gib.map_or("?".into(), |peak| format!("{peak:.2}"));
            let what = CASES.iter().find(|(name, _)| name == case).map_or("", |(_, what)| what);
            print(format!("{case:<12} {:>9.4} {peak:>9}   {what}", line.s))?;
        }
    }
    Ok(Outcome::Done)
}

fn budget(args: &BenchArgs) -> Result<Budget> {
    args.memory.parse().map_err(|error| Usage(format!("--memory {}: {error}", args.memory)).into())
}

fn here(args: &BenchArgs, case: &str) -> Result<Line> {
    let (device, _) = device(&args.device)?;
    let bench = Bench {
        base: args.base.clone(),
        device: device.clone(),
        precision: args.dtype,
        memory: budget(args)?,
        runs: args.runs.into(),
    };
    let runs = bench.run(case)?;
    let peak = memory(&device).map_or_else(peak_memory, |memory| memory.peak);
    let mut sorted = runs.clone();
    sorted.sort_by(f64::total_cmp);
    Ok(Line {
        case: case.into(),
        s: sorted[sorted.len() / 2],
        runs,
        peak_rss_gib: peak.map(|bytes| bytes as f64 / (1u64 << 30) as f64),
        dtype: args.dtype.to_string(),
        simd: level().name().into(),
        threads: rayon::current_num_threads(),
    })
}

/// This program on one case.
fn again(args: &BenchArgs, case: &str, runs: u16) -> Result<Command> {
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(program);
    command.args(["bench", "--here", "--base", &args.base, "--case", case, "--device", &args.device]);
    command.args(["--dtype", &args.dtype.to_string(), "--runs", &runs.to_string(), "--memory", &args.memory]);
    Ok(command)
}

fn apart(args: &BenchArgs, case: &str) -> Result<Line> {
    let mut command = again(args, case, args.runs)?;
    let output = command.stderr(std::process::Stdio::inherit()).output().context("cannot start this program again")?;
    if !output.status.success() {
        let hint = if output.status.code().is_none() { " (out of memory?)" } else { "" };
        bail!("the case {case} ended with {}{hint}", output.status);
    }
    serde_json::from_slice(&output.stdout).with_context(|| format!("the case {case} gave no result"))
}
