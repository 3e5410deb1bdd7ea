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

/// A picture of two halves, and a mask that is white in its middle.
fn source(place: &Place) -> (String, String) {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| image::Rgb([if x < 32 { 220 } else { 30 }, y as u8 * 3, 90]));
    let inside = |x: u32, y: u32| (16..48).contains(&x) && (16..48).contains(&y);
    let mask = image::GrayImage::from_fn(64, 64, |x, y| image::Luma([if inside(x, y) { 255 } else { 0 }]));
    let [from, anew] = ["from.png", "anew.png"].map(|name| place.path(name));
    picture.save(&from).expect("a picture");
    mask.save(&anew).expect("a mask");
    (from.display().to_string(), anew.display().to_string())
}

#[test]
fn drawing_starts_from_a_picture() {
    let (place, base) = (Place::new(), tiny_base());
    let (from, anew) = source(&place);
    // how far apart two seeds are
    let apart = |strength: &str| {
        let drawn = |seed: &str| {
            let folder = format!("{strength}-{seed}");
            let more = ["--prompt", "a dog", "--steps", "8", "--from", &from, "--strength", strength, "--seed", seed];
            place.ok(&draw(&base, &folder, &[&more[..], &["--size", "64x64"]].concat()));
            image::open(&pictures(&place.path(&folder))[0]).expect("a picture").to_rgb8()
        };
        let (one, other) = (drawn("0"), drawn("1"));
        one.iter().zip(other.iter()).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>()
    };
    assert!(apart("0.13") < apart("1"));
    let said = place.ok(&draw(&base, "twice", &["--prompt", "a dog", "--steps", "8", "--from", &from]));
    assert!(said.contains("Drawing 6/6") || !said.contains("Drawing 8/8"), "{said}");
    // what the mask leaves out keeps its pixels
    let painted =
        draw(&base, "in", &["--prompt", "a dog", "--steps", "3", "--from", &from, "--mask", &anew, "--size", "64x64"]);
    place.ok(&painted);
    let picture = image::open(&pictures(&place.path("in"))[0]).expect("a picture").to_rgb8();
    let own = image::open(&from).expect("a picture").to_rgb8();
    let inside = |x: u32, y: u32| (16..48).contains(&x) && (16..48).contains(&y);
    let changed: Vec<bool> =
        own.enumerate_pixels().map(|(x, y, pixel)| picture.get_pixel(x, y) != pixel && !inside(x, y)).collect();
    assert!(!changed.contains(&true) && picture != own);
    assert!(String::from_utf8_lossy(&bytes(&pictures(&place.path("in"))[0])).contains("Denoising strength: 1"));
    for (code, part, more) in [
        (2, "--strength", vec!["--from", &from, "--strength", "0"]),
        (2, "none is left", vec!["--from", &from, "--strength", "0.01"]),
        (2, "--from", vec!["--mask", &anew]),
        (1, "nowhere.png", vec!["--from", "nowhere.png"]),
        (1, "broken.png", vec!["--from", "broken.png"]),
        (1, "broken.png", vec!["--from", &from, "--mask", "broken.png"]),
        (2, "wide.png", vec!["--from", &from, "--mask", "wide.png"]),
        (2, "all black", vec!["--from", &from, "--mask", "black.png"]),
    ] {
        std::fs::write(place.path("broken.png"), b"\x89PNG\r\n\x1a\nno more").expect("a file");
        image::GrayImage::from_pixel(64, 32, image::Luma([255])).save(place.path("wide.png")).expect("a mask");
        image::GrayImage::new(64, 64).save(place.path("black.png")).expect("a mask");
        let more = [&["--prompt", "a dog", "--steps", "4"][..], &more].concat();
        place.fails(code, &[part], &draw(&base, "wrong", &more));
    }
}

