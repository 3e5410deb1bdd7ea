//! A frozen linear map.

use candle_core::{D, Result, Tensor};

use super::backward::with_backward;

/// y = x W^T + b with frozen W [out, in] and b [out].
#[derive(Clone, Debug)]
pub struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    /// `weight` [out, in], `bias` [out].
    pub fn new(weight: Tensor, bias: Option<Tensor>) -> Self {
        Self { weight, bias }
    }

    /// The weight [out, in].
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Maps `x` [..., in] to [..., out].
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (width_out, width_in) = self.weight.dims2()?;
        let mut shape = x.dims().to_vec();
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let x = x.reshape((rows, width_in))?;
        let mut y = x.detach().matmul(&self.weight.t()?)?;
        if let Some(bias) = &self.bias {
            y = y.broadcast_add(bias)?;
        }
        let weight = self.weight.clone();
        let y = with_backward(&x, y, move |dy| dy.matmul(&weight))?;
        if let Some(last) = shape.last_mut() {
            *last = width_out;
        }
        y.reshape(shape)
    }
}

/// y = x W^T for a *trained* W [out, in]: an ordinary candle operation, with both gradients.
pub fn trained(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (width_out, width_in) = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    let rows = x.elem_count() / x.dim(D::Minus1)?;
    let y = x.reshape((rows, width_in))?.matmul(&weight.t()?)?;
    if let Some(last) = shape.last_mut() {
        *last = width_out;
    }
    y.reshape(shape)
}
