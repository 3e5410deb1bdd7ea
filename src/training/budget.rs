//! How much of a step's forward pass is kept for its gradient, by the memory that there is.

use crate::machine::{available_memory, peak_memory};
use crate::model::Unet;
use crate::ops::Keep;

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
pub struct Plan {
    /// What a step keeps.
    pub keep: Keep,
    /// GiB that a step takes beside the models, about.
    pub step: f64,
    /// GiB that there are for it, if the system tells.
    pub free: Option<f64>,
}

/// Values per token and channel of a transformer that a step holds in any case, with everything around
/// it, and those between the maps of its blocks. Rounded up from measurements.
const IN_ANY_CASE: f64 = 24.;
const BETWEEN_MAPS: f64 = 11.;

impl Plan {
    /// A plan for steps of `samples` samples with latents of `side` x `side`.
    pub fn new(unet: &Unet, side: usize, samples: usize, budget: Budget) -> Self {
        let free = match budget {
            Budget::Auto => available_memory().map(|bytes| 0.9 * bytes as f64 / GIB),
            Budget::Gib(all) => Some(all - peak_memory().unwrap_or(0) as f64 / GIB),
        };
        let values = (samples * unet.transformer_values(side)) as f64 * 4. / GIB;
        Self::with(values, free)
    }

    fn with(values: f64, free: Option<f64>) -> Self {
        let all = values * (IN_ANY_CASE + BETWEEN_MAPS);
        if free.is_none_or(|free| all <= free) {
            Self { keep: Keep::All, step: all, free }
        } else {
            Self { keep: Keep::Inputs, step: values * IN_ANY_CASE, free }
        }
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let what = match self.keep {
            Keep::All => "keeps everything for its gradient",
            Keep::Inputs => "computes the inside of its blocks twice",
        };
        write!(f, "Memory: a step {what}, about {:.1} GiB", self.step)?;
        match self.free {
            Some(free) if free < self.step => write!(
                f,
                ", but only {:.1} GiB are free: a smaller --batch-size or training.side, or --dtype bf16, helps",
                free.max(0.)
            ),
            Some(free) => write!(f, " of {free:.1} GiB"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_depends_on_what_is_free() {
        let keep = |free| Plan::with(0.1, free).keep;
        assert_eq!((keep(None), keep(Some(4.)), keep(Some(3.))), (Keep::All, Keep::All, Keep::Inputs));
        let short = Plan::with(0.1, Some(1.));
        assert_eq!(short.keep, Keep::Inputs);
        assert!(short.to_string().contains("--batch-size"), "{short}");
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
