//! What is told of trainings and files.

mod common;

use common::{Place, bytes, pictures, tiny_base};

fn trained() -> Place {
    let (place, base) = (Place::new(), tiny_base());
    place.subject("cup");
    let training = ["train", "--subject", "cup", "--base", &base, "--steps", "3", "--num-class-images", "0"];
    place.ok(&training);
    place
}

/// The scalars of a TensorBoard file: steps with tags, read as its format says.
fn scalars(file: &[u8]) -> Vec<(u64, Vec<String>)> {
    let (mut at, mut found) = (0, Vec::new());
    while at < file.len() {
        let length = u64::from_le_bytes(file[at..at + 8].try_into().expect("a length")) as usize;
        let event = &file[at + 12..at + 12 + length];
        at += 16 + length;
        if event[9] == 2 << 3 {
            let text = String::from_utf8_lossy(event).into_owned();
            let tags = ["total", "denoise", "gradient_norm"].into_iter().filter(|tag| text.contains(tag));
            found.push((event[10].into(), tags.map(String::from).collect()));
        }
    }
    found
}

#[test]
fn trainings_are_listed_and_watched() {
    let place = trained();
    let events = scalars(&bytes(&place.path("outputs/cup/events.out.tfevents.0.eqdiff")));
    let steps: Vec<u64> = events.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [1, 2, 3]);
    assert!(events.iter().all(|(_, tags)| *tags == ["total", "denoise", "gradient_norm"]), "{events:?}");
    let page = || String::from_utf8_lossy(&bytes(&place.path("outputs/cup/training.html"))).into_owned();
    assert!(page().contains("3 of 3 steps") && page().contains("<b>denoise</b>") && !page().contains("refresh"));
    place.ok(&["train", "--resume", "--steps", "4"]);
    assert!(page().contains("4 of 4 steps"));
    assert_eq!(scalars(&bytes(&place.path("outputs/cup/events.out.tfevents.0.eqdiff"))).len(), 4);

    std::fs::create_dir(place.path("outputs/broken")).expect("a folder");
    std::fs::write(place.path("outputs/broken/adapter.toml"), "nonsense").expect("a file");
    let said = place.ok(&["runs", "--page", "runs.html"]);
    for part in ["outputs/cup", "4 of 4 steps", "a cup", "loss ", "outputs/broken"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(String::from_utf8_lossy(&bytes(&place.path("runs.html"))).contains("4 of 4 steps"));
    place.fails(2, &["nowhere"], &["runs", "nowhere"]);
}

/// A page that browsers read again until the training is over, with the previews that there are.
#[test]
fn a_training_is_watched_while_it_goes() {
    let (place, base) = (Place::new(), tiny_base());
    place.subject("cup");
    std::fs::write(
        place.path("often.toml"),
        "[training]\ncheckpoint_every = 1\npreview_every = 2\n[sampling]\nsteps = 1\n",
    )
    .expect("a file");
    let training = ["train", "--subject", "cup", "--base", &base, "--config", "often.toml", "--num-class-images", "0"];
    let mut child = place.start(&[&training[..], &["--steps", "100000"]].concat());
    let path = place.path("outputs/cup/training.html");
    let page = || std::fs::read_to_string(&path).unwrap_or_default();
    place.wait_until("two previews", std::time::Duration::from_secs(180), || page().contains("step 4"));
    assert!(page().contains("http-equiv=\"refresh\"") && page().contains("of 100000 steps"));
    assert!(page().find("step 4") < page().find("step 2") && page().contains("data:image/png;base64,"));
    child.kill().expect("an end");
    child.wait().expect("an end");
}

