//! The time of a device's heaviest operations beside what its memory and its tensor cores allow.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};

use crate::ops::attention::Options;
use crate::ops::{Around, Conv2d, GroupNorm, LayerNorm, Limits, Linear, Norm, Precision, attend, prepare};
use crate::rng;

/// An operation at the sizes of Stable Diffusion 1.4's outermost level, four samples of 64 x 64 pixels.
#[derive(Clone, Debug)]
pub struct Speed {
    /// What it is.
    pub name: &'static str,
    /// Seconds that it takes.
    pub took: f64,
    /// Seconds that the device could do it in: the longer of what its values and what its products take.
    pub limit: f64,
}

/// Times that an operation is timed together.
const RUNS: usize = 20;

/// Times each on `device`.
///
/// # Errors
/// If the device refuses.
pub fn speeds(device: &Device, precision: Precision, limits: Limits, show: &mut dyn FnMut(&Speed)) -> Result<()> {
    prepare(device, precision)?;
    let (samples, side, width, heads) = (4, 64, 320, 8);
    let tokens = side * side;
    let dtype = if precision == Precision::Bf16 { DType::BF16 } else { DType::F32 };
    let normal = |shape: &[usize]| rng::normal(shape, &mut rng::stream(0, "speed", 0), device)?.to_dtype(dtype);
    let weight = |shape: &[usize]| rng::normal(shape, &mut rng::stream(0, "speed", 1), device)? * 0.02;
    let (gain, lift) = (weight(&[width])?, weight(&[width])?);
    // a product of f32 is one of three on tensor cores with half the rate
    let products = match precision {
        Precision::Bf16 | Precision::F16 => limits.products,
        Precision::Tf32 => limits.products / 2.,
        Precision::F32 => limits.products / 6.,
    };
    let mut time = |name, values: usize, flop: f64, operation: &dyn Fn() -> Result<Tensor>| -> Result<()> {
        operation()?;
        device.synchronize()?;
        let start = Instant::now();
        for _ in 0..RUNS {
            operation()?;
        }
        device.synchronize()?;
        let bytes = (values * dtype.size_in_bytes()) as f64;
        let limit = (bytes / limits.bandwidth).max(flop / products);
        show(&Speed { name, took: start.elapsed().as_secs_f64() / RUNS as f64, limit });
        Ok(())
    };
    let picture = samples * tokens * width;
    let each = |from: usize, to: usize| 2. * (samples * tokens * from * to) as f64;

    let x = normal(&[samples, side, side, width])?;
    let norm = GroupNorm::new(gain.clone(), lift.clone(), 32, 1e-5).with_silu();
    let convolution = Conv2d::new(weight(&[width, width, 3, 3])?, Some(lift.clone()), 1, 1, precision)?;
    time("3x3 convolution, 320 channels", 2 * picture, each(9 * width, width), &|| convolution.forward(&x))?;
    let around = Around { norm: Some(&norm), residual: Some(&x), ..Around::default() };
    time("the same after a norm, with residual", 4 * picture, each(9 * width, width), &|| {
        convolution.forward_with(&x, around)
    })?;
    time("group norm and SiLU", 3 * picture, 0., &|| norm.forward(&x))?;

    let x = normal(&[samples, tokens, width])?;
    let norm = LayerNorm::new(gain, lift, 1e-5);
    time("layer norm", 2 * picture, 0., &|| norm.forward(&x))?;
    let map = Linear::new(weight(&[8 * width, width])?, None, precision)?;
    time("linear map from 320 to 2560", 9 * picture, each(width, 8 * width), &|| map.forward(&x))?;
    let options = Options { heads, ..Options::default() };
    time("attention of 4096 tokens, heads of 40", 4 * picture, 2. * each(tokens, width), &|| {
        attend(&x, &x, &x, &options)
    })
}
