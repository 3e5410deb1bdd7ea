//! The operations at the sizes of Stable Diffusion 1.4 at 512 pixels: `cargo bench`.

use candle_core::{Device, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use eqdiff::ops::attention::Options;
use eqdiff::ops::{Conv2d, GroupNorm, Linear, activation, attend};

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1., shape, &Device::Cpu).expect("a tensor")
}

fn benches(c: &mut Criterion) {
    let x = random(&[1, 320, 64, 64]);
    let conv = Conv2d::new(random(&[320, 320, 3, 3]), Some(random(&[320])), 1, 1);
    c.bench_function("conv 3x3, 320 channels, 64x64", |b| b.iter(|| conv.forward(&x)));
    let deep = random(&[1, 1280, 8, 8]);
    let conv = Conv2d::new(random(&[1280, 1280, 3, 3]), Some(random(&[1280])), 1, 1);
    c.bench_function("conv 3x3, 1280 channels, 8x8", |b| b.iter(|| conv.forward(&deep)));
    let norm = GroupNorm::new(random(&[320]), random(&[320]), 32, 1e-5).with_silu();
    c.bench_function("group norm and silu, 320 channels, 64x64", |b| b.iter(|| norm.forward(&x)));
    let tokens = random(&[1, 4096, 320]);
    let linear = Linear::new(random(&[2560, 320]), Some(random(&[2560])));
    c.bench_function("linear 320 to 2560, 4096 tokens", |b| b.iter(|| linear.forward(&tokens)));
    let options = Options { heads: 8, ..Options::default() };
    c.bench_function("attention, 8 heads of 40, 4096 tokens", |b| {
        b.iter(|| attend(&tokens, &tokens, &tokens, &options));
    });
    let wide = random(&[1, 4096, 2560]);
    c.bench_function("geglu, 4096 tokens of 1280", |b| b.iter(|| activation::geglu(&wide)));
}

criterion_group! {
    name = operations;
    config = Criterion::default().sample_size(10);
    targets = benches
}
criterion_main!(operations);
