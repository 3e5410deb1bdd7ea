//! Adapters for other programs, through the real program.

mod common;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, safetensors};
use common::{Place, tiny_base};

fn place() -> Place {
    let place = Place::new();
    place.subject("thing");
    let toml = "[training]\nsteps = 1\npreview_every = 0\n[prior]\nclass_images = 0\n[sampling]\nsteps = 2\n\
                [rra]\nreferences_per_photo = 1\n";
    std::fs::write(place.path("tiny.toml"), toml).expect("a file");
    place.ok(&["train", "--subject", "thing", "--base", &tiny_base(), "--config", "tiny.toml", "--out", "a"]);
    place
}

fn names(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_layout_has_its_files_and_tensors() {
    let place = place();
    let said = place.ok(&["export", "a", "--to", "webui", "--rank", "3"]);
    assert!(said.contains("relative error") && said.contains("--no-reference"), "{said}");
    let webui =
        ["eqdiff-thing-lora.png", "eqdiff-thing-lora.safetensors", "eqdiff-thing.md", "eqdiff-thing.safetensors"];
    assert_eq!(names(&place.path("a-webui")), webui);
    let lora = safetensors::load(place.path("a-webui/eqdiff-thing-lora.safetensors"), &Device::Cpu).expect("tensors");
    assert_eq!(lora.len(), 16 * 2 * 3);
    let layer = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k";
    assert_eq!(lora[&format!("{layer}.lora_up.weight")].dims(), [48, 3]);
    assert_eq!(lora[&format!("{layer}.lora_down.weight")].dims(), [3, 32]);
    assert_eq!(lora[&format!("{layer}.alpha")].to_scalar::<f32>().expect("a number"), 3.);
    let page = std::fs::read_to_string(place.path("a-webui/eqdiff-thing.md")).expect("a page");
    assert!(page.contains("a eqdiff-thing thing") && !page.contains("{name}") && !page.contains("{error}"), "{page}");

    let said = place.ok(&["export", "a", "--to", "diffusers", "--name", "It_1", "--out", "d"]);
    assert!(said.contains("--no-reference"), "{said}");
    let files = ["It_1-high.safetensors", "It_1-low.safetensors", "It_1.md", "It_1.safetensors"];
    assert_eq!(names(&place.path("d"))[..4], files);
    // again over its own files, but not over another's
    place.ok(&["export", "a", "--to", "diffusers", "--name", "It_1", "--out", "d"]);
    let other = ["export", "a", "--to", "diffusers", "--name", "other", "--out", "d"];
    place.fails(2, &["pytorch_custom_diffusion_weights.safetensors is there already", "--out"], &other);
    assert!(!place.path("d/other.safetensors").exists());
    let embedding = safetensors::load(place.path("d/It_1.safetensors"), &Device::Cpu).expect("tensors");
    assert_eq!(embedding["<It_1>"].dims(), [1, 32]);
    let weights = place.path("d/pytorch_custom_diffusion_weights.safetensors");
    let weights = safetensors::load(weights, &Device::Cpu).expect("tensors");
    assert_eq!(weights.len(), 16 * 2 + 16);

    place.ok(&["export", "a", "--to", "merged"]);
    place.fails(2, &["a-merged is there already"], &["export", "a", "--to", "merged"]);
    let unet = |folder: &std::path::Path| {
        let file = folder.join("unet/diffusion_pytorch_model.safetensors");
        safetensors::load(file, &Device::Cpu).expect("tensors")
    };
    let (merged, own) = (unet(&place.path("a-merged")), unet(tiny_base().as_ref()));
    let value =
        |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_dtype(DType::F32)?.to_vec1::<f32>()).expect("f32");
    let changed: Vec<&String> = own.keys().filter(|&name| value(&own[name]) != value(&merged[name])).collect();
    assert_eq!((merged.len(), changed.len()), (own.len(), 32));
    assert!(changed.iter().all(|name| name.contains("attn2.to_k") || name.contains("attn2.to_v")), "{changed:?}");
    place.ok(&["sample", "--no-adapter", "--base", "a-merged", "--prompt", "a dog", "--steps", "1"]);

    let said = place.ok(&["export", "a", "--to", "release"]);
    assert!(!said.contains("--no-reference"), "{said}");
    let files = ["<new2>.safetensors", "eqdiff-thing.md", "freq_embeddings.safetensors"];
    assert_eq!(names(&place.path("a-release"))[..3], files);
}

