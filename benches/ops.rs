//! The operations at the sizes of Stable Diffusion 1.4 at 512 pixels: `cargo bench`.

use candle_core::{Device, Tensor, Var};
use criterion::{Criterion, criterion_group, criterion_main};
use eqdiff::ops::attention::Options;
use eqdiff::ops::{Conv2d, FeedForward, GroupNorm, Keep, LayerNorm, Linear, Norm, Precision, attend};

#[global_allocator]
static MEMORY: eqdiff::memory::Recycling = eqdiff::memory::Recycling::new();

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 0.1, shape, &Device::Cpu).expect("a tensor")
}

fn linear(from: usize, to: usize, precision: Precision) -> Linear {
    Linear::new(random(&[to, from]), Some(random(&[to])), precision).expect("a linear map")
}

fn convolution(channels: usize) -> Conv2d {
    let kernel = random(&[channels, channels, 3, 3]);
    Conv2d::new(kernel, Some(random(&[channels])), 1, 1, Precision::F32).expect("a convolution")
}

/// Forward and input gradient.
fn both_ways(x: &Var, f: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> candle_core::Result<()> {
    f(x.as_tensor())?.sum_all()?.backward().map(|_| ())
}

fn convolutions(c: &mut Criterion) {
    for (channels, side) in [(320, 64), (640, 32), (1280, 16), (1280, 8)] {
        let (conv, x) = (convolution(channels), random(&[1, side, side, channels]));
        c.bench_function(&format!("conv 3x3, {channels} channels, {side}x{side}"), |b| b.iter(|| conv.forward(&x)));
        let x = Var::from_tensor(&x).expect("a variable");
        let name = format!("conv 3x3, {channels} channels, {side}x{side}, and its gradient");
        c.bench_function(&name, |b| b.iter(|| both_ways(&x, |x| conv.forward(x))));
    }
}

fn tokens(c: &mut Criterion) {
    let x = random(&[1, 4096, 320]);
    for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
        let map = linear(320, 2560, precision);
        c.bench_function(&format!("linear 320 to 2560, 4096 tokens, {precision}"), |b| b.iter(|| map.forward(&x)));
    }
    let options = Options { heads: 8, ..Options::default() };
    c.bench_function("attention, 8 heads of 40, 4096 tokens", |b| b.iter(|| attend(&x, &x, &x, &options)));
    let group_norm = GroupNorm::new(random(&[320]), random(&[320]), 32, 1e-5).with_silu();
    c.bench_function("group norm and silu, 4096 pixels of 320", |b| b.iter(|| group_norm.forward(&x)));
    let norm = LayerNorm::new(random(&[320]), random(&[320]), 1e-5);
    c.bench_function("layer norm, 4096 tokens of 320", |b| b.iter(|| norm.forward(&x)));
    let block = FeedForward::new(norm, linear(320, 2560, Precision::F32), linear(1280, 320, Precision::F32));
    c.bench_function("feed-forward, 4096 tokens of 320", |b| b.iter(|| block.forward(&x, Keep::ALL)));
    let x = Var::from_tensor(&x).expect("a variable");
    c.bench_function("attention and its gradient", |b| {
        b.iter(|| both_ways(&x, |x| attend(x, x, x, &options)));
    });
    c.bench_function("feed-forward and its gradient", |b| {
        b.iter(|| both_ways(&x, |x| block.forward(x, Keep::ALL)));
    });
}

criterion_group! {
    name = operations;
    config = Criterion::default().sample_size(10);
    targets = convolutions, tokens
}
criterion_main!(operations);
