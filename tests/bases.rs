//! Bases as others write them: other names, other precisions.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Place, bytes, copy, picture, tiny_base};
use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

const VAE: &str = "vae/diffusion_pytorch_model.safetensors";
const TEXT: &str = "text_encoder/model.safetensors";

/// What a base draws.
fn drawn(place: &Place, base: &str) -> image::RgbImage {
    let out = format!("drawn-{base}");
    place.ok(&["sample", "--base", base, "--no-adapter", "--prompt", "a dog", "--steps", "2", "--out", &out]);
    image::open(picture(&place.path(&out), "a-dog-0")).expect("a picture").to_rgb8()
}

/// Writes a file again with other names, or in another precision.
fn rewrite(file: &Path, name: impl Fn(&str) -> String, dtype: Dtype) {
    let old = bytes(file);
    let tensors = SafeTensors::deserialize(&old).expect("tensors");
    let converted: BTreeMap<String, (Vec<u8>, Vec<usize>)> = tensors
        .iter()
        .map(|(key, view)| {
            assert_eq!(view.dtype(), Dtype::F16, "{key}");
            let values = view.data().as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32());
            let data = match dtype {
                Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
                Dtype::BF16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
                _ => view.data().to_vec(),
            };
            (name(key), (data, view.shape().to_vec()))
        })
        .collect();
    let views = converted
        .iter()
        .map(|(key, (data, shape))| (key, TensorView::new(dtype, shape.clone(), data).expect("a tensor of that size")));
    let new = safetensors::serialize(views, None).expect("a file");
    assert!(new != old, "nothing was changed");
    std::fs::write(file, new).expect("a file");
}

#[test]
fn both_generations_of_names_give_the_same_picture() {
    let place = Place::new();
    copy(tiny_base().as_ref(), &place.path("now"));
    copy(tiny_base().as_ref(), &place.path("published"));
    let pairs = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let older = |key: &str| pairs.iter().fold(key.to_string(), |key, (now, then)| key.replace(now, then));
    rewrite(&place.path("published").join(VAE), older, Dtype::F16);
    let other = |key: &str| match key.strip_prefix("text_model.") {
        Some(bare) => bare.to_string(),
        None => format!("text_model.{key}"),
    };
    rewrite(&place.path("published").join(TEXT), other, Dtype::F16);
    assert_eq!(drawn(&place, "now"), drawn(&place, "published"));
}

#[test]
fn every_precision_gives_the_same_picture() {
    let place = Place::new();
    copy(tiny_base().as_ref(), &place.path("f16"));
    let original = drawn(&place, "f16");
    // bf16 has three binary digits less than the f16 of the original
    for (name, dtype, bound) in [("f32", Dtype::F32, 0), ("bf16", Dtype::BF16, 24)] {
        copy(tiny_base().as_ref(), &place.path(name));
        for file in [VAE, TEXT, "unet/diffusion_pytorch_model.safetensors"] {
            rewrite(&place.path(name).join(file), str::to_string, dtype);
        }
        let other = drawn(&place, name);
        let gap = original.iter().zip(other.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(gap <= Some(bound), "{name}: {gap:?}");
    }
}
