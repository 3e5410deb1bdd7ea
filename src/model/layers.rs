//! Building the frozen layers from a checkpoint.

use candle_core::{Result, Tensor};

use crate::ops::{Conv2d, GroupNorm, LayerNorm, Linear};
use crate::weights::Weights;

pub(super) fn linear(w: &Weights, width_in: usize, width_out: usize) -> Result<Linear> {
    Linear::new(w.matrix((width_out, width_in), "weight")?, Some(w.get(&[width_out], "bias")?), w.precision())
}

pub(super) fn linear_no_bias(w: &Weights, width_in: usize, width_out: usize) -> Result<Linear> {
    Linear::new(w.matrix((width_out, width_in), "weight")?, None, w.precision())
}

pub(super) fn conv(w: &Weights, from: usize, to: usize, size: usize, stride: usize, padding: usize) -> Result<Conv2d> {
    let (kernel, bias) = (w.get(&[to, from, size, size], "weight")?, w.get(&[to], "bias")?);
    Conv2d::new(kernel, Some(bias), stride, padding, w.precision())
}

pub(super) fn group_norm(w: &Weights, channels: usize, groups: usize, eps: f64) -> Result<GroupNorm> {
    if !channels.is_multiple_of(groups) {
        candle_core::bail!("{} in {}: {channels} channels in {groups} groups", w.prefix(), w.file());
    }
    Ok(GroupNorm::new(w.get(&[channels], "weight")?, w.get(&[channels], "bias")?, groups, eps))
}

pub(super) fn layer_norm(w: &Weights, width: usize, eps: f64) -> Result<LayerNorm> {
    Ok(LayerNorm::new(w.get(&[width], "weight")?, w.get(&[width], "bias")?, eps))
}

/// `x` [B, ...] again and again along the samples, up to `batch` of them.
///
/// # Errors
/// If shapes do not fit.
pub fn tiled(x: &Tensor, batch: usize) -> Result<Tensor> {
    let copies = batch / x.dim(0)?;
    if copies == 1 { Ok(x.clone()) } else { Tensor::cat(&vec![x; copies], 0) }
}
