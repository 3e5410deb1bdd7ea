//! Where an operation runs, asked in one place.

use candle_core::{DType, Tensor};

/// What computes an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The kernels of [`cpu`](super::cpu).
    Cpu,
    /// candle's operations, on any device and in any precision: the reference of all kernels.
    Composed,
}

/// What computes an operation on `x`.
pub(crate) fn place(x: &Tensor) -> Place {
    if x.device().is_cpu() && x.dtype() == DType::F32 { Place::Cpu } else { Place::Composed }
}
