//! Wrong input: a clear message, the right exit code, no panic.

mod common;

use common::{Place, copy, tiny_base};
use image::{GrayImage, Luma, RgbImage};

const QUICK: [&str; 10] =
    ["--steps", "1", "--num-class-images", "0", "--batch-size", "1", "--out", "adapter", "--config", "quick.toml"];

fn place() -> Place {
    let place = Place::new();
    let toml = "[rra]\nreferences_per_photo = 1\n[sampling]\nsteps = 2\n[training]\npreview_every = 0\n";
    std::fs::write(place.path("quick.toml"), toml).expect("a file");
    place
}

fn train<'a>(base: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    ["train", "--base", base].iter().chain(&QUICK).chain(more).copied().collect()
}

#[test]
fn help_has_examples_and_wrong_usage_is_two() {
    let place = Place::new();
    for command in ["train", "sample", "eval", "bands"] {
        assert!(place.ok(&[command, "--help"]).contains("Example"), "{command}");
    }
    place.fails(2, &["--subject"], &["train"]);
    place.fails(2, &["prompt"], &["sample"]);
    place.fails(2, &["unexpected"], &["sample", "--prompt", "x", "--frobnicate"]);
    place.fails(2, &["clip-z"], &["eval", "--metrics", "clip-z"]);
    place.fails(2, &["preset"], &["train", "--subject", "dog", "--preset", "zz"]);
    place.fails(2, &["learning_rate"], &["train", "--subject", "dog", "--lr=-1"]);
    for command in ["verify", "bench", "doctor"] {
        place.fails(2, &["tf32", "CUDA"], &[command, "--device", "cpu", "--dtype", "tf32"]);
    }
}

#[test]
fn the_doctor_finds_nothing_wrong_with_the_processor() {
    let said = Place::new().ok(&["doctor", "--device", "cpu"]);
    assert!(said.contains("CUDA") && said.contains("Nothing is wrong"), "{said}");
}

#[test]
fn subjects_that_are_not_whole() {
    let (place, base) = (place(), tiny_base());
    let run = |code, parts: &[&str]| place.fails(code, parts, &train(&base, &["--subject", "thing"]));
    place.fails(1, &["nowhere", "dog"], &train(&base, &["--subject", "nowhere"]));
    std::fs::create_dir(place.path("thing")).expect("a folder");
    run(1, &["thing", "photo"]);
    place.subject("thing");
    let mask = place.path("thing/masks/1.png");
    let good = common::bytes(&mask);
    std::fs::remove_file(&mask).expect("a file");
    run(1, &["1.png", "mask"]);
    std::fs::write(&mask, &good[..good.len() / 2]).expect("a file");
    run(1, &["1.png"]);
    GrayImage::new(96, 80).save(&mask).expect("a mask");
    run(1, &["1.png", "black"]);
    GrayImage::from_pixel(50, 100, Luma([255])).save(&mask).expect("a mask");
    run(1, &["1.png", "50x100", "96x80"]);
    std::fs::write(&mask, &good).expect("a file");
    let photo = place.path("thing/2.png");
    let whole = common::bytes(&photo);
    RgbImage::new(1, 1).save(&photo).expect("a photo");
    run(1, &["2.png", "1x1"]);
    std::fs::write(&photo, b"no picture").expect("a file");
    run(1, &["2.png"]);
    std::fs::write(&photo, whole).expect("a file");
    place.fails(1, &["elsewhere"], &train(&base, &["--subject", "thing", "--masks", "elsewhere"]));
    place.ok(&train(&base, &["--subject", "thing"]));
    place.fails(2, &["adapter already"], &train(&base, &["--subject", "thing"]));
}

#[test]
fn a_huge_photo_is_no_trouble() {
    let (place, base) = (place(), tiny_base());
    place.subject("thing");
    RgbImage::new(12000, 9000).save(place.path("thing/0.png")).expect("a photo");
    let inside = |x: u32, y: u32| if x > 40 && y > 20 { 255 } else { 0 };
    GrayImage::from_fn(120, 90, |x, y| Luma([inside(x, y)])).save(place.path("thing/masks/0.png")).expect("a mask");
    assert!(place.ok(&train(&base, &["--subject", "thing"])).contains("12000"));
}

#[test]
fn bases_that_do_not_fit() {
    let (place, base) = (place(), tiny_base());
    place.subject("thing");
    let train = |base: &str, code, parts: &[&str]| {
        place.fails(code, parts, &train(base, &["--subject", "thing"]));
    };
    train("no-such-base", 1, &["no-such-base", "mini"]);
    train("thing", 1, &["diffusers"]);
    copy(base.as_ref(), &place.path("broken"));
    let unet = place.path("broken/unet/diffusion_pytorch_model.safetensors");
    let whole = common::bytes(&unet);
    std::fs::write(&unet, &whole[..whole.len() - 1000]).expect("a file");
    train("broken", 1, &["diffusion_pytorch_model.safetensors", "cut short"]);
    std::fs::write(&unet, &whole).expect("a file");
    let config = place.path("broken/unet/config.json");
    let json = std::fs::read_to_string(&config).expect("a file");
    std::fs::write(&config, json.replacen("48,\n  48", "48,\n  40", 1).replacen("48,\n    48", "48,\n    40", 1))
        .expect("a file");
    train("broken", 1, &["expected", "40"]);
    std::fs::write(&config, "{").expect("a file");
    train("broken", 1, &["config.json"]);
    place.fails(1, &["offline"], &["train", "--subject", "dog", "--base", "some/model", "--offline"]);
}

