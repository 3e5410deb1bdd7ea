//! Masks that the program makes.

mod common;

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, safetensors};
use common::Place;
use image::{GrayImage, Luma, RgbImage};

/// What `--compare` says.
fn shared(said: &str) -> f64 {
    let number = said.split("that were there: ").nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no overlap in {said}"))
}

/// The embedded base, on subjects that it was not trained on: their masks are exact.
#[test]
fn the_base_finds_subjects_that_it_never_saw() {
    let place = Place::new();
    let bundled = ["backpack", "cat", "clock", "dog", "teapot"];
    for (way, least) in [("attention", 0.85), ("plain", 0.85)] {
        let shares = bundled.map(|subject| shared(&place.ok(&["mask", subject, "--compare", "--way", way])));
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!(mean >= least, "{way}: {mean} of {shares:?}");
    }
}

/// Two photos of a red ball.
fn ball(place: &Place) -> std::path::PathBuf {
    let folder = place.path("ball");
    std::fs::create_dir(&folder).expect("a folder");
    for (i, behind) in [[90u8, 160, 220], [200, 180, 150]].into_iter().enumerate() {
        let inside = |x: u32, y: u32| (x as i32 - 30).pow(2) + (y as i32 - 32).pow(2) < 300;
        let level = |x, y| image::Rgb(if inside(x, y) { [200, 30, 40] } else { behind });
        RgbImage::from_fn(64, 64, level).save(folder.join(format!("{i}.png"))).expect("a photo");
    }
    folder
}

