//! Pictures through the real program: nothing that was drawn is lost or drawn twice.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Place, bytes, picture, pictures, tiny_base};

fn draw<'a>(base: &'a str, out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let fixed = ["sample", "--no-adapter", "--base", base, "--out", out];
    fixed.iter().chain(more).copied().collect()
}

#[test]
fn the_same_command_goes_on_and_another_draws_beside_it() {
    let (place, base) = (Place::new(), tiny_base());
    let command = draw(&base, "d", &["--prompt", "a dog", "--prompt", "a cat", "--steps", "2", "--count", "2"]);
    place.ok(&command);
    let folder = place.path("d");
    let before = pictures(&folder);
    let lost = picture(&folder, "a-cat-3");
    let content = image::open(&lost).expect("a picture").to_rgb8();
    let untouched = picture(&folder, "a-dog-0");
    let written = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).expect("a time");
    let time = written(&untouched);
    std::fs::remove_file(&lost).expect("a picture");
    assert!(place.ok(&command).contains("3 of 4 pictures"));
    assert!(written(&untouched) == time && pictures(&folder) == before);
    // up to the rounding of other tile sizes: it is drawn alone this time
    let again = image::open(&lost).expect("a picture").to_rgb8();
    let gap = content.iter().zip(again.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(gap <= Some(1), "{gap:?}");
    // other settings, other words and other seeds are other pictures
    for more in [["--steps", "3"], ["--negative", "mud"], ["--guidance", "2"], ["--size", "128x64"]] {
        place.ok(&draw(&base, "d", &[&["--prompt", "a dog"][..], &more].concat()));
    }
    place.ok(&draw(&base, "d", &["--prompt", "A dog?", "--steps", "2"]));
    assert_eq!(pictures(&folder).len(), before.len() + 5);
    assert!(before.iter().all(|file| file.is_file()));
}

#[test]
fn names_begin_with_a_letter_and_do_not_depend_on_the_folder() {
    let (place, base) = (Place::new(), tiny_base());
    for prompt in ["--help", "-x", "...", "/etc/passwd", "../../up", "\u{1b}[31mred", "日本"] {
        place.ok(&draw(&base, "d", &["--steps", "1", &format!("--prompt={prompt}")]));
    }
    let names: Vec<String> =
        pictures(&place.path("d")).iter().map(|p| p.file_name().unwrap().to_string_lossy().into()).collect();
    assert_eq!(names.len(), 7, "{names:?}");
    assert!(names.iter().all(|name| name.starts_with(char::is_alphanumeric)), "{names:?}");
    place.ok(&draw(&base, "other", &["--steps", "1", "--prompt", "..."]));
    assert_eq!(pictures(&place.path("other"))[0].file_name(), picture(&place.path("d"), "picture-0").file_name());
}

#[test]
fn any_seed_is_drawn_and_told() {
    let (place, base) = (Place::new(), tiny_base());
    let text = place.ok(&draw(&base, "d", &["--prompt", "a dog", "--steps", "1", "--seed", "-1"]));
    let seed = text.lines().find_map(|line| line.strip_prefix("Seed: ")).expect("the seed");
    picture(&place.path("d"), &format!("a-dog-{seed}"));
    place.fails(2, &["--seed", "-1"], &draw(&base, "d", &["--prompt", "a dog", "--seed", "some"]));
    place.fails(2, &["--count"], &draw(&base, "d", &["--prompt", "a dog", "--count", "99999999999"]));
    place.ok(&draw(
        &base,
        "d",
        &["--prompt", "a dog", "--steps", "1", "--seed", &u64::MAX.to_string(), "--count", "2"],
    ));
}

