//! How much of a step's forward pass is kept for its gradient, by the memory that there is.

use candle_core::{DType, Device};

use crate::machine::{available_memory, peak_memory};
use crate::model::Unet;
use crate::ops::{self, Keep, Precision};

const GIB: f64 = (1u64 << 30) as f64;

/// The memory that training may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// What is free.
    Auto,
    /// So many GiB for the whole program.
    Gib(f64),
}

impl std::str::FromStr for Budget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let number = text.trim_end_matches("GiB").trim_end_matches("GB").trim();
        match number.parse() {
            Ok(gib) if gib > 0. && f64::is_finite(gib) => Ok(Self::Gib(gib)),
            _ => Err("auto, or a number of GiB, e.g. 12 or 12GiB".into()),
        }
    }
}

/// What was chosen, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryPlan {
    /// What a step keeps.
    pub keep: Keep,
    /// GiB that a step takes beside the models, about.
    pub step: f64,
    /// GiB that there are for it, if the system tells.
    pub free: Option<f64>,
}

/// What a step takes. Rounded up from measurements.
#[derive(Clone, Copy)]
struct Needs {
    /// GiB beside those values.
    fixed: f64,
    /// Values per token and channel of a transformer that are held in any case, with everything around it.
    around: f64,
    /// Those inside its blocks.
    inside: f64,
}

impl Needs {
    const OF_PROCESSOR: Self = Self { fixed: 0., around: 20., inside: 11. };

    /// Maps of one head of the most tokens that the gradient of composed attention holds.
    const MAPS: usize = 16;

    /// On a device with memory of its own frozen filters are kept turned too, for gradients, and what is not bf16 composes
    /// attention of at most so many `tokens`, head by head.
    fn of_device(unet: &Unet, tokens: usize, samples: usize, precision: Precision) -> Self {
        let (dtype, maps) = match precision {
            Precision::Bf16 => (DType::BF16, 0),
            _ => (DType::F32, Self::MAPS * samples * tokens.pow(2)),
        };
        let fixed = (unet.filter_values() + maps) as f64 * dtype.size_in_bytes() as f64 / GIB;
        Self { fixed, around: 34., inside: 8. }
    }
}

impl MemoryPlan {
    /// A plan for steps of `samples` samples with latents of `side` x `side` on a device, in its memory if it has its own.
    pub fn new(
        unet: &Unet,
        side: usize,
        samples: usize,
        budget: Budget,
        (device, precision): (&Device, Precision),
    ) -> Self {
        let own = ops::memory(device);
        let free = match (budget, own) {
            (Budget::Auto, Some(memory)) => Some(0.9 * memory.free as f64 / GIB),
            (Budget::Gib(all), Some(memory)) => Some(all - (memory.total - memory.free) as f64 / GIB),
            (Budget::Auto, None) => available_memory().map(|bytes| 0.9 * bytes as f64 / GIB),
            (Budget::Gib(all), None) => Some(all - peak_memory().unwrap_or(0) as f64 / GIB),
        };
        let dtype = if own.is_some() && precision == Precision::Bf16 { DType::BF16 } else { DType::F32 };
        let bytes = dtype.size_in_bytes() as f64;
        let gib = |(tokens, values)| (tokens, (samples * values) as f64 * bytes / GIB);
        let levels: Vec<_> = unet.transformer_values(side).into_iter().map(gib).collect();
        let tokens = levels.iter().find(|(_, gib)| *gib > 0.).map_or(0, |(tokens, _)| *tokens);
        let needs = own.map_or(Needs::OF_PROCESSOR, |_| Needs::of_device(unet, tokens, samples, precision));
        Self::with(&levels, needs, free)
    }

    /// `levels`: tokens of a transformer, and GiB of one value per token and channel of all transformers there; the most
    /// tokens first.
    fn with(levels: &[(usize, f64)], needs: Needs, free: Option<f64>) -> Self {
        let gib = |levels: &[(usize, f64)]| levels.iter().map(|(_, gib)| gib).sum::<f64>();
        let least = needs.fixed + needs.around * gib(levels);
        for (i, (tokens, _)) in levels.iter().enumerate() {
            let step = least + needs.inside * gib(&levels[i..]);
            if free.is_none_or(|free| step <= free) {
                return Self { keep: if i == 0 { Keep::ALL } else { Keep { tokens: *tokens } }, step, free };
            }
        }
        Self { keep: Keep::INPUTS, step: least, free }
    }
}

impl std::fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self.keep {
            Keep::ALL => write!(f, "Memory: a step keeps everything for its gradient")?,
            Keep::INPUTS => write!(f, "Memory: a step computes the inside of its blocks twice")?,
            Keep { tokens } => {
                write!(f, "Memory: a step computes the inside of its blocks of more than {tokens} tokens twice")?;
            }
        }
        write!(f, ", about {}", size(self.step))?;
        match self.free {
            Some(free) if free < self.step => write!(
                f,
                ", but only {} are free: a smaller --batch-size or training.side, or --dtype bf16, helps",
                size(free.max(0.))
            ),
            Some(free) => write!(f, " of {}", size(free)),
            None => Ok(()),
        }
    }
}

/// GiB as people read them.
fn size(gib: f64) -> String {
    if gib < 1. { format!("{:.0} MiB", gib * 1024.) } else { format!("{gib:.1} GiB") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Base, MINI};

    #[test]
    fn all_filters_are_counted() -> anyhow::Result<()> {
        let base = Base::load(MINI, true, &Device::Cpu, Precision::F32)?;
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/mini/unet/diffusion_pytorch_model.safetensors");
        let inner = candle_core::safetensors::load(file, &Device::Cpu)?.into_iter();
        let inner = inner.filter(|(name, t)| {
            t.dims().ends_with(&[3, 3]) && !["conv_in.weight", "conv_out.weight"].contains(&name.as_str())
        });
        let values = inner.map(|(_, t)| t.elem_count()).sum::<usize>();
        assert_eq!(base.unet.filter_values(), values);
        Ok(())
    }

    #[test]
    fn what_is_kept_depends_on_what_is_free() {
        let levels = [(4096, 0.06), (1024, 0.03), (64, 0.01)];
        let keep = |free| MemoryPlan::with(&levels, Needs::OF_PROCESSOR, free).keep;
        assert_eq!([keep(None), keep(Some(4.))], [Keep::ALL; 2]);
        assert_eq!([keep(Some(3.)), keep(Some(2.2))], [Keep { tokens: 1024 }, Keep { tokens: 64 }]);
        let short = MemoryPlan::with(&levels, Needs::OF_PROCESSOR, Some(1.));
        assert_eq!(short.keep, Keep::INPUTS);
        assert!(short.to_string().contains("--batch-size"), "{short}");
        assert_eq!([size(0.25), size(1.25)], ["256 MiB", "1.2 GiB"]);
    }

    #[test]
    fn budgets_are_read() {
        assert_eq!("auto".parse(), Ok(Budget::Auto));
        assert_eq!("12".parse(), Ok(Budget::Gib(12.)));
        assert_eq!("7.5 GiB".parse(), Ok(Budget::Gib(7.5)));
        for wrong in ["", "-1", "much", "inf"] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }
}
