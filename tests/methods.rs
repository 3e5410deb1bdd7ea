//! The methods beside Equilibrated Diffusion, through the real program, on a tiny base.

mod common;

use candle_core::{DType, Device, safetensors};
use common::{Place, bytes, picture, pictures, tiny_base};

/// A place with a subject, and settings for few steps and small batches.
fn place() -> Place {
    let place = Place::new();
    place.subject("thing");
    let toml = "[training]\nsteps = 4\nbatch_size = 1\ncheckpoint_every = 2\npreview_every = 3\n[prior]\nclass_steps = 2\n\
                [sampling]\nsteps = 2\n";
    std::fs::write(place.path("tiny.toml"), toml).expect("a file");
    place
}

/// Arguments of a training of a few steps.
fn train<'a>(base: &'a str, preset: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed =
        ["train", "--subject", "thing", "--base", base, "--preset", preset, "--config", "tiny.toml", "--out", out];
    fixed.iter().chain(more).copied().collect()
}

#[test]
fn interrupted_and_resumed_equals_uninterrupted_bit_for_bit() {
    let (place, base) = (place(), tiny_base());
    let text = "[training]\nsteps = 4\nbatch_size = 1\npreview_every = 0\n[dreambooth]\ntext_encoder = true\n\
                [prior]\nclass_steps = 2\n[sampling]\nsteps = 2\n";
    std::fs::write(place.path("text.toml"), text).expect("a file");
    for (preset, config, class_images) in [
        ("custom-diffusion", "tiny.toml", "2"),
        ("ti", "tiny.toml", "0"),
        ("dreambooth", "tiny.toml", "2"),
        ("dreambooth", "text.toml", "0"),
    ] {
        let more = ["--config", config, "--num-class-images", class_images];
        let of = |out: &str, more: &[&str]| {
            let fixed = ["train", "--subject", "thing", "--base", &base, "--preset", preset, "--out", out];
            place.ok(&fixed.iter().chain(more).copied().collect::<Vec<_>>())
        };
        let [whole, parts] = ["whole", "parts"].map(|name| format!("{name}-{preset}-{config}"));
        of(&whole, &more);
        of(&parts, &[&more[..], &["--steps", "2"]].concat());
        place.ok(&["train", "--resume", "--out", &parts, "--steps", "4"]);
        for file in ["adapter.safetensors", "training.safetensors", "loss.csv"] {
            let [whole, parts] = [&whole, &parts].map(|folder| bytes(&place.path(folder).join(file)));
            assert!(whole == parts, "{preset}, {config}: {file} differs");
        }
    }
}

