//! Adapters from somebody else: refused with a message, and never more than read.

mod common;

use common::{Place, bytes, copy, tiny_base};

/// A place with an adapter of two steps in `a`.
fn place() -> Place {
    let (place, base) = (Place::new(), tiny_base());
    place.subject("thing");
    let toml = "[rra]\nreferences_per_photo = 1\n[training]\npreview_every = 0\nsteps = 2\n";
    std::fs::write(place.path("c.toml"), toml).expect("a file");
    let fixed = ["train", "--subject", "thing", "--base", &base, "--num-class-images", "0", "--config", "c.toml"];
    place.ok(&fixed.iter().chain(&["--out", "a"]).copied().collect::<Vec<_>>());
    place
}

const DRAW: [&str; 9] = ["sample", "--adapter", "b", "--prompt", "S* thing", "--steps", "1", "--out", "d"];
const RESUME: [&str; 6] = ["train", "--resume", "--out", "b", "--steps", "3"];

/// A copy `b` of the adapter with a line of its manifest changed.
fn changed(place: &Place, key: &str, value: &str) {
    let _ = std::fs::remove_dir_all(place.path("b"));
    copy(&place.path("a"), &place.path("b"));
    let file = place.path("b/adapter.toml");
    let toml = std::fs::read_to_string(&file).expect("a manifest");
    let line = |line: &str| match line.starts_with(&format!("{key} =")) {
        true => format!("{key} = {value}\n"),
        false => format!("{line}\n"),
    };
    let new: String = toml.lines().map(line).collect();
    assert!(new != toml, "{key} is not there");
    std::fs::write(file, new).expect("a manifest");
}

#[test]
fn settings_are_checked_like_typed_ones() {
    let place = place();
    for (key, value) in [
        ("references_per_photo", "1000000000000"),
        ("class_images", "1000000000000"),
        ("dilations", "1000000000000"),
        ("batch_size", "0"),
        ("side", "1000000000000"),
        ("side", "0"),
        ("learning_rate", "nan"),
        ("learning_rate", "-1.0"),
        ("max_grad_norm", "0.0"),
        ("low_cutoff", "inf"),
        ("weight", "-inf"),
        ("guidance", "nan"),
        ("time_gap", "99999999999"),
        ("probabilities", "[0.0, 0.0, 0.0]"),
        ("class", "\"a\\u001b[2Jb\""),
        ("subject", "\"\""),
        ("placeholder", "\"\""),
        ("steps", "-1"),
    ] {
        changed(&place, key, value);
        place.fails(1, &["adapter.toml"], &DRAW);
        place.fails(1, &["adapter.toml"], &RESUME);
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    let place = place();
    for (file, command) in [("adapter.safetensors", &DRAW[..]), ("training.safetensors", &RESUME[..])] {
        for value in [f32::NAN, f32::INFINITY, 3e38] {
            let _ = std::fs::remove_dir_all(place.path("b"));
            copy(&place.path("a"), &place.path("b"));
            let path = place.path("b").join(file);
            let mut content = bytes(&path);
            let end = content.len();
            content[end - 4..].copy_from_slice(&value.to_le_bytes());
            std::fs::write(&path, content).expect("a file");
            place.fails(1, &[if file == "adapter.safetensors" { "finite" } else { "steps" }], command);
        }
    }
}

#[test]
fn a_diverged_step_is_not_saved() {
    let place = place();
    let before = bytes(&place.path("a/adapter.safetensors"));
    let toml = "[rra]\nreferences_per_photo = 1\n[training]\npreview_every = 0\n";
    std::fs::write(place.path("c.toml"), toml).expect("a file");
    let base = tiny_base();
    let fixed = ["train", "--subject", "thing", "--base", &base, "--num-class-images", "0", "--config", "c.toml"];
    let wild = ["--lr", "1e38", "--steps", "3", "--out", "wild"];
    place.fails(1, &["step 1", "diverged"], &fixed.iter().chain(&wild).copied().collect::<Vec<_>>());
    assert!(!place.path("wild/adapter.safetensors").exists());
    assert!(before == bytes(&place.path("a/adapter.safetensors")));
}

#[test]
fn its_photos_are_those_that_it_was_trained_on() {
    let place = place();
    copy(&place.path("a"), &place.path("b"));
    std::fs::copy(place.path("b/photos/01.png"), place.path("b/photos/00.png")).expect("a photo");
    place.fails(1, &["photos"], &DRAW);
    place.fails(1, &["photos"], &RESUME);
}

#[test]
#[cfg(unix)]
fn nothing_outside_its_folder_is_written() {
    let place = place();
    let outside = place.path("outside");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("precious"), "precious").expect("a file");
    copy(&place.path("a"), &place.path("b"));
    for link in ["adapter.part", "loss.part", "training.part", "loss.png", ".eqdiff-x.part"] {
        let _ = std::fs::remove_file(place.path("b").join(link));
        std::os::unix::fs::symlink(outside.join("precious"), place.path("b").join(link)).expect("a link");
    }
    place.ok(&RESUME);
    std::os::unix::fs::symlink(&outside, place.path("b/evaluation")).expect("a link");
    std::os::unix::fs::symlink(&outside, place.path("b/previews")).expect("a link");
    place.run(&["eval", "--adapter", "b", "--limit", "1", "--metrics", "clip-t"]);
    let toml = std::fs::read_to_string(place.path("b/adapter.toml")).expect("a manifest");
    std::fs::write(place.path("b/adapter.toml"), toml.replace("preview_every = 0", "preview_every = 1"))
        .expect("a file");
    place.fails(1, &["previews"], &["train", "--resume", "--out", "b", "--steps", "4"]);
    assert_eq!(std::fs::read_dir(&outside).expect("a folder").count(), 1);
    assert_eq!(bytes(&outside.join("precious")), b"precious");
    std::fs::write(place.path("b/.eqdiff-set"), ".eqdiff-x.part\t../outside/precious\n").expect("a journal");
    place.fails(1, &["damaged"], &DRAW);
    assert_eq!(bytes(&outside.join("precious")), b"precious");
}

