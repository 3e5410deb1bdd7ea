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
fn reference_attention_has_a_rate_of_its_own() {
    let (place, base) = (place(), tiny_base());
    let toml = std::fs::read_to_string(place.path("tiny.toml")).expect("a file");
    std::fs::write(place.path("tiny.toml"), format!("{toml}learning_rate_multiplier = 8.0\n")).expect("a file");
    place.ok(&train(&base, "faster", &["--steps", "1"]));
    std::fs::write(place.path("tiny.toml"), toml).expect("a file");
    place.ok(&train(&base, "alike", &["--steps", "1"]));
    let [faster, alike] = ["faster", "alike"].map(|name| {
        candle_core::safetensors::load(place.path(name).join("adapter.safetensors"), &candle_core::Device::Cpu)
            .expect("an adapter")
    });
    let numbers = |tensor: &candle_core::Tensor| tensor.flatten_all().and_then(|x| x.to_vec1::<f32>()).expect("f32");
    for (name, tensor) in &alike {
        let same = numbers(tensor) == numbers(&faster[name]);
        assert_eq!(same, !name.contains(".processor."), "{name}");
    }
}

#[test]
fn what_a_training_began_with_is_used_again_and_not_contradicted() {
    let (place, base) = (place(), tiny_base());
    place.subject("other");
    std::fs::rename(place.path("other/0.png"), place.path("other/3.png")).expect("a photo");
    std::fs::rename(place.path("other/masks/0.png"), place.path("other/masks/3.png")).expect("a mask");
    std::fs::create_dir(place.path("own")).expect("a folder");
    for i in 0..2 {
        std::fs::copy(place.path(&format!("thing/{i}.png")), place.path(&format!("own/{i}.png"))).expect("a photo");
    }
    common::copy(base.as_ref(), &place.path("base"));
    let begin = |out: &str, steps: &str| {
        let own = ["--class-images", "own", "--preset", "d", "--lr", "1e-4", "--batch-size", "1", "--steps", steps];
        place.ok(&train("base", out, &own));
    };
    begin("whole", "4");
    begin("parts", "2");
    let resume = ["train", "--resume", "--out", "parts", "--steps", "4"];
    for (option, value) in [
        ("--lr", "0.5"),
        ("--seed", "9"),
        ("--batch-size", "4"),
        ("--preset", "paper"),
        ("--preset", "eqdiff"),
        ("--subject", "other"),
        ("--class", "cat"),
        ("--num-class-images", "3"),
        ("--class-images", "thing"),
    ] {
        place.fails(2, &[value, "began"], &[&resume[..], &[option, value]].concat());
    }
    place.fails(1, &["mini"], &[&resume[..], &["--base", "mini"]].concat());
    let same = ["--lr", "0.0001", "--preset", "d", "--batch-size", "1", "--subject", "thing", "--class-images", "own"];
    // from another folder, too
    let output = place.command(&[&resume[..], &same, &["--base", "base"]].concat()).output().expect("the program");
    assert!(output.status.success(), "{}", common::printed(&output));
    for file in ["adapter.safetensors", "training.safetensors", "loss.csv", "adapter.toml"] {
        assert!(bytes(&place.path("whole").join(file)) == bytes(&place.path("parts").join(file)), "{file} differs");
    }
    let on = ["train", "--resume", "--out", "parts", "--steps", "5"];
    std::fs::rename(place.path("own"), place.path("moved")).expect("a folder");
    place.fails(1, &["class images", "own", "--class-images says where"], &on);
    place.ok(&[&on[..], &["--class-images", "moved"]].concat());
    std::fs::remove_file(place.path("moved/1.png")).expect("a photo");
    place.fails(1, &["class images", "moved"], &["train", "--resume", "--out", "parts", "--steps", "6"]);
}