#[test]
fn what_was_learnt_is_drawn_matched_and_exported() {
    let (place, base) = (place(), tiny_base());
    for (preset, class_images) in [("custom-diffusion", "2"), ("ti", "0"), ("dreambooth", "2")] {
        place.ok(&train(&base, preset, preset, &["--num-class-images", class_images, "--steps", "2"]));
        let draw = |out: &str, more: &[&str]| {
            let fixed = ["sample", "--adapter", preset, "--prompt", "a S* thing", "--steps", "4", "--out", out];
            place.ok(&fixed.iter().chain(more).copied().collect::<Vec<_>>());
            image::open(picture(&place.path(out), "a-s-thing-0")).expect("a picture").to_rgb8()
        };
        let own = draw(&format!("own-{preset}"), &[]);
        let plain = draw(&format!("plain-{preset}"), &["--sampler", "ddim", "--guidance", "12.5"]);
        assert_ne!(own, plain, "{preset}");
        let common = ["--sampler", "ddim", "--guidance", "12.5", "--dreammatcher"];
        let matched = draw(&format!("matched-{preset}"), &common);
        let guided = draw(&format!("guided-{preset}"), &[&common[..], &["--matching-guidance", "50"]].concat());
        assert!(matched != plain && matched != guided, "{preset}");
        let said = |out: &str| {
            let file = picture(&place.path(&format!("{out}-{preset}")), "a-s-thing-0");
            (String::from_utf8_lossy(&bytes(&file)).into_owned(), file.display().to_string())
        };
        let (text, file) = said("guided");
        assert!(text.contains("DreamMatcher: true, Matching guidance: 50"), "{text}");
        assert!(said("matched").0.contains("DreamMatcher: true") && !said("plain").0.contains("DreamMatcher"));
        let batch = ["--prompt", "a S* thing", "--steps", "4", "--dreammatcher", "--adapter", preset, "--out", "no"];
        for (parts, more) in
            [(&["LMS"][..], ["--grid", "sampler=ddim,lms"]), (&["only square pictures of"], ["--size", "128x64"])]
        {
            place.fails(2, parts, &[&["sample"], &batch[..], &more].concat());
        }
        assert!(pictures(&place.path("no")).is_empty(), "nothing is drawn before all is known to be possible");
        let out = format!("guided-{preset}");
        assert!(place.ok(&["sample", "--adapter", preset, "--like", &file, "--out", &out]).contains("1 of 1 pictures"));
    }
    for (adapter, layout, file) in [
        ("ti", "diffusers", "learned_embeds.safetensors"),
        ("dreambooth", "diffusers", "unet/diffusion_pytorch_model.safetensors"),
        ("dreambooth", "merged", "unet/diffusion_pytorch_model.safetensors"),
    ] {
        let out = format!("{adapter}-as-{layout}");
        place.ok(&["export", adapter, "--to", layout, "--out", &out]);
        assert!(place.path(&out).join(file).is_file(), "{out}/{file}");
        let page = std::fs::read_to_string(place.path(&out).join("eqdiff-thing.md")).expect("a page");
        let filled =
            ["{name}", "{class}", "{identifier}", "{steps}", "{guidance}"].iter().all(|hole| !page.contains(hole));
        assert!(filled && page.contains(if adapter == "ti" { "eqdiff-thing" } else { "sks thing" }), "{page}");
    }
    // in f16 wherever the trainings compute: this build need not even have the device
    let half = ["export", "dreambooth", "--to", "diffusers", "--device", "cuda", "--dtype", "f16", "--out", "half"];
    place.ok(&half);
    let unet = safetensors::load(place.path("half/unet/diffusion_pytorch_model.safetensors"), &Device::Cpu);
    assert!(unet.expect("tensors").values().all(|tensor| tensor.dtype() == DType::F16));
    // an embedding that comes back is what it was: prompts have it alone, and DreamMatcher looks at it
    let learned = "ti-as-diffusers/learned_embeds.safetensors";
    place.ok(&["import", learned, "--subject", "thing", "--base", &base, "--out", "back"]);
    let [own, back] = ["ti", "back"].map(|folder| bytes(&place.path(folder).join("adapter.safetensors")));
    assert!(own == back);
    let matched =
        ["--prompt", "a S* thing", "--steps", "4", "--sampler", "ddim", "--guidance", "12.5", "--dreammatcher"];
    place.ok(&[&["sample", "--adapter", "back", "--out", "matched-back"][..], &matched].concat());
    let [own, back] = ["matched-ti", "matched-back"]
        .map(|folder| image::open(picture(&place.path(folder), "a-s-thing-0")).expect("a picture").to_rgb8());
    assert_eq!(own, back);
    let said = place.ok(&["sample", "--adapter", "back", "--prompt", "a thing", "--steps", "1", "--out", "without"]);
    assert!(said.contains("try \"S*\""), "{said}");
    // the merged base is a base
    let prompt = ["--prompt", "a sks thing", "--steps", "2", "--out", "of-base"];
    place.ok(&[&["sample", "--base", "dreambooth-as-merged", "--no-adapter"][..], &prompt].concat());
    assert_eq!(pictures(&place.path("of-base")).len(), 1);
    for (adapter, layout) in [("dreambooth", "webui"), ("dreambooth", "release"), ("ti", "merged"), ("ti", "release")] {
        place.fails(2, &["--to diffusers"], &["export", adapter, "--to", layout]);
    }
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    let (place, base) = (place(), tiny_base());
    place.fails(2, &["no prior"], &train(&base, "ti", "o", &["--num-class-images", "3"]));
    place.ok(&train(&base, "ti", "o", &["--steps", "1"]));
    let sample = |more: &[&'static str]| [&["sample", "--adapter", "o", "--prompt", "a S*"][..], more].concat();
    place.fails(2, &["square"], &sample(&["--dreammatcher", "--size", "128x64"]));
    place.fails(2, &["inverted between timesteps"], &sample(&["--dreammatcher", "--sampler", "lms", "--steps", "3"]));
    place.fails(2, &["dreammatcher"], &sample(&["--matching-guidance", "1"]));
    place.fails(2, &["0 or more"], &sample(&["--dreammatcher", "--matching-guidance", "-1"]));
    let elite =
        ["sample", "--base", &base, "--elite", "nowhere", "--subject", "thing", "--prompt", "a S*", "--offline"];
    place.fails(1, &["global_mapper.pt", "nowhere"], &elite);
}

/// Photos without masks are enough where settings use none, and a training goes on with them.
#[test]
fn masks_are_needed_where_they_are_used() {
    let (place, base) = (place(), tiny_base());
    std::fs::remove_dir_all(place.path("thing/masks")).expect("masks");
    for preset in ["ti", "custom-diffusion", "dreambooth", "a"] {
        place.ok(&train(&base, preset, preset, &["--num-class-images", "0", "--steps", "1"]));
        place.ok(&["train", "--resume", "--out", preset, "--subject", "thing", "--steps", "2"]);
    }
    for (preset, more) in [("d", &[][..]), ("eqdiff", &[]), ("ti", &["--crop", "subject"]), ("ti", &["--invert-masks"])]
    {
        place.fails(1, &["no mask for", "thing/0.png"], &train(&base, preset, "o", more));
    }
}

/// What an adapter has no part for is told, and changes neither picture nor its text.
#[test]
fn options_without_effect_are_told() {
    let (place, base) = (place(), tiny_base());
    place.ok(&train(&base, "ti", "ti", &["--steps", "1"]));
    place.ok(&train(&base, "dreambooth", "db", &["--steps", "1", "--num-class-images", "0"]));
    for (adapter, option, part) in [
        ("ti", "--high", "embedding of the high band"),
        ("ti", "--reference-strength", "reference attention"),
        ("db", "--low", "embedding of the low band"),
        ("db", "--high", "embedding of the high band"),
        ("db", "--reference-strength", "reference attention"),
    ] {
        let fixed = ["sample", "--adapter", adapter, "--prompt", "a S* thing", "--steps", "1", "--out", adapter];
        place.ok(&fixed);
        let said = place.ok(&[&fixed[..], &[option, "0.5"]].concat());
        assert!(said.contains(&format!("{option} has no effect: it turns the {part}")), "{said}");
        assert!(said.contains("1 of 1 pictures"), "{said}");
        assert!(!place.ok(&[&fixed[..], &[option, "1"]].concat()).contains("no effect"));
        let axis = format!("{}=0,1", option.trim_start_matches("--").trim_end_matches("-strength"));
        place.fails(2, &["--grid", part], &[&fixed[..], &["--grid", &axis]].concat());
    }
    std::fs::write(place.path("thing/0.txt"), "a S* thing in a room").expect("a caption");
    std::fs::write(place.path("masked.toml"), "[training]\nsteps = 1\n[mgdp]\nmask = \"loss-only\"\n").expect("a file");
    let fixed = ["train", "--subject", "thing", "--base", &base, "--preset", "dreambooth", "--config", "masked.toml"];
    let said = place.ok(&[&fixed[..], &["--num-class-images", "0", "--memory", "9"]].concat());
    for what in ["captions", "mgdp.mask", "--memory"] {
        assert!(said.contains(&format!("{what}: no effect on this method")), "{what}: {said}");
    }
    assert!(!said.contains("rra.enabled: no effect"), "{said}");
    let ti = ["sample", "--adapter", "ti", "--prompt", "a S* thing", "--steps", "1", "--out", "ti"];
    assert!(!place.ok(&[&ti[..], &["--low", "0.5"]].concat()).contains("no effect"));
    let said = place.ok(&[&ti[..], &["--reference", "thing/0.png"]].concat());
    // and the picture is the one that is there
    assert!(said.contains("--reference has no effect") && said.contains("1 of 1 pictures"), "{said}");
    assert!(place.ok(&[&ti[..], &["--variations", "0.5"]].concat()).contains("--variations has no effect"));
    place.fails(2, &["--explain", "--grid"], &[&ti[..], &["--explain", "--grid", "guidance=1,2"]].concat());
    place.fails(2, &["--explain", "nothing of"], &["sample", "--adapter", "db", "--prompt", "a S*", "--explain"]);
    let said = place.ok(&[&ti[..], &["--dreammatcher", "--sampler", "ddim", "--grid", "low=0,1"]].concat());
    assert!(!said.contains("no effect"), "{said}");
    place.fails(2, &["DreamMatcher"], &[&ti[..], &["--dreammatcher", "--grid", "reference=0,1"]].concat());
}
