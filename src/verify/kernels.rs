//! Every kernel of a device against the same operation on the processor, forward and backward.

use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor, Var};

use super::case::{Check, HALF, TF32, distance};
use crate::ops::attention::Options;
use crate::ops::{
    Around, Conv2d, FeedForward, GroupNorm, Keep, LayerNorm, Linear, Norm, Precision, SelfAttention, TrainedLinear,
    activation, attend, blend, prepare,
};
use crate::rng;

/// An operation of some inputs, with weights of its own where it has any.
type Operation<'a> = dyn Fn(&Weights, &[&Tensor]) -> Result<Tensor> + 'a;

/// Where an operation runs, and how it keeps its weights.
struct Weights<'a> {
    device: &'a Device,
    precision: Precision,
}

impl Weights<'_> {
    /// Numbers that are the same on every device.
    fn normal(&self, name: &str, shape: &[usize], deviation: f64) -> Result<Tensor> {
        rng::normal(shape, &mut rng::stream(0, name, 0), self.device)? * deviation
    }

    fn linear(&self, name: &str, from: usize, to: usize) -> Result<Linear> {
        let weight = self.normal(name, &[to, from], (from as f64).powf(-0.5))?;
        Linear::new(weight, Some(self.normal(name, &[to], 0.5)?), self.precision)
    }

    fn convolution(&self, from: usize, to: usize, stride: usize) -> Result<Conv2d> {
        let weight = self.normal("filters", &[to, from, 3, 3], (9. * from as f64).powf(-0.5))?;
        Conv2d::new(weight, Some(self.normal("bias", &[to], 0.5)?), stride, 1, self.precision)
    }

    fn group_norm(&self, channels: usize) -> Result<GroupNorm> {
        let gain = (self.normal("gain", &[channels], 0.3)? + 1.)?;
        Ok(GroupNorm::new(gain, self.normal("lift", &[channels], 0.3)?, 32, 1e-5).with_silu())
    }

    fn layer_norm(&self, width: usize) -> Result<LayerNorm> {
        let gain = (self.normal("gain", &[width], 0.3)? + 1.)?;
        Ok(LayerNorm::new(gain, self.normal("lift", &[width], 0.3)?, 1e-5))
    }
}

/// Runs every operation on `device` and tells `show` of its worst result or gradient, and how long both took there.
///
/// # Errors
/// If the device refuses. A check that fails is no error.
pub fn kernels(device: &Device, precision: Precision, show: &mut dyn FnMut(&Check, Duration)) -> Result<()> {
    prepare(device, precision)?;
    let bound = match precision {
        Precision::F32 => 1e-4,
        Precision::Tf32 => TF32,
        Precision::F16 | Precision::Bf16 => HALF,
    };
    let mut check = |name: &str, shapes: &[&[usize]], operation: &Operation| -> Result<()> {
        let (error, took) = compare(device, precision, shapes, operation)?;
        show(&Check { name: name.into(), error, bound }, took);
        Ok(())
    };
    let (pixels, tokens): (&[usize], &[usize]) = (&[2, 16, 16, 64], &[2, 130, 80]);
    check("convolution after norm and SiLU, with shift and residual", &[pixels, pixels], &|w, x| {
        let (norm, shift) = (w.group_norm(64)?, w.normal("shift", &[2, 64], 1.)?);
        let around = Around { norm: Some(&norm), shift: Some(&shift), residual: Some(x[1]), ..Around::default() };
        w.convolution(64, 64, 1)?.forward_with(x[0], around)
    })?;
    check("convolution of every second pixel", &[pixels], &|w, x| w.convolution(64, 72, 2)?.forward(x[0]))?;
    check("convolution of doubled pixels", &[pixels], &|w, x| {
        let around = Around { doubled_to: Some((31, 32)), ..Around::default() };
        w.convolution(64, 40, 1)?.forward_with(x[0], around)
    })?;
    check("convolution of four channels", &[&[1, 9, 7, 4]], &|w, x| w.convolution(4, 40, 1)?.forward(x[0]))?;
    check("group norm", &[pixels], &|w, x| w.group_norm(64)?.forward(x[0]))?;
    check("layer norm", &[tokens], &|w, x| w.layer_norm(80)?.forward(x[0]))?;
    check("linear map with residual", &[tokens, tokens], &|w, x| {
        w.linear("map", 80, 80)?.forward_plus(x[0], Some(x[1]))
    })?;
    check("linear map that is trained", &[tokens, tokens, &[60, 160], &[60]], &|_, x| {
        TrainedLinear::new(x[2].clone(), Some(x[3].clone())).of_halves(x[0], x[1])
    })?;
    check("feed-forward", &[tokens], &|w, x| {
        let block = FeedForward::new(w.layer_norm(80)?, w.linear("in", 80, 640)?, w.linear("out", 320, 80)?);
        block.forward(x[0], Keep::INPUTS)
    })?;
    check("self-attention", &[tokens], &|w, x| {
        let map = |name| w.linear(name, 80, 80);
        let [to_q, to_k, to_v, to_out] = [map("q")?, map("k")?, map("v")?, map("out")?];
        SelfAttention { norm: w.layer_norm(80)?, to_q, to_k, to_v, to_out, heads: 2 }.forward(x[0], Keep::ALL)
    })?;
    for (heads, width) in [(2, 80), (1, 80), (1, 160), (1, 64)] {
        let (queries, keys): (&[usize], &[usize]) = (&[2, 100, width], &[2, 77, width]);
        check(
            &format!("attention with heads of {}, a column and a fixed key", width / heads),
            &[queries, keys, keys],
            &|w, x| {
                let column = Some(w.normal("column", &[2, 77], 1.)?.abs()?);
                let x = x.iter().map(|x| narrowed(x, w)).collect::<Result<Vec<_>>>()?;
                attend(&x[0], &x[1], &x[2], &Options { heads, column, fixed: 1, ..Options::default() })
            },
        )?;
    }
    check("causal attention", &[&[2, 77, 64], &[2, 77, 64], &[2, 77, 64]], &|w, x| {
        let x = x.iter().map(|x| narrowed(x, w)).collect::<Result<Vec<_>>>()?;
        attend(&x[0], &x[1], &x[2], &Options { heads: 1, causal: true, ..Options::default() })
    })?;
    check("GELU", &[tokens], &|w, x| activation::gelu(&narrowed(x[0], w)?))?;
    check("quick GELU", &[tokens], &|w, x| activation::quick_gelu(&narrowed(x[0], w)?))?;
    check("blend of reference attention", &[&[2, 130, 81], tokens, tokens], &|w, x| {
        // masks between the ends of their interval: the gradient jumps there
        let fused = ((x[0] * 0.1)? + 0.5)?;
        Ok(blend(&narrowed(&fused, w)?, &narrowed(x[1], w)?, &narrowed(x[2], w)?)?.0)
    })
}

