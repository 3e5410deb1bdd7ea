//! Where models compute.

use anyhow::{Context, Result, anyhow, bail};
use candle_core::Device;

use crate::ops::{cuda_cards, cuda_device};

/// Kinds of devices beside the CPU, in the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Cuda,
    Metal,
}

impl Kind {
    const ALL: [Self; 2] = [Self::Cuda, Self::Metal];

    fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Metal => "metal",
        }
    }

    /// Whether this build has it, which does not say that this machine does.
    fn is_built(self) -> bool {
        match self {
            Self::Cuda => candle_core::utils::cuda_is_available(),
            Self::Metal => candle_core::utils::metal_is_available(),
        }
    }

    fn open(self, index: usize) -> candle_core::Result<Device> {
        match self {
            Self::Cuda => cuda_device(index),
            Self::Metal => Device::new_metal(index),
        }
    }
}

/// The device of that name: `auto`, `cpu`, `cuda`, `cuda:1` or `metal`; with a sentence where `auto` is not what could be
/// expected.
///
/// # Errors
/// If this build or this machine has no such device.
pub fn device(name: &str) -> Result<(Device, Option<String>)> {
    choose(name, Kind::is_built, Kind::open)
}

/// The numbers of the other devices of its kind that `device`, which was chosen by `name`, can share work with: none where
/// the user chose one by its number.
pub fn other_cards(name: &str, device: &Device) -> Vec<usize> {
    let any = device.is_cuda() && matches!(name, "auto" | "cuda");
    (1..if any { cuda_cards() } else { 0 }).collect()
}

/// What helps against an error of a device.
pub fn advice(error: &anyhow::Error) -> Option<&'static str> {
    // the driver's word, and that of its libraries
    let words = ["CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED", "STATUS_ALLOCATION_FAILED"];
    let full = error.chain().any(|cause| words.iter().any(|word| cause.to_string().contains(word)));
    full.then_some(
        "the GPU's memory is full: --dtype bf16, a smaller --batch-size or training.side, or --memory N with fewer GiB \
         than it has, so that more is computed twice; see what else runs there with nvidia-smi",
    )
}

fn choose<D: From<Cpu>>(
    name: &str,
    built: impl Fn(Kind) -> bool,
    open: impl Fn(Kind, usize) -> candle_core::Result<D>,
) -> Result<(D, Option<String>)> {
    // candle adds a backtrace in further lines
    let first_line = |error: candle_core::Error| anyhow!("{}", error.to_string().lines().next().unwrap_or_default());
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => {
            (kind, index.parse().with_context(|| format!("{index:?} in --device {name} is no number"))?)
        }
        None => (name, 0),
    };
    if let Some(kind) = Kind::ALL.into_iter().find(|other| other.name() == kind) {
        if !built(kind) {
            bail!("this build has no {0}: build it with `cargo build --release --features {0}`", kind.name());
        }
        let device = open(kind, index).map_err(first_line).with_context(|| format!("cannot use {name}"))?;
        return Ok((device, None));
    }
    match name {
        "cpu" => Ok((Cpu.into(), None)),
        "auto" => {
            let mut failures = Vec::new();
            for kind in Kind::ALL.into_iter().filter(|&kind| built(kind)) {
                match open(kind, 0) {
                    Ok(device) => return Ok((device, None)),
                    Err(error) => failures.push(format!("{} cannot be used ({})", kind.name(), first_line(error))),
                }
            }
            let warning = (!failures.is_empty()).then(|| format!("{}: computing on the CPU", failures.join(", ")));
            Ok((Cpu.into(), warning))
        }
        _ => bail!("unknown device {name:?}: auto, cpu, cuda, cuda:N or metal"),
    }
}

/// The device that there always is.
struct Cpu;

impl From<Cpu> for Device {
    fn from(_: Cpu) -> Self {
        Self::Cpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Opened(Option<(Kind, usize)>);

    impl From<Cpu> for Opened {
        fn from(_: Cpu) -> Self {
            Self(None)
        }
    }

    /// What is chosen by a build with `built` on a machine with `there`.
    fn chosen(name: &str, built: &[Kind], there: &[Kind]) -> Result<(Opened, Option<String>)> {
        let open = |kind, index| match there.contains(&kind) {
            true => Ok(Opened(Some((kind, index)))),
            false => Err(candle_core::Error::msg("no driver\n   0: a backtrace")),
        };
        choose(name, |kind| built.contains(&kind), open)
    }

    #[test]
    fn auto_takes_what_there_is() -> Result<()> {
        use Kind::{Cuda, Metal};
        for (built, there, opened) in [
            (&[][..], &[Cuda, Metal][..], None),
            (&[Cuda], &[Cuda], Some((Cuda, 0))),
            (&[Metal], &[Metal], Some((Metal, 0))),
            (&[Cuda, Metal], &[Metal], Some((Metal, 0))),
        ] {
            assert_eq!(chosen("auto", built, there)?, (Opened(opened), None), "{built:?} {there:?}");
        }
        let (device, warning) = chosen("auto", &[Cuda, Metal], &[])?;
        assert_eq!(device, Opened(None));
        let expected = "cuda cannot be used (no driver), metal cannot be used (no driver): computing on the CPU";
        assert_eq!(warning.as_deref(), Some(expected));
        Ok(())
    }

    #[test]
    fn a_full_device_has_advice() {
        let error = |text: &'static str| anyhow!(candle_core::Error::msg(text)).context("step 3");
        assert!(advice(&error("DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")")).is_some());
        assert!(advice(&error("CublasError(CUBLAS_STATUS_ALLOC_FAILED)")).is_some());
        assert!(advice(&error("something else")).is_none());
    }

    #[test]
    fn what_is_named_is_taken_or_an_error() -> Result<()> {
        use Kind::{Cuda, Metal};
        assert_eq!(chosen("cpu", &[Cuda], &[Cuda])?.0, Opened(None));
        assert_eq!(chosen("cuda:3", &[Cuda], &[Cuda])?.0, Opened(Some((Cuda, 3))));
        assert_eq!(chosen("metal", &[Metal], &[Metal])?.0, Opened(Some((Metal, 0))));
        for (name, built, said) in [
            ("cuda", &[][..], "this build has no cuda"),
            ("metal", &[Cuda], "this build has no metal"),
            ("cuda", &[Cuda], "cannot use cuda: no driver"),
            ("cuda:x", &[Cuda], "is no number"),
            ("cpu:1", &[], "unknown device"),
            ("gpu", &[], "unknown device"),
        ] {
            let error = chosen(name, built, &[]).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(error.contains(said) && !error.contains("backtrace"), "{name}: {error}");
        }
        Ok(())
    }
}
