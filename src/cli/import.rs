//! `eqdiff import`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{MachineArgs, Outcome, noun};
use crate::app::Observer;
use crate::app::import::{Request, import};

const EXAMPLES: &str = "\
Examples:
  eqdiff import pytorch_custom_diffusion_weights.safetensors \"<new1>.safetensors\" --class cat --base sd14
  eqdiff import learned_embeds.bin --class toy --base sd14 --out toy
  eqdiff import pytorch_custom_diffusion_weights.safetensors freq_embeddings.safetensors --subject photos/dog --base sd14

  eqdiff import dog-lora.safetensors dog.safetensors --class dog --base sd14

The result is an adapter like any other: S* stands for the subject. Files are safetensors, or pickles of
tensors as PyTorch writes them since 2020 (.pt, .bin, .pth), which are read without running them. A LoRA may change keys and
values of cross-attention alone; `eqdiff sample --lora` draws with any other.";

/// Arguments of `import`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ImportArgs {
    /// Custom Diffusion weights, a textual inversion embedding, a LoRA, or the files of the released code
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The subject with its photos, which reference attention looks at: a folder or a name
    #[arg(long, value_name = "NAME_OR_DIR")]
    subject: Option<String>,
    /// The ordinary noun for the subject, e.g. dog [default: from the subject's name]
    #[arg(long, value_name = "WORD", value_parser = noun)]
    class: Option<String>,
    /// The base that it was trained on [default: mini]
    #[arg(long, value_name = "NAME_OR_DIR")]
    base: Option<String>,
    /// Where the adapter goes [default: outputs/SUBJECT-imported]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(super) fn run(args: ImportArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let ImportArgs { files, subject, class, base, out, machine } = args;
    let request = Request { files, subject, class, base, out, machine: machine.into() };
    import(&request, observer).map(|_| Outcome::Done)
}