/// `x` as it comes from an operation before.
fn narrowed(x: &Tensor, w: &Weights) -> Result<Tensor> {
    if w.device.is_cuda() && w.precision == Precision::Bf16 { x.to_dtype(DType::BF16) } else { Ok(x.clone()) }
}

/// The greatest distance between the results, and between the gradients of all inputs; the time that both took.
fn compare(
    device: &Device,
    precision: Precision,
    shapes: &[&[usize]],
    operation: &Operation,
) -> Result<(f64, Duration)> {
    let run = |w: &Weights| -> Result<(Vec<Vec<f64>>, Duration)> {
        let inputs = shapes.iter().enumerate().map(|(i, shape)| {
            Var::from_tensor(&w.normal(&format!("input {i}"), shape, if shape.len() == 2 { 0.1 } else { 1. })?)
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let given: Vec<&Tensor> = inputs.iter().map(Var::as_tensor).collect();
        // weights are prepared by the first run
        let once = || -> Result<_> {
            let y = operation(w, &given)?.to_dtype(DType::F32)?;
            let dy = w.normal("dy", y.dims(), 1.)?;
            let grads = (&y * &dy)?.sum_all()?.backward()?;
            w.device.synchronize()?;
            Ok((y, grads))
        };
        once()?;
        let start = Instant::now();
        let (y, grads) = once()?;
        let took = start.elapsed();
        let numbers = |t: &Tensor| t.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        let mut all = vec![numbers(&y)?];
        for input in &inputs {
            let Some(grad) = grads.get(input) else { candle_core::bail!("an input has no gradient") };
            all.push(numbers(grad)?);
        }
        Ok((all, took))
    };
    let (truth, _) = run(&Weights { device: &Device::Cpu, precision: Precision::F32 })?;
    let (found, took) = run(&Weights { device, precision })?;
    let gaps = found.iter().zip(&truth).map(|(found, truth)| distance(found, truth));
    // `max` of f64 prefers numbers
    let worst = gaps.fold(0f64, |worst, gap| if gap > worst || gap.is_nan() { gap } else { worst });
    Ok((worst, took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_agrees_with_itself_in_half_precision() {
        let mut count = 0;
        let mut show = |check: &Check, _| {
            count += 1;
            assert!(check.passed(), "{check:?}");
        };
        kernels(&Device::Cpu, Precision::F16, &mut show).expect("no error");
        assert_eq!(count, 18);
    }
}
