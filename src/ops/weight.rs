//! Weights in the form that the place of their operation reads: packed if they are frozen, as they are if they are trained.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};

use super::cpu::product::panels::{Panels, Strides};
use super::cpu::slices::with_slices;
use super::cuda::OnDevice;
use super::place::{Place, place};

/// How weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes a weight.
    #[default]
    F32,
    /// 4 bytes; products of TF32, with 10 bits of mantissa, summed in f32. For CUDA devices.
    Tf32,
    /// 2 bytes; computed in f32. For processors.
    F16,
    /// 2 bytes; products of bf16 summed in f32 where the processor has them, else computed in f32. On a CUDA device what
    /// goes from one operation to the next is bf16 too.
    Bf16,
}

impl Precision {
    const ALL: [Self; 4] = [Self::F32, Self::Tf32, Self::F16, Self::Bf16];

    /// What a device is best used with.
    pub fn of(device: &Device) -> Self {
        if device.is_cuda() { Self::Bf16 } else { Self::F32 }
    }

    /// Whether a device computes so.
    ///
    /// # Errors
    /// A sentence that says what it does instead.
    pub fn check(self, device: &Device) -> std::result::Result<(), String> {
        match self {
            Self::F16 if device.is_cuda() => {
                Err("f16 overflows in the autoencoder and needs scaled losses: a CUDA device takes bf16, tf32 or f32"
                    .into())
            }
            Self::Tf32 if !device.is_cuda() => Err("tf32 is for CUDA devices: here there are f32, f16 and bf16".into()),
            _ => Ok(()),
        }
    }

    /// What a precision becomes where nothing may be lost: the autoencoder's, the metrics'.
    pub fn fine(self, device: &Device) -> Self {
        if device.is_cuda() && self == Self::Bf16 { Self::Tf32 } else { self }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Self::ALL.into_iter().find(|precision| precision.to_string() == name);
        found.ok_or_else(|| "one of f32, tf32, f16 and bf16".into())
    }
}

/// A weight.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// A variable, or made of one: it changes, and has a gradient.
    Trained(Tensor),
    /// Packed for the CPU's products: the transposed matrix of a linear map, the filters of a convolution.
    Cpu(Arc<Panels>),
    /// For the kernels of a CUDA device.
    Cuda(Arc<OnDevice>),
    /// As it came.
    Plain(Tensor),
}

impl Weight {
    /// The weight [out, in] of a linear map.
    pub(crate) fn of_linear(weight: Tensor, precision: Precision) -> Result<Self> {
        let (to, from) = weight.dims2()?;
        if weight.track_op() {
            return Ok(Self::Trained(weight));
        }
        Ok(match place(&weight) {
            Place::Cpu => {
                let strides = Strides { row: 1, column: from };
                let packed = with_slices([&weight], |[weight]| Panels::pack(weight, from, to, strides))?;
                Self::Cpu(Arc::new(packed.kept_for_products(precision)))
            }
            Place::Cuda => Self::Cuda(Arc::new(OnDevice::of_linear(&weight, precision)?)),
            Place::Composed => Self::Plain(weight),
        })
    }

    /// The weight [out, in, k, k] of a convolution.
    pub(crate) fn of_convolution(weight: Tensor, precision: Precision) -> Result<Self> {
        let (out, channels, height, width) = weight.dims4()?;
        if weight.track_op() {
            return Ok(Self::Trained(weight));
        }
        Ok(match place(&weight) {
            Place::Cpu => {
                let pack = |[weight]: [&[f32]; 1]| Panels::pack_filters(weight, out, channels, height * width);
                Self::Cpu(Arc::new(with_slices([&weight], pack)?.kept_for_convolutions(precision, channels)))
            }
            Place::Cuda => Self::Cuda(Arc::new(OnDevice::of_convolution(&weight, precision)?)),
            Place::Composed => Self::Plain(weight),
        })
    }

    /// `x` in the type that its products with this weight take.
    pub(crate) fn suited(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Cuda(kept) => x.to_dtype(kept.values().dtype()),
            Self::Trained(weight) => x.to_dtype(weight.dtype()),
            Self::Cpu(_) | Self::Plain(_) => Ok(x.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_has_no_tf32() {
        for precision in Precision::ALL {
            assert_eq!(precision.to_string().parse(), Ok(precision));
            assert_eq!(precision.check(&Device::Cpu).is_ok(), precision != Precision::Tf32, "{precision}");
            assert_eq!(precision.fine(&Device::Cpu), precision);
        }
        assert_eq!(Precision::of(&Device::Cpu), Precision::F32);
        assert!("f64".parse::<Precision>().is_err());
    }
}
