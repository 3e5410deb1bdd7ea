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
const UNET: &str = "unet/diffusion_pytorch_model.safetensors";

/// What a base draws.
fn drawn(place: &Place, base: &str) -> image::RgbImage {
    drawn_with(place, base, &[])
}

fn drawn_with(place: &Place, base: &str, more: &[&str]) -> image::RgbImage {
    let out = format!("drawn-{}", base.replace(['.', '/'], "-"));
    let usual = ["sample", "--base", base, "--no-adapter", "--prompt", "a dog", "--steps", "2", "--out", &out];
    place.ok(&[&usual[..], more].concat());
    image::open(picture(&place.path(&out), "a-dog-0")).expect("a picture").to_rgb8()
}

/// Writes a file again with other names, or in another precision.
fn rewrite(file: &Path, name: impl Fn(&str) -> String, dtype: Dtype) {
    let new = rewritten(&[file], |key| Some(name(key)), dtype);
    assert!(new != bytes(file), "nothing was changed");
    std::fs::write(file, new).expect("a file");
}

/// One file of the tensors of several, with other names or in another precision; those without a name are left out.
fn rewritten(files: &[&Path], name: impl Fn(&str) -> Option<String>, dtype: Dtype) -> Vec<u8> {
    let old: Vec<Vec<u8>> = files.iter().map(|file| bytes(file)).collect();
    let tensors: Vec<SafeTensors> = old.iter().map(|old| SafeTensors::deserialize(old).expect("tensors")).collect();
    let converted: BTreeMap<String, (Vec<u8>, Vec<usize>)> = tensors
        .iter()
        .flat_map(|tensors| tensors.iter())
        .filter_map(|(key, view)| {
            assert_eq!(view.dtype(), Dtype::F16, "{key}");
            let values = view.data().as_chunks::<2>().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32());
            let data = match dtype {
                Dtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
                Dtype::BF16 => values.flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
                _ => view.data().to_vec(),
            };
            Some((name(key)?, (data, view.shape().to_vec())))
        })
        .collect();
    let views = converted
        .iter()
        .map(|(key, (data, shape))| (key, TensorView::new(dtype, shape.clone(), data).expect("a tensor of that size")));
    safetensors::serialize(views, None).expect("a file")
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
        for file in [VAE, TEXT, UNET] {
            rewrite(&place.path(name).join(file), str::to_string, dtype);
        }
        let other = drawn(&place, name);
        let gap = original.iter().zip(other.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(gap <= Some(bound), "{name}: {gap:?}");
    }
}

/// `down_blocks.1.resnets.0` and such in the numbers of the original layout, where a level has three blocks.
fn numbered(key: &str) -> Option<(usize, usize, &str)> {
    let mut parts = key.splitn(5, '.');
    let (_, level, _, layer) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((level.parse().ok()?, layer.parse().ok()?, parts.next()?))
}