#[test]
fn a_sheet_shows_what_settings_do() {
    let (place, base) = (Place::new(), tiny_base());
    let grid = ["--grid", "guidance=1,5", "--grid", "steps=2,3,4"];
    let said = place.ok(&draw(&base, "d", &[&["--prompt", "a dog", "--seed", "3"][..], &grid].concat()));
    assert!(said.contains("a-dog-3-") && said.contains("-contact-sheet.png"), "{said}");
    let drawn = |folder: &str| {
        let all = pictures(&place.path(folder));
        all.into_iter().filter(|path| !path.display().to_string().ends_with("sheet.png")).collect::<Vec<_>>()
    };
    assert_eq!(drawn("d").len(), 6);
    // another sheet of the same prompt lies beside it
    place.ok(&draw(&base, "d", &["--prompt", "a dog", "--seed", "3", "--grid", "steps=2,3"]));
    let sheets = pictures(&place.path("d")).len() - drawn("d").len();
    assert_eq!(sheets, 2);
    // each cell is the picture that its settings draw alone
    assert!(
        place
            .ok(&draw(&base, "d", &["--prompt", "a dog", "--seed", "3", "--steps", "3", "--guidance", "5"]))
            .contains("1 of 1")
    );
    for (part, wrong) in [
        ("colour", "colour=1,2"),
        ("steps=x: give what --steps takes", "steps=2,x"),
        ("one of ddim", "sampler=ddim,foo"),
        ("--from", "strength=0.5"),
        ("steps", "steps=0"),
        ("5 is there twice", "guidance=5,1,5"),
    ] {
        place.fails(2, &[part], &draw(&base, "d", &["--prompt", "a dog", "--grid", wrong]));
    }
    let twice = ["--prompt", "a dog", "--grid", "steps=2", "--grid", "steps=3"];
    place.fails(2, &["steps is given twice"], &draw(&base, "d", &twice));
    let both = ["--prompt", "a dog", "--guidance", "3", "--grid", "guidance=1,5"];
    place.fails(2, &["--guidance is what changes along --grid guidance"], &draw(&base, "d", &both));
}

#[test]
fn variations_are_near_and_are_drawn_again() {
    let (place, base) = (Place::new(), tiny_base());
    let fixed = ["--prompt", "a dog", "--steps", "3", "--seed", "5"];
    place.ok(&draw(&base, "d", &fixed));
    place.ok(&draw(&base, "d", &[&fixed[..], &["--variations", "0.1", "--count", "3"]].concat()));
    let all = pictures(&place.path("d"));
    let all: Vec<_> = all.into_iter().filter(|path| !path.ends_with("contact-sheet.png")).collect();
    assert_eq!(all.len(), 4);
    let like = all.iter().find(|path| path.display().to_string().contains("a-dog-6")).expect("a variation");
    let text = String::from_utf8_lossy(&bytes(like)).into_owned();
    assert!(text.contains("Variation seed: 6, Variation seed strength: 0.1, Seed: 5"), "{text}");
    assert!(place.ok(&draw(&base, "d", &["--like", like.to_str().expect("a name")])).contains("1 of 1 pictures"));
    place.fails(2, &["--variations"], &draw(&base, "d", &[&fixed[..], &["--variations", "2"]].concat()));
}

#[test]
fn pictures_are_shown_while_they_are_drawn() {
    let (place, base) = (Place::new(), tiny_base());
    let command = draw(&base, "d", &["--prompt", "a dog", "--steps", "60", "--count", "8", "--preview", "1"]);
    let mut child = place.start(&command);
    place.wait_until("a preview", Duration::from_secs(180), || place.path("d/preview.png").is_file());
    assert!(child.wait().expect("an end").success());
    assert!(!place.path("d/preview.png").exists());
    place.fails(2, &["--preview 0"], &draw(&base, "d", &["--prompt", "a dog", "--preview", "0"]));
}

#[test]
fn two_subjects_are_in_one_picture() {
    let (place, base) = (Place::new(), tiny_base());
    for name in ["cup", "hat"] {
        place.subject(name);
        let training = ["train", "--subject", name, "--base", &base, "--steps", "2", "--num-class-images", "0"];
        place.ok(&[&training[..], &["--lr", "0.05"]].concat());
    }
    let both = ["sample", "--adapter", "outputs/cup", "--adapter", "outputs/hat", "--steps", "2"];
    let said = place.ok(&[&both[..], &["--prompt", "a S* cup beside a S2* hat", "--out", "both"]].concat());
    assert!(said.contains("without reference attention") && !said.contains("Warning"), "{said}");
    for (out, prompt) in [("swapped", "a S2* cup beside a S* hat"), ("other", "a S* cup beside a S* hat")] {
        place.ok(&[&both[..], &["--prompt", prompt, "--out", out]].concat());
    }
    let drawn = |folder: &str| image::open(&pictures(&place.path(folder))[0]).expect("a picture").to_rgb8();
    assert!(drawn("both") != drawn("swapped") && drawn("both") != drawn("other"));
    // words alone go in too, beside another and beside keys and values
    let word =
        ["train", "--subject", "cup", "--base", &base, "--preset", "ti", "--steps", "2", "--out", "outputs/word"];
    place.ok(&word);
    for (out, others) in [("word", ["outputs/hat", "outputs/word"]), ("words", ["outputs/word", "outputs/word"])] {
        let more = ["--prompt", "a S* beside a S2*", "--steps", "2", "--out", out];
        place.ok(&[&["sample", "--adapter", others[0], "--adapter", others[1]][..], &more].concat());
    }
    assert!(drawn("word") != drawn("words") && drawn("word") != drawn("both"));
    let one = ["--prompt", "a S* cup beside a S2* hat", "--explain"];
    place.fails(2, &["--explain", "one --adapter"], &[&both[..], &one].concat());
    let grid = ["--prompt", "a S* cup beside a S2* hat", "--grid", "reference=0,1"];
    place.fails(2, &["--grid reference", "several subjects"], &[&both[..], &grid].concat());
    place.fails(
        1,
        &["nowhere"],
        &["sample", "--adapter", "outputs/cup", "--adapter", "nowhere", "--prompt", "a S* cup"],
    );
}