#[test]
fn what_cannot_be_exported_is_said() {
    let place = place();
    place.fails(2, &["--rank"], &["export", "a", "--to", "webui", "--rank", "0"]);
    place.fails(2, &["--name"], &["export", "a", "--to", "webui", "--name", "../a"]);
    place.fails(2, &["diffusers", "webui", "release"], &["export", "a", "--to", "comfy"]);
    place.fails(1, &["no folder nowhere"], &["export", "nowhere", "--to", "release"]);
    place.fails(1, &["mini"], &["export", "a", "--to", "release", "--base", "mini"]);
    let path = place.path("a/adapter.safetensors");
    let bytes = std::fs::read(&path).expect("a file");
    std::fs::write(&path, &bytes[..bytes.len() - 9]).expect("a file");
    place.fails(1, &["adapter.safetensors"], &["export", "a", "--to", "release", "--out", "damaged"]);
    assert!(names(&place.path("damaged")).is_empty());
}

#[test]
fn what_was_exported_comes_back() {
    let place = place();
    let tensors = |folder: &str| {
        let file = place.path(folder).join("adapter.safetensors");
        let tensors = safetensors::load(file, &Device::Cpu).expect("tensors");
        let value = |tensor: &Tensor| tensor.flatten_all().and_then(|t| t.to_vec1::<f32>()).expect("f32");
        tensors.iter().map(|(name, tensor)| (name.clone(), value(tensor))).collect::<BTreeMap<_, _>>()
    };
    let (own, base) = (tensors("a"), tiny_base());
    place.ok(&["export", "a", "--to", "release", "--out", "r"]);
    let files =
        ["r/pytorch_custom_diffusion_weights.safetensors", "r/<new2>.safetensors", "r/freq_embeddings.safetensors"];
    let import = [&["import"][..], &files, &["--base", &base, "--subject", "thing", "--out", "back"]].concat();
    place.ok(&import);
    place.fails(2, &["back was imported", "--subject"], &["train", "--resume", "--out", "back"]);
    assert_eq!(tensors("back"), own);
    let draw = ["--prompt", "a S* thing", "--steps", "2"];
    place.ok(&[&["sample", "--adapter", "back", "--out", "drawn"][..], &draw].concat());

    // without the bands and reference attention, as Custom Diffusion has it
    place.ok(&["export", "a", "--to", "diffusers", "--name", "it", "--out", "d"]);
    let files = ["d/pytorch_custom_diffusion_weights.safetensors", "d/it.safetensors"];
    place.ok(&[&["import"][..], &files, &["--base", &base, "--class", "thing", "--out", "plain"]].concat());
    let plain = tensors("plain");
    let summed: Vec<f32> = own["s_low"].iter().zip(&own["s_high"]).map(|(low, high)| low + high).collect();
    assert!(plain["s_low"] == summed && !plain.contains_key("s_high"));
    let key = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    assert!(plain[key] == own[key] && plain.len() == 1 + 32);
    let ours = ["sample", "--adapter", "a", "--no-reference", "--out", "ours"];
    place.ok(&[&ours[..], &draw].concat());
    place.ok(&[&["sample", "--adapter", "plain", "--out", "theirs"][..], &draw].concat());
    let [one, two] = ["ours", "theirs"]
        .map(|folder| image::open(&common::pictures(&place.path(folder))[0]).expect("a picture").to_rgb8());
    assert_eq!(one, two);

    let weights = files[0];
    place.fails(2, &["embedding"], &["import", weights, "--base", &base, "--class", "thing", "--out", "x"]);
    place.fails(2, &["--class"], &["import", files[1], "--base", &base, "--out", "x"]);
    let classed = |class: &'static str| [&["import"][..], &files, &["--base", &base, "--class", class]].concat();
    for class in ["", " "] {
        place.fails(2, &["--class"], &classed(class));
    }
    place.fails(2, &["control characters"], &classed("a\nb"));
    place.ok(&classed(" ../../toy "));
    assert!(place.path("outputs/toy-imported/adapter.toml").is_file());
    place.fails(2, &["--subject"], &[&import[..4], &["--base", &base, "--class", "thing", "--out", "x"]].concat());
    place.fails(1, &["32", "mini"], &["import", files[1], "--base", "mini", "--class", "thing", "--out", "x"]);
    place.fails(2, &["back is there already"], &import);
    assert!(!place.path("x").exists());
}

