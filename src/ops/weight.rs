//! Weights in the form that the place of their operation reads: packed if they are frozen, as they are if they are trained.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::cpu::product::panels::{Panels, Strides};
use super::cpu::slices::with_slices;
use super::place::{Place, place};

/// How weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes a weight.
    #[default]
    F32,
    /// 2 bytes; computed in f32.
    F16,
    /// 2 bytes; products of bf16 summed in f32 where the processor has them, else computed in f32.
    Bf16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let all = [Precision::F32, Precision::F16, Precision::Bf16];
        let found = all.into_iter().find(|precision| precision.to_string() == name);
        found.ok_or_else(|| "one of f32, f16 and bf16".into())
    }
}

/// A weight.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// A variable, or made of one: it changes, and has a gradient.
    Trained(Tensor),
    /// Packed for the CPU's products: the transposed matrix of a linear map, the filters of a convolution.
    Cpu(Arc<Panels>),
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
            Place::Composed => Self::Plain(weight),
        })
    }
}