#[test]
fn pictures_say_what_was_in_view() {
    let (place, base) = (Place::new(), tiny_base());
    place.subject("cup");
    let train =
        ["train", "--subject", "cup", "--base", &base, "--steps", "2", "--num-class-images", "0", "--lr", "0.05"];
    for out in ["outputs/cup", "outputs/mug"] {
        place.ok(&[&train[..], &["--out", out]].concat());
    }
    let drawn = |out: &str, more: &[&str]| -> (String, String) {
        let fixed = ["sample", "--adapter", "outputs/cup", "--steps", "2", "--out", out];
        place.ok(&[&fixed[..], &["--prompt", "a S* cup"], more].concat());
        let file = picture(&place.path(out), "a-s-cup-0");
        (String::from_utf8_lossy(&bytes(&file)).into_owned(), file.display().to_string())
    };
    let (text, _) = drawn("own", &[]);
    assert!(text.contains("Adapter: cup") && !text.contains("Reference:"), "{text}");
    let (text, file) = drawn("none", &["--no-reference"]);
    assert!(text.contains("Reference: none"), "{text}");
    // and are drawn again so
    let again = ["sample", "--adapter", "outputs/cup", "--like", &file, "--out", "none"];
    assert!(place.ok(&again).contains("1 of 1 pictures"));
    let of_other = ["sample", "--adapter", "outputs/mug", "--like", &file, "--out", "other"];
    assert!(place.ok(&of_other).contains("the adapter cup, not mug"));
    let photo = place.path("cup/2.png").display().to_string();
    let (text, file) = drawn("photo", &["--reference", &photo]);
    assert!(text.contains("Reference: another photo"), "{text}");
    let said = place.ok(&["sample", "--adapter", "outputs/cup", "--like", &file, "--out", "photo-again"]);
    assert!(said.contains("give that with --reference"), "{said}");
    let nothing = ["--adapter", "outputs/cup", "--prompt", "a S* cup", "--no-reference", "--grid", "reference=0,1"];
    place.fails(2, &["--grid reference", "--no-reference"], &[&["sample"], &nothing[..]].concat());
}

#[test]
fn files_of_prompts_have_kohyas_flags_and_styles() {
    let (place, base) = (Place::new(), tiny_base());
    std::fs::write(place.path("p.txt"), "a dog --n mud --w 128 --h 64 --d 9 --l 3 --s 2 --ss euler_a\n# no\na cat\n")
        .expect("a file");
    std::fs::write(place.path("styles.csv"), "name,prompt,negative_prompt\nInk,ink,colour\n").expect("a file");
    place.ok(&draw(&base, "d", &["--prompts", "p.txt", "--style", "Ink", "--steps", "1"]));
    let text = String::from_utf8_lossy(&bytes(&picture(&place.path("d"), "a-dog-ink-9"))).into_owned();
    for part in ["mud, colour", "Steps: 2", "Euler a", "CFG scale: 3", "Seed: 9", "Size: 128x64"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(String::from_utf8_lossy(&bytes(&picture(&place.path("d"), "a-cat-ink-1"))).contains("Steps: 1"));
    std::fs::write(place.path("own.txt"), "a dog --l 3\n").expect("a file");
    let grid = ["--prompts", "own.txt", "--grid", "guidance=5,7"];
    place.fails(2, &["--grid guidance", "a value of its own"], &draw(&base, "d", &grid));
    std::fs::write(place.path("bad.txt"), "a dog --w wide\n").expect("a file");
    place.fails(2, &["bad.txt", "--w"], &draw(&base, "d", &["--prompts", "bad.txt"]));
    place.fails(2, &["Oil", "Ink"], &draw(&base, "d", &["--prompt", "a dog", "--style", "Oil"]));
    place.fails(1, &["none.csv"], &draw(&base, "d", &["--prompt", "a dog", "--style", "Oil", "--styles", "none.csv"]));
}