#[test]
fn loras_are_added_to_a_base_or_become_an_adapter() {
    let (place, base) = (place(), tiny_base());
    // of the whole rank: nothing is lost
    place.ok(&["export", "a", "--to", "webui", "--rank", "99", "--name", "it", "--out", "w"]);
    let files = ["w/it-lora.safetensors", "w/it.safetensors"];
    place.ok(&[&["import"][..], &files, &["--base", &base, "--class", "thing", "--out", "back"]].concat());
    let draw = ["--prompt", "a S* thing", "--steps", "2"];
    place.ok(&[&["sample", "--adapter", "a", "--no-reference", "--out", "ours"][..], &draw].concat());
    place.ok(&[&["sample", "--adapter", "back", "--out", "theirs"][..], &draw].concat());
    let drawn = |folder: &str| image::open(&common::pictures(&place.path(folder))[0]).expect("a picture").to_rgb8();
    let gap = |one: &str, two: &str| drawn(one).iter().zip(drawn(two).iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(gap("ours", "theirs") <= Some(1), "{:?}", gap("ours", "theirs"));

    let plain = ["sample", "--no-adapter", "--base", &base, "--prompt", "a thing", "--steps", "2"];
    for (out, lora) in
        [("none", None), ("zero", Some("w/it-lora.safetensors:0")), ("full", Some("w/it-lora.safetensors:50"))]
    {
        let lora: Vec<&str> = lora.map(|lora| vec!["--lora", lora]).unwrap_or_default();
        place.ok(&[&plain[..], &lora, &["--out", out]].concat());
    }
    assert!(gap("none", "zero") == Some(0) && gap("none", "full") > Some(0));
    let text = common::bytes(&common::pictures(&place.path("full"))[0]);
    assert!(String::from_utf8_lossy(&text).contains("LoRAs: \"it-lora:50\""));

    for (parts, lora) in [
        (&["nowhere.safetensors"][..], "nowhere.safetensors:0.5"),
        (&["it.safetensors", "no part of a LoRA"], "w/it.safetensors"),
    ] {
        place.fails(1, parts, &[&plain[..], &["--lora", lora, "--out", "x"]].concat());
    }
    place.fails(
        1,
        &["no matrix", "attn2_to_"],
        &["sample", "--no-adapter", "--prompt", "a dog", "--lora", files[0], "--out", "x"],
    );
}

/// Files that PyTorch wrote.
#[test]
fn pickled_embeddings_are_imported() {
    let (place, base) = (Place::new(), tiny_base());
    let pickle = |name: &str| format!("{}/tests/pickles/{name}", env!("CARGO_MANIFEST_DIR"));
    let import = |name: &str, out: &str| {
        let file = pickle(name);
        let more = ["--base", &base, "--class", "toy", "--out", out];
        [vec!["import".to_string(), file], more.iter().map(ToString::to_string).collect()].concat()
    };
    // of diffusers, of AUTOMATIC1111, and of the authors of textual inversion, who keep a ParameterDict
    for name in ["learned_embeds.bin", "toy.pt", "embeddings.pt"] {
        let command = import(name, name);
        place.ok(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let tensors = safetensors::load(place.path(name).join("adapter.safetensors"), &Device::Cpu).expect("tensors");
        let vector = tensors["s_low"].to_vec1::<f32>().expect("a vector");
        assert!(vector.len() == 32 && vector[0] == -0.05 && vector[31] == 0.05, "{name}: {vector:?}");
        // Textual Inversion has nothing else
        assert_eq!(tensors.len(), 1, "{name}");
    }
    place.ok(&["sample", "--adapter", "toy.pt", "--prompt", "a S* toy", "--steps", "1", "--out", "d"]);
    let whole = std::fs::read(pickle("toy.pt")).expect("a file");
    for (name, bytes) in [("cut.pt", &whole[..whole.len() / 2]), ("none.pt", b"PK\x03\x04nothing")] {
        std::fs::write(place.path(name), bytes).expect("a file");
        place.fails(1, &[name], &["import", name, "--base", &base, "--class", "toy", "--out", "x"]);
    }
    for (name, part) in [("two.pt", "[2, 32]"), ("old.bin", "may run code"), ("nowhere.pt", "nowhere.pt")] {
        let command = import(name, "x");
        place.fails(1, &[part, name], &command.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// An adapter's keys and values come in the place of the base's: what a LoRA makes of those is not lost.
#[test]
fn loras_change_what_adapters_draw() {
    let place = place();
    place.ok(&["export", "a", "--to", "webui", "--rank", "99", "--name", "it", "--out", "w"]);
    let draw = |more: &[&str], out: &str| {
        let fixed = ["sample", "--adapter", "a", "--prompt", "a S* thing", "--steps", "2", "--out", out];
        place.ok(&[&fixed[..], more].concat());
        image::open(&common::pictures(&place.path(out))[0]).expect("a picture").to_rgb8()
    };
    let alone = draw(&[], "alone");
    assert!(alone != draw(&["--lora", "w/it-lora.safetensors:50"], "more"));
    assert!(alone == draw(&["--lora", "w/it-lora.safetensors:0"], "none"));
}

#[test]
fn only_exports_of_that_name_and_layout_are_replaced() {
    let place = place();
    let export = |to: &'static str, name: &'static str, out: &'static str| {
        ["export", "a", "--to", to, "--name", name, "--out", out]
    };
    std::fs::create_dir(place.path("notes")).expect("a folder");
    let theirs = ["notes/README.md", "notes/README.safetensors"].map(|name| place.path(name));
    theirs.iter().for_each(|path| std::fs::write(path, "# Theirs\n").expect("a file"));
    place.fails(2, &["is there already", "--name"], &export("webui", "README", "notes"));
    assert!(theirs.iter().all(|path| common::bytes(path) == b"# Theirs\n"));
    assert_eq!(names(&place.path("notes")).len(), 2);

    place.ok(&export("webui", "it", "w"));
    let [page, token] = ["w/it.md", "w/it.safetensors"].map(|name| place.path(name));
    let before = [&page, &token].map(|path| common::bytes(path));
    place.fails(2, &["it.safetensors is there already"], &export("diffusers", "it", "w"));
    assert!(before == [&page, &token].map(|path| common::bytes(path)));
    // killed over the last name of the set
    std::fs::rename(&page, place.path("w/.eqdiff-x.part")).expect("a file");
    std::fs::write(place.path("w/.eqdiff-set"), ".eqdiff-x.part\tit.md\n").expect("a journal");
    place.ok(&export("webui", "it", "w"));
    assert_eq!(names(&place.path("w")), ["it-lora.png", "it-lora.safetensors", "it.md", "it.safetensors"]);
}

#[test]
fn options_without_effect_are_told_and_change_nothing() {
    let place = place();
    let lora = |more: &[&str], out: &str| {
        let said = place.ok(&[&["export", "a", "--to", "webui", "--name", "it", "--out", out][..], more].concat());
        (said, common::bytes(&place.path(out).join("it-lora.safetensors")))
    };
    let (whole, plain) = lora(&["--rank", "99"], "plain");
    let (told, rounded) = lora(&["--rank", "99", "--dtype", "bf16"], "rounded");
    assert!(told.contains("--dtype has no effect") && !whole.contains("no effect"), "{told}");
    assert!(plain == rounded, "a LoRA of the changes from a rounded base");
    // a higher rank is only of use below the full one
    assert!(!whole.contains("a higher --rank"), "{whole}");
    assert!(lora(&["--rank", "1"], "thin").0.contains("a higher --rank"));
    assert!(place.ok(&["export", "a", "--to", "release", "--rank", "3"]).contains("--rank has no effect"));
}

#[test]
#[cfg(unix)]
fn empty_folders_are_filled_that_none_can_replace() {
    let (place, base) = (place(), tiny_base());
    place.ok(&["export", "a", "--to", "diffusers", "--name", "it", "--out", "d"]);
    for folder in ["real", "m", "here"] {
        std::fs::create_dir(place.path(folder)).expect("a folder");
    }
    for (to, link) in [("real", "link"), ("nowhere", "nothing")] {
        std::os::unix::fs::symlink(place.path(to), place.path(link)).expect("a link");
    }
    let import = |out: &'static str| {
        let files = ["d/pytorch_custom_diffusion_weights.safetensors", "d/it.safetensors"];
        [&["import"][..], &files, &["--base", &base, "--class", "thing", "--out", out]].concat()
    };
    place.ok(&import("link"));
    assert!(place.path("link").is_symlink());
    assert_eq!(names(&place.path("real")), ["adapter.safetensors", "adapter.toml"]);
    place.fails(2, &["nothing is there already"], &import("nothing"));
    place.ok(&["export", "link", "--to", "merged", "--out", "m"]);
    assert!(place.path("m/unet").is_dir() && names(&place.path("m")).iter().all(|name| !name.starts_with('.')));
    // the working directory
    let (subject, config) = (place.path("thing").display().to_string(), place.path("tiny.toml").display().to_string());
    let fixed = ["train", "--base", &base, "--subject", &subject, "--config", &config];
    let output = place.command(&[&fixed[..], &["--out", "."]].concat()).current_dir(place.path("here")).output();
    let output = output.expect("the program runs");
    assert!(output.status.success(), "{}", common::printed(&output));
    assert!(place.path("here/adapter.safetensors").is_file());
    place.ok(&["train", "--resume", "--out", "here", "--steps", "2"]);
    place.fails(2, &["nothing is not an empty folder"], &[&fixed[..], &["--out", "nothing"]].concat());
}

#[test]
fn everything_that_can_be_told_is_told() {
    let place = place();
    place.ok(&["export", "a", "--to", "webui", "--name", "it", "--out", "w"]);
    std::fs::copy(place.path("w/it-lora.safetensors"), place.path("my lora.SAFETENSORS")).expect("a copy");
    let parts = ["no file nowhere.png", "--lora 'my lora.SAFETENSORS'", "a: adapter of eqdiff"];
    place.fails(1, &parts, &["info", "nowhere.png", "my lora.SAFETENSORS", "a"]);
    // what is being made, or was when a process died, is no training yet
    common::copy(&place.path("a"), &place.path(".eqdiff-x.part"));
    let said = place.ok(&["runs", "."]);
    assert!(said.contains("subject") && !said.contains(".part"), "{said}");
}