/// A tensor's name in the original layout, by the rules of the scripts that convert back.
fn originally(key: &str) -> String {
    let replaced = |key: &str, pairs: &[(&str, &str)]| {
        pairs.iter().fold(key.to_string(), |key, (now, then)| key.replace(now, then))
    };
    let layers = [
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("time_emb_proj", "emb_layers.1"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("conv_shortcut", "skip_connection"),
    ];
    if key.contains("self_attn") || key.contains("embeddings") || key.contains("layer_norm") || key.contains("mlp") {
        return format!("cond_stage_model.transformer.text_model.{}", key.trim_start_matches("text_model."));
    }
    if key.starts_with("encoder") || key.starts_with("decoder") || key.contains("quant_conv") {
        let key = match key.strip_prefix("decoder.up_blocks.") {
            Some(rest) => format!("decoder.up.{}{}", 3 - rest[..1].parse::<usize>().expect("a level"), &rest[1..]),
            None => key.to_string(),
        };
        let pairs = [
            ("down_blocks", "down"),
            (".resnets.", ".block."),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("mid_block.block.0", "mid.block_1"),
            ("mid_block.block.1", "mid.block_2"),
            ("mid_block.attentions.0", "mid.attn_1"),
            ("conv_norm_out", "norm_out"),
            ("conv_shortcut", "nin_shortcut"),
            ("group_norm", "norm"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ];
        return format!("first_stage_model.{}", replaced(&key, &pairs));
    }
    let then = match (key.split('.').next(), numbered(key)) {
        (Some("down_blocks"), Some((level, layer, rest))) => match key.split('.').nth(2) {
            Some("resnets") => format!("input_blocks.{}.0.{}", 1 + 3 * level + layer, replaced(rest, &layers)),
            Some("attentions") => format!("input_blocks.{}.1.{rest}", 1 + 3 * level + layer),
            _ => format!("input_blocks.{}.0.{}", 3 + 3 * level, rest.replace("conv.", "op.")),
        },
        (Some("up_blocks"), Some((level, layer, rest))) => match key.split('.').nth(2) {
            Some("resnets") => format!("output_blocks.{}.0.{}", 3 * level + layer, replaced(rest, &layers)),
            Some("attentions") => format!("output_blocks.{}.1.{rest}", 3 * level + layer),
            _ => format!("output_blocks.{}.{}.{rest}", 2 + 3 * level, if level == 0 { 1 } else { 2 }),
        },
        (Some("mid_block"), _) => match key.split_at("mid_block.resnets.0.".len().min(key.len())) {
            ("mid_block.resnets.0.", rest) => format!("middle_block.0.{}", replaced(rest, &layers)),
            ("mid_block.resnets.1.", rest) => format!("middle_block.2.{}", replaced(rest, &layers)),
            _ => key.replace("mid_block.attentions.0", "middle_block.1"),
        },
        _ => replaced(
            key,
            &[
                ("time_embedding.linear_1", "time_embed.0"),
                ("time_embedding.linear_2", "time_embed.2"),
                ("conv_in", "input_blocks.0.0"),
                ("conv_norm_out", "out.0"),
                ("conv_out", "out.2"),
            ],
        ),
    };
    format!("model.diffusion_model.{then}")
}

/// The tiny base as a single file in `folder`.
fn single(place: &Place, folder: &str) -> std::path::PathBuf {
    let base = tiny_base();
    let files = [UNET, VAE, TEXT].map(|file| Path::new(&base).join(file));
    std::fs::create_dir_all(place.path(folder)).expect("a folder");
    let file = place.path(folder).join("tiny.safetensors");
    let files: Vec<&Path> = files.iter().map(|file| file.as_path()).collect();
    std::fs::write(&file, rewritten(&files, |key| Some(originally(key)), Dtype::F16)).expect("a file");
    file
}

#[test]
fn a_single_file_gives_the_same_picture() {
    let place = Place::new();
    copy(tiny_base().as_ref(), &place.path("folder"));
    // as repositories have it that hold both: the configurations lie beside the file
    copy(tiny_base().as_ref(), &place.path("single"));
    for file in [UNET, VAE, TEXT] {
        std::fs::remove_file(place.path("single").join(file)).expect("a file");
    }
    single(&place, "single");
    assert_eq!(drawn(&place, "folder"), drawn(&place, "single/tiny.safetensors"));
    // an adapter of the folder is one of the file
    place.subject("thing");
    let train = ["train", "--base", "folder", "--subject", "thing", "--num-class-images", "0", "--steps", "1"];
    place.ok(&[&train[..], &["--out", "adapter"]].concat());
    place.ok(&[
        "sample",
        "--adapter",
        "adapter",
        "--base",
        "single/tiny.safetensors",
        "--prompt",
        "S*",
        "--steps",
        "1",
    ]);
    // alone it can only be Stable Diffusion 1.x, which this one is not
    single(&place, "alone");
    let sample = ["sample", "--no-adapter", "--prompt", "a dog", "--base"];
    place.fails(
        1,
        &["alone/tiny.safetensors", "shape", "expected"],
        &[&sample[..], &["alone/tiny.safetensors"]].concat(),
    );
    // single files that are something else
    for (name, key, what) in [
        ("xl", "conditioner.embedders.0.x", "Stable Diffusion XL"),
        ("lora", "lora_unet_x.lora_down.weight", "LoRA"),
        ("vae", "encoder.conv_in.weight", "a VAE alone"),
    ] {
        let value = [0; 2];
        let view = TensorView::new(Dtype::F16, vec![1], &value).expect("a tensor");
        let file = format!("{name}.safetensors");
        std::fs::write(place.path(&file), safetensors::serialize([(key, view)], None).expect("a file"))
            .expect("a file");
        place.fails(1, &[&file, what], &[&sample[..], &[&file]].concat());
    }
    // an evaluation too is told where the base is now
    std::fs::rename(place.path("folder"), place.path("moved")).expect("a folder");
    let evaluate = ["eval", "--adapter", "adapter", "--limit", "1", "--metrics", "clip-t", "--clip", "nowhere"];
    place.fails(1, &["--base says where it is now"], &evaluate);
    place.fails(1, &["nowhere"], &[&evaluate[..], &["--base", "moved"]].concat());
}

/// A study of the embedded base may lie in a folder that is called like it.
#[test]
fn a_folder_may_be_called_like_a_base() {
    let place = Place::new();
    place.subject("thing");
    std::fs::create_dir(place.path("mini")).expect("a folder");
    let train = ["train", "--subject", "thing", "--num-class-images", "0", "--steps", "1", "--out", "a"];
    place.ok(&train);
    let manifest = std::fs::read_to_string(place.path("a/adapter.toml")).expect("a manifest");
    assert!(manifest.contains("base = \"mini\""), "{manifest}");
    place.ok(&["sample", "--adapter", "a", "--prompt", "S*", "--steps", "1"]);
}

#[test]
fn paths_are_never_taken_for_repositories() {
    let place = Place::new();
    std::fs::create_dir(place.path("models")).expect("a folder");
    std::fs::write(place.path("models/text.safetensors"), "x\n").expect("a file");
    std::fs::write(place.path("models/old.ckpt"), "PK\x03\x04").expect("a file");
    for (base, parts) in [
        ("models/text.safetensors", &["the file models/text.safetensors", "safetensors file"][..]),
        ("models/old.ckpt", &["models/old.ckpt", "pickle", "save_file"]),
        ("models/none.safetensors", &["no base", "no such file", "mini"]),
        ("models/none.ckpt", &["no base", "no such file"]),
        ("./models/none", &["no base", "no such file"]),
        ("models/none/", &["no base", "no such file"]),
        ("models", &["models/unet", "diffusers", "--base models/text.safetensors?"]),
    ] {
        place.fails(1, parts, &["sample", "--no-adapter", "--prompt", "a dog", "--base", base]);
    }
}

/// The UNet of a folder in two files, with an index.
fn shard(folder: &Path) {
    let whole = folder.join(UNET);
    let mut map = BTreeMap::new();
    for (i, down) in [(1, true), (2, false)] {
        let name = format!("diffusion_pytorch_model-{i:05}-of-00002.safetensors");
        let part = rewritten(&[&whole], |key| (key.starts_with("down") == down).then(|| key.to_string()), Dtype::F16);
        for key in SafeTensors::deserialize(&part).expect("tensors").names() {
            map.insert(key.to_string(), name.clone());
        }
        std::fs::write(folder.join("unet").join(name), part).expect("a file");
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(folder.join(format!("{UNET}.index.json")), index).expect("a file");
    std::fs::remove_file(whole).expect("a file");
}

#[test]
fn weights_in_other_files() {
    let place = Place::new();
    let copied = |name: &str| {
        copy(tiny_base().as_ref(), &place.path(name));
        place.path(name)
    };
    copied("whole");
    let picture = drawn(&place, "whole");
    shard(&copied("parts"));
    assert_eq!(drawn(&place, "parts"), picture);
    for variant in ["fp16", "non_ema"] {
        let folder = copied(variant);
        let name = UNET.replace(".safetensors", &format!(".{variant}.safetensors"));
        std::fs::rename(folder.join(UNET), folder.join(name)).expect("a file");
        assert_eq!(drawn(&place, variant), picture);
    }
    let sample =
        |base: &str| ["sample", "--no-adapter", "--prompt", "a dog", "--steps", "1", "--base", base].map(String::from);
    let fails = |base: &str, parts: &[&str]| {
        place.fails(1, parts, &sample(base).each_ref().map(String::as_str));
    };
    // several at once: which one is used is said
    let folder = copied("several");
    std::fs::copy(folder.join(VAE), folder.join(VAE.replace(".safetensors", ".fp16.safetensors"))).expect("a copy");
    let said = place.ok(&sample("several").each_ref().map(String::as_str));
    assert!(said.contains("several/vae/diffusion_pytorch_model.safetensors is used, not"), "{said}");

    let folder = copied("old");
    std::fs::rename(folder.join(UNET), folder.join("unet/diffusion_pytorch_model.bin")).expect("a file");
    fails(
        "old",
        &["unet/diffusion_pytorch_model.safetensors is missing", "model.bin is a Python pickle", "torch.load"],
    );
    std::fs::remove_file(place.path("parts/unet/diffusion_pytorch_model-00002-of-00002.safetensors")).expect("a file");
    fails("parts", &["index.json", "00002-of-00002.safetensors is missing"]);
    for (name, file) in [("lfs", TEXT), ("lfs-config", "unet/config.json"), ("lfs-words", "tokenizer/vocab.json")] {
        std::fs::write(copied(name).join(file), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
            .expect("a file");
        fails(name, &[file.rsplit('/').next().unwrap_or_default(), "git lfs pull"]);
    }
    let long = std::fs::File::create(copied("long").join("unet/config.json")).expect("a file");
    long.set_len(1 << 40).expect("a sparse file");
    fails("long", &["unet/config.json", "1099511627776 bytes"]);
    let name = "damaged";
    let file = copied(name).join(VAE);
    let mut whole = bytes(&file);
    let last = whole.len() - 2;
    whole[last..].copy_from_slice(&f16::NAN.to_le_bytes());
    std::fs::write(&file, whole).expect("a file");
    fails(name, &["vae/diffusion_pytorch_model.safetensors", "NaN"]);
}

#[test]
fn configurations_mean_what_they_say() {
    let place = Place::new();
    let changed = |name: &str, file: &str, key: &str, value: serde_json::Value| {
        copy(tiny_base().as_ref(), &place.path(name));
        let path = place.path(name).join(file);
        let mut config: serde_json::Value = serde_json::from_slice(&bytes(&path)).expect("JSON");
        config[key] = value;
        std::fs::write(path, config.to_string()).expect("a file");
    };
    copy(tiny_base().as_ref(), &place.path("usual"));
    let usual = drawn(&place, "usual");
    let scheduler = "scheduler/scheduler_config.json";
    for (name, key, value) in [
        ("trailing", "timestep_spacing", "trailing"),
        ("linspace", "timestep_spacing", "linspace"),
        ("v", "prediction_type", "v_prediction"),
    ] {
        changed(name, scheduler, key, value.into());
        assert!(drawn(&place, name) != usual, "{name} has no effect");
    }
    place.subject("thing");
    place.ok(&[
        "train",
        "--base",
        "v",
        "--subject",
        "thing",
        "--num-class-images",
        "0",
        "--steps",
        "1",
        "--out",
        "adapter",
    ]);
    for (name, file, key, value) in [
        ("snr", scheduler, "rescale_betas_zero_snr", true.into()),
        ("none", scheduler, "num_train_timesteps", 0.into()),
        ("heads", "text_encoder/config.json", "num_attention_heads", 0.into()),
        ("layers", "text_encoder/config.json", "num_hidden_layers", 3.into()),
        ("huge", "unet/config.json", "sample_size", (1u64 << 63).into()),
        ("deep", "unet/config.json", "layers_per_block", 1_000_000_000_000u64.into()),
        ("words", "text_encoder/config.json", "vocab_size", 4095.into()),
    ] {
        changed(name, file, key, value);
        let named = if name == "layers" {
            "encoder.layers.2"
        } else if name == "words" {
            "4095"
        } else {
            key
        };
        place.fails(1, &[name, named], &["sample", "--no-adapter", "--prompt", "a dog", "--base", name]);
    }
}

/// The tiny base without its deepest level: three remain, so that sides divide by 32.
#[test]
fn sizes_follow_from_the_levels() {
    let place = Place::new();
    copy(tiny_base().as_ref(), &place.path("flat"));
    let unet = place.path("flat").join(UNET);
    let name = |key: &str| {
        let up = key.strip_prefix("up_blocks.").map(|rest| (rest[..1].parse::<usize>().unwrap_or(0), &rest[1..]));
        match up {
            Some((0, _)) => None,
            Some((level, rest)) => Some(format!("up_blocks.{}{rest}", level - 1)),
            None if key.starts_with("down_blocks.3") || key.starts_with("down_blocks.2.down") => None,
            None => Some(key.to_string()),
        }
    };
    let flat = rewritten(&[&unet], name, Dtype::F16);
    std::fs::write(&unet, flat).expect("a file");
    let config = place.path("flat/unet/config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&bytes(&config)).expect("JSON");
    json["block_out_channels"] = serde_json::json!([16, 32, 48]);
    json["down_block_types"] = serde_json::json!(vec!["CrossAttnDownBlock2D"; 3]);
    json["up_block_types"] = serde_json::json!(vec!["CrossAttnUpBlock2D"; 3]);
    std::fs::write(config, json.to_string()).expect("a file");
    assert_eq!(drawn_with(&place, "flat", &["--size", "96x160"]).dimensions(), (96, 160));
    let sample = ["sample", "--no-adapter", "--prompt", "a dog", "--base", "flat", "--size", "48x96"];
    place.fails(2, &["multiples of 32"], &sample);
}

#[test]
fn the_environment_forbids_downloads() {
    let place = Place::new();
    let hub = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    hub.set_nonblocking(true).expect("a mode");
    let endpoint = format!("http://{}", hub.local_addr().expect("an address"));
    for variable in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        let mut command = assert_cmd::Command::cargo_bin("eqdiff").expect("the program");
        command.current_dir(place.path(".")).env("HF_HOME", place.path("hf")).env("HF_ENDPOINT", &endpoint);
        command.env(variable, "1").args(["sample", "--base", "nobody/nothing", "--no-adapter", "--prompt", "x"]);
        let output = command.output().expect("the program runs");
        let said = common::printed(&output);
        assert!(output.status.code() == Some(1) && said.contains("HF_HUB_OFFLINE forbids"), "{said}");
        assert!(hub.accept().is_err(), "{variable}: the hub was asked");
    }
}