#[test]
#[cfg(unix)]
fn a_training_that_was_stopped_before_its_first_step_begins_anew() {
    let (place, base) = (place(), tiny_base());
    place.ok(&train(&base, "older", &["--steps", "1"]));
    let many = ["--num-class-images", "500", "--steps", "1", "--out", "young"];
    let command: Vec<&str> = train(&base, "young", &[]).into_iter().take(7).chain(many).collect();
    let mut child = place.start(&command);
    place.wait_until("photos", std::time::Duration::from_secs(180), || place.path("young/photos").is_dir());
    common::signal(&child, libc::SIGINT);
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    // there is nothing to draw with, and the older adapter is still the last one
    place.fails(1, &["--resume"], &["sample", "--adapter", "young", "--prompt", "S* thing"]);
    assert!(bytes(&place.path("outputs/last-adapter.txt")).ends_with(b"older"));
    assert!(bytes(&place.path("outputs/last-training.txt")).ends_with(b"young"));
    let manifest = place.path("young/adapter.toml");
    let toml = std::fs::read_to_string(&manifest).expect("a manifest");
    std::fs::write(&manifest, toml.replace("class_images = 500", "class_images = 2")).expect("a file");
    place.ok(&["train", "--resume"]);
    assert!(bytes(&place.path("young/adapter.safetensors")) == bytes(&place.path("older/adapter.safetensors")));
}

#[test]
fn nothing_of_anybodys_is_mixed_with() {
    let (place, base) = (place(), tiny_base());
    let photo = bytes(&place.path("thing/0.png"));
    let here = ["--images", "thing", "--masks", "thing/masks", "--steps", "1"];
    place.fails(2, &["not an empty folder"], &train(&base, "thing", &here));
    assert!(photo == bytes(&place.path("thing/0.png")) && !place.path("thing/photos").exists());
    std::fs::write(place.path("file"), "").expect("a file");
    place.fails(2, &["file"], &train(&base, "file", &["--steps", "1"]));
    std::fs::create_dir(place.path("empty")).expect("a folder");
    place.ok(&train(&base, "empty", &["--steps", "1"]));
    // by default every training has a folder of its own
    for name in ["thing", "thing-2"] {
        place.ok(&["train", "--subject", "thing", "--base", &base, "--config", "tiny.toml", "--steps", "1"]);
        assert!(place.path(&format!("outputs/{name}/adapter.safetensors")).is_file(), "{name}");
    }
}

#[test]
fn a_folder_has_one_training_at_a_time() {
    let (place, base) = (place(), tiny_base());
    let mut child = place.start(&train(&base, "busy", &["--steps", "100000"]));
    place.wait_until("a checkpoint", std::time::Duration::from_secs(180), || {
        place.path("busy/adapter.safetensors").is_file()
    });
    place.fails(2, &["busy"], &train(&base, "busy", &["--steps", "1"]));
    place.fails(1, &["in use"], &["train", "--resume", "--out", "busy"]);
    child.kill().expect("an end");
    child.wait().expect("an end");
    // the lock ended with its process, and the first step is on the disk
    let manifest = String::from_utf8_lossy(&bytes(&place.path("busy/adapter.toml"))).into_owned();
    let steps = manifest.lines().find_map(|line| line.strip_prefix("steps = ")).expect("its steps").to_string();
    place.ok(&["train", "--resume", "--out", "busy", "--steps", &steps]);
}

#[test]
fn class_images_are_kept_by_all_that_they_depend_on() {
    let (place, base) = (place(), tiny_base());
    let toml = std::fs::read_to_string(place.path("tiny.toml")).expect("settings");
    std::fs::write(place.path("more.toml"), toml.replace("class_steps = 2", "class_steps = 3")).expect("settings");
    let more =
        |out: &str| train(&base, out, &["--steps", "1"]).iter().map(|w| w.replace("tiny", "more")).collect::<Vec<_>>();
    let run = |words: Vec<String>| place.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    run(more("clean"));
    place.ok(&train(&base, "few", &["--steps", "1"]));
    run(more("again"));
    let adapter = |out: &str| bytes(&place.path(out).join("adapter.safetensors"));
    assert!(adapter("clean") == adapter("again") && adapter("clean") != adapter("few"));
    assert_eq!(std::fs::read_dir(place.path("outputs/class-images")).expect("a folder").count(), 2);
}

