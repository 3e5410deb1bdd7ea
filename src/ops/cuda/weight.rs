//! Frozen weights on the device.

use std::sync::OnceLock;

use candle_core::{DType, Result, Tensor};

use crate::ops::weight::Precision;

/// A weight in the precision of its products.
#[derive(Debug)]
pub(crate) struct OnDevice {
    values: Tensor,
    /// Whether products of f32 keep all their bits.
    pub(super) exact: bool,
    turned: OnceLock<Tensor>,
}

impl OnDevice {
    /// The weight [out, in] of a linear map.
    pub(crate) fn of_linear(weight: &Tensor, precision: Precision) -> Result<Self> {
        let dtype = if precision == Precision::Bf16 { DType::BF16 } else { DType::F32 };
        let values = weight.to_dtype(dtype)?.contiguous()?;
        Ok(Self { values, exact: precision == Precision::F32, turned: OnceLock::new() })
    }

    /// The weight [out, in, k, k] of a convolution.
    pub(crate) fn of_convolution(weight: &Tensor, precision: Precision) -> Result<Self> {
        Self::of_linear(&weight.permute((0, 2, 3, 1))?, precision)
    }

    /// [out, in], or [out, k, k, in] of a convolution.
    pub(crate) fn values(&self) -> &Tensor {
        &self.values
    }

    /// A convolution's filters [in, k, k, out] for its input gradient, made when they are first asked for.
    pub(super) fn turned(&self) -> Result<&Tensor> {
        if let Some(turned) = self.turned.get() {
            return Ok(turned);
        }
        let (out, size, _, from) = self.values.dims4()?;
        let taps = self.values.reshape((out, size * size, from))?;
        let last_first = Tensor::from_iter((0..(size * size) as u32).rev(), taps.device())?;
        let turned = taps.index_select(&last_first, 1)?.permute((2, 1, 0))?.contiguous()?;
        let turned = turned.reshape((from, size, size, out))?;
        Ok(self.turned.get_or_init(|| turned))
    }
}