/// As the hub's own tools leave a download, `snapshots/COMMIT` beside `refs/main`.
#[test]
fn stable_diffusion_comes_from_the_local_cache() {
    let place = place();
    let repository = place.path("hf/hub/models--CompVis--stable-diffusion-v1-4");
    copy(tiny_base().as_ref(), &repository.join("snapshots/abc"));
    std::fs::create_dir_all(repository.join("refs")).expect("a folder");
    std::fs::write(repository.join("refs/main"), "abc").expect("a file");
    place.ok(&["sample", "--base", "sd14", "--offline", "--no-adapter", "--prompt", "a dog", "--steps", "1"]);
    // its files go out again with an adapter's tensors in them
    place.subject("thing");
    place.ok(&train("sd14", &["--subject", "thing"]));
    let merged = ["export", "adapter", "--to", "merged", "--offline", "--out", "merged"];
    std::fs::remove_file(repository.join("snapshots/abc/model_index.json")).expect("a file"); // we never ask for it
    place.ok(&merged);
    let json = |name: &str| -> serde_json::Value {
        serde_json::from_slice(&common::bytes(&place.path("merged").join(name))).expect("JSON")
    };
    let (index, tokenizer) = (json("model_index.json"), json("tokenizer/tokenizer_config.json"));
    assert_eq!(
        (&index["unet"][1], &index["safety_checker"][0]),
        (&"UNet2DConditionModel".into(), &serde_json::Value::Null)
    );
    assert_eq!(tokenizer["model_max_length"], json("text_encoder/config.json")["max_position_embeddings"]);
    place.ok(&["sample", "--base", "merged", "--no-adapter", "--prompt", "a dog", "--steps", "1"]);
    std::fs::remove_file(repository.join("snapshots/abc/vae/diffusion_pytorch_model.safetensors")).expect("a file");
    let again = ["sample", "--base", "sd14", "--offline", "--no-adapter", "--prompt", "a dog"];
    place.fails(1, &["vae/diffusion_pytorch_model.safetensors", "--offline"], &again);
}

#[test]
fn adapters_that_do_not_fit() {
    let (place, base) = (place(), tiny_base());
    place.subject("thing");
    let sample = |adapter: &'static str, more: &[&'static str]| -> Vec<&'static str> {
        ["sample", "--prompt", "a S* thing", "--adapter", adapter].iter().chain(more).copied().collect()
    };
    place.fails(2, &["train"], &["sample", "--prompt", "a S* thing"]);
    place.fails(1, &["nothing-there"], &sample("nothing-there", &[]));
    place.ok(&train(&base, &["--subject", "thing"]));
    place.fails(1, &["fingerprint", "mini"], &sample("adapter", &["--base", "mini"]));
    place.fails(2, &["--size", "64"], &sample("adapter", &["--size", "100x100"]));
    place.fails(2, &["--size", "8192"], &sample("adapter", &["--size", "64x18446744073709551552"]));
    place.fails(2, &["--steps"], &sample("adapter", &["--steps", "0"]));
    place.fails(1, &["no.safetensors"], &sample("adapter", &["--init-latents", "no.safetensors"]));
    assert!(place.ok(&["sample", "--prompt", "a thing"]).contains("no S*"));
    let long = format!("S* thing {}", "very ".repeat(90));
    assert!(place.ok(&["sample", "--prompt", &long]).contains("cut off"));
    let tensors = place.path("adapter/adapter.safetensors");
    let whole = common::bytes(&tensors);
    std::fs::write(&tensors, &whole[..whole.len() / 2]).expect("a file");
    place.fails(1, &["adapter.safetensors", "cut short"], &sample("adapter", &[]));
}

/// A limit of file sizes stands for the disk.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_loses_nothing() {
    let (place, base) = (place(), tiny_base());
    place.subject("thing");
    place.ok(&train(&base, &["--subject", "thing"]));
    let tensors = place.path("adapter/adapter.safetensors");
    let before = common::bytes(&tensors);
    let resume = ["train", "--resume", "--out", "adapter", "--steps", "2"];
    let limit = (before.len() * 3 / 2 / 512).to_string(); // the adapter fits, the optimiser's state does not
    let script = format!("ulimit -f {limit}; exec \"$0\" \"$@\"");
    let output = place.run_by(&["sh", "-c", &script], &resume);
    let text = common::printed(&output);
    assert!(
        output.status.code() == Some(1) && text.contains("training.safetensors") && text.contains("ulimit"),
        "{text}"
    );
    assert!(before == common::bytes(&tensors));
    place.ok(&resume);
}