#[test]
fn several_trainings_of_a_class_at_once() {
    let (place, base) = (place(), tiny_base());
    let seeds = ["1", "2", "3", "4"];
    let outs = seeds.map(|seed| format!("o{seed}"));
    let start = |(seed, out): (&&str, &String)| place.start(&train(&base, out, &["--steps", "1", "--seed", seed]));
    let children: Vec<_> = seeds.iter().zip(&outs).map(start).collect();
    for mut child in children {
        assert!(child.wait().expect("an end").success());
    }
}

#[test]
fn one_that_is_finished_is_not_begun_again() {
    let (place, base) = (place(), tiny_base());
    place.ok(&train(&base, "outputs/one", &["--num-class-images", "2", "--steps", "2"]));
    place.ok(&train(&base, "outputs/other", &["--num-class-images", "0", "--steps", "1"]));
    place.fails(
        2,
        &["--steps 1", "2 are taken already"],
        &["train", "--resume", "--out", "outputs/one", "--steps", "1"],
    );
    let class_images = place.path("outputs/class-images");
    std::fs::rename(&class_images, place.path("away")).expect("class images");
    let said = place.ok(&["train", "--resume", "--out", "outputs/one"]);
    assert!(said.contains("2 steps are taken already") && !class_images.exists(), "{said}");
    // it is the one to draw with now, and is named
    assert!(said.contains("Draw with: eqdiff sample --adapter outputs/one --prompt"), "{said}");
    let last = std::fs::read_to_string(place.path("outputs/last-adapter.txt")).expect("the last adapter");
    assert!(last.trim().ends_with("outputs/one"), "{last}");
    // a preview that a kill has cut off is still drawn
    place.ok(&train(&base, "shown", &["--num-class-images", "0", "--steps", "4"]));
    let preview = place.path("shown/previews/step-000004.png");
    std::fs::remove_file(&preview).expect("a preview");
    place.ok(&["train", "--resume", "--out", "shown"]);
    assert!(preview.is_file());
    // from another folder the class images beside it are found
    std::fs::rename(place.path("away"), &class_images).expect("class images");
    let elsewhere = place.path("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a folder");
    let out = place.path("outputs/one").display().to_string();
    let on = ["train", "--resume", "--out", &out, "--base", &base, "--steps", "3"];
    let done = place.command(&on).current_dir(&elsewhere).output().expect("the program");
    assert!(done.status.success(), "{}", common::printed(&done));
    assert!(!elsewhere.join("outputs/class-images").exists());
}

#[test]
#[cfg(target_os = "linux")]
fn killed_at_any_time_it_goes_on() {
    let (place, base) = (place(), tiny_base());
    place.ok(&train(&base, "whole", &["--steps", "4"]));
    for (i, delay) in [0, 3, 7, 13, 29, 53].into_iter().enumerate() {
        let out = format!("killed{i}");
        let mut child = place.start(&train(&base, &out, &["--steps", "4"]));
        place.wait_until("a folder", std::time::Duration::from_secs(180), || place.path(&out).is_dir());
        std::thread::sleep(std::time::Duration::from_millis(delay * 20));
        child.kill().expect("an end");
        child.wait().expect("an end");
        place.ok(&["train", "--resume", "--out", &out]);
        for file in ["adapter.safetensors", "training.safetensors", "loss.csv", "adapter.toml"] {
            assert!(bytes(&place.path("whole").join(file)) == bytes(&place.path(&out).join(file)), "{file}, {delay}");
        }
        let left = std::fs::read_dir(place.path(&out)).expect("a folder").map(|e| e.expect("an entry").file_name());
        assert!(!left.into_iter().any(|name| name.to_string_lossy().ends_with(".part")), "{delay}");
    }
}

#[test]
fn absurd_numbers_are_wrong_usage() {
    let (place, base) = (place(), tiny_base());
    let most = u64::MAX.to_string();
    for (option, value, setting) in [
        ("--lr", "nan", "learning_rate = NaN"),
        ("--batch-size", &most, "batch_size"),
        ("--seed", &most, "seed"),
        ("--num-class-images", &most, "class_images"),
    ] {
        place.fails(2, &[setting], &train(&base, "o", &[option, value]));
    }
    place.fails(2, &["--class", "ordinary noun"], &train(&base, "o", &["--class", " "]));
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