#[test]
fn masks_go_where_training_finds_them() {
    let place = Place::new();
    let folder = ball(&place);
    let ball = folder.display().to_string();
    place.ok(&["mask", &ball, "--way", "plain"]);
    for name in ["masks/0.png", "masks/1.png", "masks/overlays/0.png", "masks/masks.html"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    // found, and its own masks are replaced
    place.ok(&["mask", &ball, "--way", "plain"]);
    assert!(shared(&place.ok(&["mask", &ball, "--way", "plain", "--compare"])) > 0.99);
    // somebody else's are not, and those to compare with are left alone
    GrayImage::from_pixel(64, 64, Luma([255])).save(folder.join("masks/1.png")).expect("a mask");
    place.fails(2, &["masks/1.png", "not from eqdiff", "--out"], &["mask", &ball]);
    let masks = || ["masks/0.png", "masks/1.png"].map(|name| common::bytes(&folder.join(name)));
    let before = masks();
    assert!(shared(&place.ok(&["mask", &ball, "--way", "plain", "--compare"])) < 0.8);
    assert!(place.path("outputs/masks/ball/1.png").is_file() && masks() == before);
    // in a world of toys
    let said = place.ok(&["mask", "ball/0.png", "--class", "quux", "--out", "q"]);
    assert!(said.contains("mini does not know quux"), "{said}");
    // nor does a mask replace another
    place.subject("other");
    let same = ["mask", "ball/0.png", "other/0.png", "--way", "plain", "--out", "m"];
    place.fails(2, &["other/0.png", "another photo has that name"], &same);
}

#[test]
fn training_makes_the_masks_that_are_missing() {
    let place = Place::new();
    let folder = ball(&place);
    let (ball, base) = (folder.display().to_string(), common::tiny_base());
    place.ok(&["mask", &ball, "--way", "plain"]);
    std::fs::remove_file(folder.join("masks/1.png")).expect("a mask");
    let training = ["train", "--subject", &ball, "--base", &base, "--steps", "1", "--num-class-images", "0"];
    place.fails(1, &["no mask for"], &training);
    let said = place.ok(&[&training[..], &["--auto-mask", "--out", "trained"]].concat());
    assert!(said.contains("made, ") && said.contains("masks/0.png"), "{said}");
    assert!(place.path("trained/masks/01.png").is_file());
}

/// A small Segment Anything in the published names, for squares of 64 pixels: four by four places of 32 values.
fn small_sam() -> HashMap<String, Tensor> {
    let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
    let both = |add: &mut dyn FnMut(String, &[usize]), name: &str, shape: &[usize], outputs: usize| {
        add(format!("{name}.weight"), shape);
        add(format!("{name}.bias"), &[outputs]);
    };
    add("image_encoder.pos_embed".into(), &[1, 4, 4, 32]);
    both(&mut add, "image_encoder.patch_embed.proj", &[32, 3, 16, 16], 32);
    // windows of three by three places, and all sixteen
    for (block, distances) in [(0, 5), (1, 7)] {
        let block = format!("image_encoder.blocks.{block}");
        for (name, to, from) in
            [("attn.qkv", 96, 32), ("attn.proj", 32, 32), ("mlp.lin1", 128, 32), ("mlp.lin2", 32, 128)]
        {
            both(&mut add, &format!("{block}.{name}"), &[to, from], to);
        }
        ["norm1", "norm2"].iter().for_each(|name| both(&mut add, &format!("{block}.{name}"), &[32], 32));
        ["rel_pos_h", "rel_pos_w"].iter().for_each(|name| add(format!("{block}.attn.{name}"), &[distances, 16]));
    }
    add("image_encoder.neck.0.weight".into(), &[32, 32, 1, 1]);
    add("image_encoder.neck.2.weight".into(), &[32, 32, 3, 3]);
    [1, 3].iter().for_each(|layer| both(&mut add, &format!("image_encoder.neck.{layer}"), &[32], 32));
    add("prompt_encoder.pe_layer.positional_encoding_gaussian_matrix".into(), &[2, 16]);
    let vectors = ["point_embeddings.0", "point_embeddings.1", "point_embeddings.2", "point_embeddings.3"];
    for name in vectors.iter().chain(&["not_a_point_embed", "no_mask_embed"]) {
        add(format!("prompt_encoder.{name}.weight"), &[1, 32]);
    }
    add("mask_decoder.iou_token.weight".into(), &[1, 32]);
    add("mask_decoder.mask_tokens.weight".into(), &[4, 32]);
    let attention = |add: &mut dyn FnMut(String, &[usize]), name: &str, inner: usize| {
        ["q_proj", "k_proj", "v_proj"]
            .iter()
            .for_each(|part| both(add, &format!("{name}.{part}"), &[inner, 32], inner));
        both(add, &format!("{name}.out_proj"), &[32, inner], 32);
    };
    let transformer = "mask_decoder.transformer";
    for layer in [0, 1].map(|layer| format!("{transformer}.layers.{layer}")) {
        attention(&mut add, &format!("{layer}.self_attn"), 32);
        attention(&mut add, &format!("{layer}.cross_attn_token_to_image"), 16);
        attention(&mut add, &format!("{layer}.cross_attn_image_to_token"), 16);
        both(&mut add, &format!("{layer}.mlp.lin1"), &[2048, 32], 2048);
        both(&mut add, &format!("{layer}.mlp.lin2"), &[32, 2048], 32);
        (1..5).for_each(|norm| both(&mut add, &format!("{layer}.norm{norm}"), &[32], 32));
    }
    attention(&mut add, &format!("{transformer}.final_attn_token_to_image"), 16);
    both(&mut add, &format!("{transformer}.norm_final_attn"), &[32], 32);
    both(&mut add, "mask_decoder.output_upscaling.0", &[32, 8, 2, 2], 8);
    both(&mut add, "mask_decoder.output_upscaling.1", &[8], 8);
    both(&mut add, "mask_decoder.output_upscaling.3", &[8, 4, 2, 2], 4);
    for (layer, to) in [(0, 32), (1, 32), (2, 4)] {
        let heads = (0..4).map(|mask| format!("mask_decoder.output_hypernetworks_mlps.{mask}"));
        for head in heads.chain(["mask_decoder.iou_prediction_head".to_string()]) {
            both(&mut add, &format!("{head}.layers.{layer}"), &[to, 32], to);
        }
    }
    let tensor = |(at, (name, shape)): (usize, (String, Vec<usize>))| {
        let count: usize = shape.iter().product();
        let scale = if shape.len() > 1 { (count as f64 / shape[0] as f64).powf(-0.5) } else { 0.5 };
        let value = |i: usize| (scale * (1.7 * i as f64 * (1. + 0.01 * at as f64) + at as f64).sin()) as f32;
        let values: Vec<f32> = (0..count).map(value).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor"))
    };
    shapes.into_iter().enumerate().map(tensor).collect()
}

/// With random weights: what it cuts is nothing, but it goes all the way.
#[test]
fn segment_anything_cuts_what_it_is_asked_for() {
    let place = Place::new();
    let folder = ball(&place);
    let (sam, photo) = (small_sam(), folder.join("0.png").display().to_string());
    let save =
        |name: &str, tensors: &HashMap<String, Tensor>| safetensors::save(tensors, place.path(name)).expect("a file");
    save("sam.safetensors", &sam);
    let mask = |out: &str, more: &[&str]| {
        place.ok(&[&["mask", &photo, "--sam", "sam.safetensors", "--out", out][..], more].concat());
        image::open(place.path(out).join("0.png")).expect("a mask").to_luma8()
    };
    let masks = [
        mask("point", &["--point", "30,32"]),
        mask("elsewhere", &["--point", "5,60"]),
        mask("not", &["--point", "30,32", "--neg-point", "5,60"]),
        mask("box", &["--box", "12,14,48,50"]),
        mask("both", &["--box", "12,14,48,50", "--point", "30,32"]),
        mask("all", &["--box", "0,0,64,64"]), // edges, not pixels
    ];
    assert!(masks.iter().all(|mask| mask.dimensions() == (64, 64)));
    assert!(masks[1..].iter().any(|mask| *mask != masks[0]), "the prompt makes no difference");
    // around what another way finds, in all photos
    let ball = folder.display().to_string();
    let said = place.ok(&["mask", &ball, "--way", "plain", "--sam", "sam.safetensors"]);
    assert!(folder.join("masks/1.png").is_file() && said.contains("masks.html"), "{said}");

    let fails = |code: i32, parts: &[&str], more: &[&str]| {
        place.fails(code, parts, &[&["mask", &photo, "--out", "x"][..], more].concat());
    };
    for (parts, more) in [
        (&["--sam"][..], &["--point", "3,4"][..]),
        (&["120,120"], &["--sam", "sam.safetensors", "--point", "3"]),
        (&["--way"], &["--sam", "sam.safetensors", "--point", "3,4", "--way", "plain"]),
        (&["--dtype"], &["--sam", "sam.safetensors", "--point", "3,4", "--dtype", "bf16"]),
        (&["64,3 is not in the photo of 64x64"], &["--sam", "sam.safetensors", "--point", "64,3"]),
        (&["-1,3 is not in the photo"], &["--sam", "sam.safetensors", "--point", "-1,3"]),
        (&["-1,3 is not in the photo"], &["--sam", "sam.safetensors", "--point", "3,4", "--neg-point", "-1,3"]),
        (&["-1,3 is not in the photo"], &["--sam", "sam.safetensors", "--box", "-1,3,20,40"]),
        (&["65,64 is not in the photo"], &["--sam", "sam.safetensors", "--box", "0,0,65,64"]),
        (&["give the left, upper"], &["--sam", "sam.safetensors", "--box", "30,30,20,40"]),
        (&["not wanted", "--box"], &["--sam", "sam.safetensors", "--neg-point", "3,4"]),
    ] {
        fails(2, parts, more);
    }
    place.fails(2, &["one photo"], &["mask", &ball, "--sam", "sam.safetensors", "--point", "3,4", "--out", "x"]);
    fails(1, &["huge is no file", "mobile, vit-b"], &["--sam", "huge", "--point", "3,4"]);
    fails(
        1,
        &["mobile_sam-tiny-vitt.safetensors", "lmz/candle-sam"],
        &["--sam", "mobile", "--offline", "--point", "3,4"],
    );

    let unet = format!("{}/unet/diffusion_pytorch_model.safetensors", common::tiny_base());
    fails(
        1,
        &["diffusion_pytorch_model.safetensors is no Segment Anything model"],
        &["--sam", &unet, "--point", "3,4"],
    );
    let bytes = std::fs::read(place.path("sam.safetensors")).expect("a file");
    std::fs::write(place.path("cut.safetensors"), &bytes[..bytes.len() / 2]).expect("a file");
    fails(1, &["cut.safetensors", "cut short"], &["--sam", "cut.safetensors", "--point", "3,4"]);
    let changed = |name: &str, tensor: Option<Tensor>| {
        let mut sam = sam.clone();
        sam.remove(name);
        sam.extend(tensor.map(|tensor| (name.to_string(), tensor)));
        save("wrong.safetensors", &sam);
        fails(1, &["wrong.safetensors", name], &["--sam", "wrong.safetensors", "--point", "3,4"]);
    };
    let zeros = |shape: &[usize]| Some(Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("zeros"));
    changed("mask_decoder.iou_token.weight", None);
    changed("image_encoder.blocks.1.mlp.lin1.weight", zeros(&[128, 31]));
    changed("prompt_encoder.no_mask_embed.weight", zeros(&[32]));
    changed("image_encoder.blocks.0.attn.rel_pos_h", zeros(&[0, 16]));
    changed("image_encoder.neck.2.weight", Some(Tensor::full(f32::NAN, (32, 32, 3, 3), &Device::Cpu).expect("nans")));
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let place = Place::new();
    place.fails(2, &["PHOTOS"], &["mask"]);
    place.fails(1, &["nowhere.png"], &["mask", "nowhere.png", "--class", "dog"]);
    std::fs::write(place.path("broken.jpg"), b"\xff\xd8\xffnothing").expect("a file");
    place.fails(1, &["broken.jpg"], &["mask", "broken.jpg", "--class", "dog"]);
    place.fails(2, &["--auto-mask"], &["train", "--resume", "--auto-mask"]);
}
