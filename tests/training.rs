//! Training through the real program, on a tiny base.

mod common;

use common::{Place, bytes, picture, tiny_base};

/// Arguments of a training of a few steps.
fn train<'a>(base: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["train", "--subject", "thing", "--base", base, "--config", "tiny.toml", "--out", out];
    fixed.iter().chain(more).copied().collect()
}

fn place() -> Place {
    let place = Place::new();
    place.subject("thing");
    let toml = "[training]\nsteps = 6\ncheckpoint_every = 2\npreview_every = 4\n[prior]\nclass_images = 2\n\
                class_steps = 2\n[sampling]\nsteps = 2\n[rra]\nreferences_per_photo = 1\n";
    std::fs::write(place.path("tiny.toml"), toml).expect("a file");
    place
}

#[test]
fn interrupted_and_resumed_equals_uninterrupted_bit_for_bit() {
    let (place, base) = (place(), tiny_base());
    place.ok(&train(&base, "whole", &[]));
    place.ok(&train(&base, "parts", &["--steps", "3"]));
    place.ok(&["train", "--resume", "--out", "parts", "--steps", "6"]);
    for file in ["adapter.safetensors", "training.safetensors", "loss.csv"] {
        assert!(bytes(&place.path("whole").join(file)) == bytes(&place.path("parts").join(file)), "{file} differs");
    }
    assert!(place.path("whole/previews/step-000004.png").is_file());
    assert!(place.path("whole/loss.png").is_file());
}

#[test]
fn the_seed_decides() {
    let (place, base) = (place(), tiny_base());
    place.ok(&train(&base, "a", &["--steps", "1"]));
    place.ok(&train(&base, "b", &["--steps", "1"]));
    place.ok(&train(&base, "c", &["--steps", "1", "--seed", "1"]));
    let adapter = |name: &str| bytes(&place.path(name).join("adapter.safetensors"));
    assert!(adapter("a") == adapter("b"));
    assert!(adapter("a") != adapter("c"));
}

#[test]
fn every_preset_trains() {
    let (place, base) = (place(), tiny_base());
    for preset in ["eqdiff", "paper", "a", "b", "c", "d", "e", "f"] {
        place.ok(&train(&base, preset, &["--steps", "1", "--preset", preset]));
        place.ok(&["sample", "--adapter", preset, "--prompt", "a S* thing", "--out", &format!("drawn-{preset}")]);
    }
}

#[test]
fn sampling_is_reproducible_and_keeps_its_parameters() {
    let (place, base) = (place(), tiny_base());
    place.ok(&train(&base, "adapter", &["--steps", "1"]));
    let draw = |out: &str, more: &[&str]| {
        let fixed = ["sample", "--prompt", "(S*) thing, oil painting", "--out", out];
        place.ok(&fixed.iter().chain(more).copied().collect::<Vec<_>>())
    };
    draw("a", &["--seed", "5"]);
    draw("b", &["--seed", "5"]);
    draw("c", &["--seed", "6"]);
    draw("d", &["--seed", "4", "--count", "2"]);
    let file = |out: &str, seed: u32| picture(&place.path(out), &format!("s-thing-oil-painting-{seed}"));
    let pixels = |out: &str, seed: u32| image::open(file(out, seed)).expect("a picture").to_rgb8();
    assert_eq!(pixels("a", 5), pixels("b", 5));
    assert_ne!(pixels("a", 5), pixels("c", 6));
    // a picture does not depend on what is drawn beside it (up to the rounding of other tile sizes)
    let gap = pixels("a", 5).iter().zip(pixels("d", 5).iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(gap <= Some(1), "{gap:?}");
    assert!(place.path("d/contact-sheet.png").is_file());
    let file = bytes(&file("a", 5));
    let text = String::from_utf8_lossy(&file);
    assert!(text.contains("parameters") && text.contains("Seed: 5") && text.contains("Sampler: DDIM"));
}