#[test]
#[cfg(unix)]
fn what_cannot_be_read_to_its_end_is_not_begun() {
    let place = place();
    let evaluate = ["eval", "--adapter", "b", "--limit", "1", "--metrics", "clip-t", "--clip", "nowhere"];
    for (file, command) in [
        ("adapter.toml", &DRAW[..]),
        (".eqdiff-set", &DRAW[..]),
        ("adapter.safetensors", &DRAW[..]),
        ("adapter.safetensors", &evaluate[..]),
        (".eqdiff-lock", &RESUME[..]),
        ("training.safetensors", &RESUME[..]),
        ("loss.csv", &RESUME[..]),
        ("training.html", &RESUME[..]),
    ] {
        let _ = std::fs::remove_dir_all(place.path("b"));
        copy(&place.path("a"), &place.path("b"));
        let path = place.path("b").join(file);
        let _ = std::fs::remove_file(&path);
        let pipe = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(pipe.success());
        place.fails(1, &[file], command);
        std::fs::remove_file(&path).expect("a pipe");
        std::os::unix::fs::symlink("/dev/zero", &path).expect("a link");
        place.fails(1, &[file], command);
    }
    // what only follows from the rest is made anew
    let _ = std::fs::remove_dir_all(place.path("b"));
    copy(&place.path("a"), &place.path("b"));
    let events = place.path("b/events.out.tfevents.0.eqdiff");
    std::fs::remove_file(&events).expect("a file");
    std::os::unix::fs::symlink("/dev/zero", &events).expect("a link");
    place.ok(&RESUME);
    assert!(!events.is_symlink() && events.is_file());
    // 16 GiB that take no room
    let _ = std::fs::remove_dir_all(place.path("b"));
    copy(&place.path("a"), &place.path("b"));
    let header = r#"{"x":{"dtype":"F32","shape":[4294967296],"data_offsets":[0,17179869184]}}"#;
    let head = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
    std::fs::write(place.path("b/adapter.safetensors"), &head).expect("a file");
    let file = std::fs::File::options().write(true).open(place.path("b/adapter.safetensors")).expect("a file");
    file.set_len(head.len() as u64 + (16 << 30)).expect("a hole");
    place.fails(1, &["adapter.safetensors", "MiB"], &DRAW);
}

#[test]
#[cfg(unix)]
fn pipes_are_nothing_to_be_replaced() {
    let place = Place::new();
    place.subject("thing");
    for pipe in ["pipe", "0-low.png"] {
        assert!(std::process::Command::new("mkfifo").arg(place.path(pipe)).status().expect("mkfifo").success());
    }
    let score = ["eval", "--generated", "thing", "--concept", "thing", "--json", "pipe"];
    place.fails(1, &["pipe is there already", "no ordinary file", "--json"], &score);
    place.fails(1, &["pipe is there already", "no ordinary file"], &["runs", "thing", "--page", "pipe"]);
    place.fails(1, &["0-low.png is there already"], &["bands", "thing/0.png", "--out", "."]);
}

#[test]
fn its_base_is_not_downloaded_at_its_word() {
    let place = place();
    changed(&place, "base", "\"nobody/nothing\"");
    place.fails(1, &["--base nobody/nothing"], &DRAW);
    place.fails(1, &["--base nobody/nothing"], &RESUME);
}