#[test]
#[cfg(unix)]
fn what_is_finished_survives_ctrl_c() {
    let (place, base) = (Place::new(), tiny_base());
    let all = draw(&base, "d", &["--prompt", "a dog", "--steps", "12", "--count", "400"]);
    let mut child = place.start(&all);
    place.wait_until("a picture", Duration::from_secs(180), || !pictures(&place.path("d")).is_empty());
    common::signal(&child, libc::SIGINT);
    assert_eq!(child.wait().expect("an end").code(), Some(130));
    let there = pictures(&place.path("d"));
    assert!(!there.is_empty() && there.len() < 400, "{}", there.len());
    for file in there {
        image::open(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}

#[test]
fn output_places_are_checked_first() {
    let (place, base) = (Place::new(), tiny_base());
    std::fs::write(place.path("file"), "").expect("a file");
    let text = |output: std::process::Output| common::printed(&output);
    let said = text(place.run(&draw(&base, "file/d", &["--prompt", "a dog"])));
    assert!(said.contains("file/d") && !said.contains("Drawing") && !said.contains("Base:"), "{said}");
    std::fs::write(place.path("mine.html"), "<p>mine</p>").expect("a file");
    place.fails(1, &["mine.html"], &["demo", "--out", "mine.html"]);
    assert_eq!(bytes(&place.path("mine.html")), b"<p>mine</p>");
}

#[test]
fn samplers_draw_pictures_of_their_own_whatever_is_drawn_beside_them() {
    let (place, base) = (Place::new(), tiny_base());
    let samplers = ["ddim", "dpmpp-2m", "dpmpp-2m-karras", "euler", "euler-a", "unipc"];
    for sampler in samplers {
        place.ok(&draw(&base, "all", &["--prompt", "a dog", "--steps", "4", "--sampler", sampler]));
    }
    let all = pictures(&place.path("all"));
    let different: std::collections::HashSet<Vec<u8>> =
        all.iter().map(|path| image::open(path).expect("a picture").to_rgb8().into_raw()).collect();
    assert_eq!((all.len(), different.len()), (6, 6));
    assert!(all.iter().any(|path| String::from_utf8_lossy(&bytes(path)).contains("Sampler: DPM++ 2M Karras")));
    // fresh noise belongs to the picture
    let noisy = ["--steps", "3", "--sampler", "euler-a", "--guidance-rescale", "0.7"];
    place.ok(&draw(&base, "pair", &[&["--prompt", "a dog", "--prompt", "a cat"][..], &noisy].concat()));
    place.ok(&draw(&base, "alone", &[&["--prompt", "a cat", "--seed", "1"][..], &noisy].concat()));
    let [one, two] = ["pair", "alone"].map(|folder| picture(&place.path(folder), "a-cat-1"));
    assert_eq!(one.file_name(), two.file_name());
    let [one, two] = [one, two].map(|path| image::open(path).expect("a picture").to_rgb8());
    let gap = one.iter().zip(two.iter()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(gap <= Some(1), "{gap:?}");
    for (part, wrong) in [
        ("dpmpp-2m-karras", ["--sampler", "dpm"]),
        ("--guidance-rescale", ["--guidance-rescale", "1.5"]),
        ("1 to 999", ["--sampler", "unipc"]),
    ] {
        let command = [&["--prompt", "a dog", "--steps", "1000"][..], &wrong].concat();
        place.fails(2, &[part], &draw(&base, "wrong", &command));
    }
}

#[test]
fn pictures_are_drawn_again_from_what_they_say() {
    let (place, base) = (Place::new(), tiny_base());
    let settings = ["--steps", "3", "--sampler", "unipc", "--guidance", "2.5", "--guidance-rescale", "0.5"];
    let others = ["--prompt", "a dog, at: \"home\"", "--negative", "mud", "--seed", "77", "--size", "128x64"];
    place.ok(&draw(&base, "d", &[&settings[..], &others].concat()));
    let first = pictures(&place.path("d")).remove(0);
    let first = first.to_str().expect("a name");
    assert!(place.ok(&draw(&base, "d", &["--like", first])).contains("1 of 1 pictures"));
    place.ok(&draw(&base, "d", &["--like", first, "--seed", "78", "--count", "2"]));
    assert_eq!(pictures(&place.path("d")).len(), 3);
    place.subject("thing");
    place.fails(1, &["thing/0.png", "does not say"], &draw(&base, "d", &["--like", "thing/0.png"]));
    place.fails(1, &["nowhere.png"], &draw(&base, "d", &["--like", "nowhere.png"]));
}