/// The page is written anew without checkpoints too; one that was stopped says how to go on, and somebody else's file is
/// left alone.
#[test]
#[cfg(unix)]
fn the_page_follows_between_checkpoints_and_says_that_it_stopped() {
    let (place, base) = (Place::new(), tiny_base());
    place.subject("cup");
    std::fs::write(place.path("never.toml"), "[training]\ncheckpoint_every = 0\npreview_every = 0\n").expect("a file");
    let training = ["train", "--subject", "cup", "--base", &base, "--config", "never.toml", "--num-class-images", "0"];
    let mut child = place.start(&[&training[..], &["--steps", "100000"]].concat());
    let path = place.path("outputs/cup/training.html");
    let page = || std::fs::read_to_string(&path).unwrap_or_default();
    let limit = std::time::Duration::from_secs(180);
    place.wait_until("a page", limit, || page().contains("of 100000 steps"));
    assert!(page().contains(">1 of 100000 steps"), "{}", page());
    place.wait_until("a later page", limit, || page().contains("of 100000") && !page().contains(">1 of 100000"));
    assert!(page().contains("refresh") && !page().contains("Stopped"));
    common::signal(&child, libc::SIGINT);
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    assert!(page().contains("Stopped. Go on with: eqdiff train --resume --out outputs/cup"), "{}", page());
    assert!(!page().contains("refresh"));

    std::fs::write(&path, "<p>mine</p>").expect("a file");
    place.fails(1, &["training.html", "move it away"], &["train", "--resume"]);
    assert_eq!(page(), "<p>mine</p>");
}

#[test]
fn files_say_what_they_are() {
    let (place, base) = (trained(), tiny_base());
    place.ok(&["export", "outputs/cup", "--to", "webui", "--rank", "2", "--name", "it", "--out", "web"]);
    place.ok(&["export", "outputs/cup", "--to", "diffusers", "--name", "it", "--out", "dif"]);
    place.ok(&["sample", "--adapter", "outputs/cup", "--prompt", "a S* cup", "--steps", "1", "--out", "d"]);
    let picture = pictures(&place.path("d"))[0].display().to_string();
    for (path, parts) in [
        ("outputs/cup", &["adapter of eqdiff", "3 of 3 steps"][..]),
        ("outputs/cup/adapter.safetensors", &["tensors of an adapter"]),
        ("web/it-lora.safetensors", &["LoRA", "32 matrices", "rank", "ss_network_dim"]),
        ("web/it.safetensors", &["textual inversion embedding", "modelspec.architecture"]),
        ("dif/pytorch_custom_diffusion_weights.safetensors", &["Custom Diffusion weights"]),
        (&base, &["base in the diffusers layout", "unet, vae"]),
        (&format!("{base}/unet/diffusion_pytorch_model.safetensors"), &["UNet in the diffusers layout"]),
        (&picture, &["picture that was drawn", "a S* cup", "eqdiff sample --like"]),
        (
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pickles/learned_embeds.bin"),
            &["textual inversion embedding", "<toy> [32]"],
        ),
        ("cup/0.png", &["does not say how it was drawn", "96x80"]),
    ] {
        let said = place.ok(&["info", path]);
        assert!(parts.iter().all(|part| said.contains(part)), "{path}: {said}");
    }
    std::fs::write(place.path("cut.safetensors"), &bytes(&place.path("web/it-lora.safetensors"))[..900])
        .expect("a file");
    std::fs::write(place.path("old.pt"), b"\x80\x02}q").expect("a file");
    std::fs::write(place.path("text.png"), b"text").expect("a file");
    for (path, part) in [
        ("cut.safetensors", "cut.safetensors"),
        ("old.pt", "pickle"),
        ("text.png", "text.png"),
        ("none", "none"),
        ("d", "neither"),
    ] {
        place.fails(1, &[part], &["info", path]);
    }
}

#[test]
fn shells_and_man_know_every_command() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let said = place.ok(&["completions", shell]);
        assert!(["train", "mask", "guidance-rescale"].iter().all(|word| said.contains(word)), "{shell}");
    }
    place.fails(2, &["bash"], &["completions", "tcl"]);
    place.ok(&["man", "--out", "man"]);
    let page = String::from_utf8_lossy(&bytes(&place.path("man/eqdiff-mask.1"))).into_owned();
    assert!(page.contains("compare") && place.path("man/eqdiff.1").is_file(), "{page}");
}
