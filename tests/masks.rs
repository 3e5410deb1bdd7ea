//! Masks that the program makes.

mod common;

use common::Place;
use image::{GrayImage, Luma, RgbImage};

/// What `--compare` says.
fn shared(said: &str) -> f64 {
    let number = said.split("that were there: ").nth(1).and_then(|rest| rest.split(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no overlap in {said}"))
}

/// The embedded base, on subjects that it was not trained on: their masks are exact.
#[test]
fn the_base_finds_subjects_that_it_never_saw() {
    let place = Place::new();
    let bundled = ["backpack", "cat", "clock", "dog", "teapot"];
    for (way, least) in [("attention", 0.85), ("plain", 0.85)] {
        let shares = bundled.map(|subject| shared(&place.ok(&["mask", subject, "--compare", "--way", way])));
        let mean = shares.iter().sum::<f64>() / shares.len() as f64;
        assert!(mean >= least, "{way}: {mean} of {shares:?}");
    }
}

/// Two photos of a red ball.
fn ball(place: &Place) -> std::path::PathBuf {
    let folder = place.path("ball");
    std::fs::create_dir(&folder).expect("a folder");
    for (i, behind) in [[90u8, 160, 220], [200, 180, 150]].into_iter().enumerate() {
        let inside = |x: u32, y: u32| (x as i32 - 30).pow(2) + (y as i32 - 32).pow(2) < 300;
        let level = |x, y| image::Rgb(if inside(x, y) { [200, 30, 40] } else { behind });
        RgbImage::from_fn(64, 64, level).save(folder.join(format!("{i}.png"))).expect("a photo");
    }
    folder
}

#[test]
fn masks_go_where_training_finds_them() {
    let place = Place::new();
    let folder = ball(&place);
    let ball = folder.display().to_string();
    place.ok(&["mask", &ball, "--way", "plain"]);
    for name in ["masks/0.png", "masks/1.png", "masks/overlays/0.png", "masks/masks.html"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    // found, and its own masks are replaced
    assert!(shared(&place.ok(&["mask", &ball, "--way", "plain", "--compare"])) > 0.99);
    // somebody else's are not
    GrayImage::from_pixel(64, 64, Luma([255])).save(folder.join("masks/1.png")).expect("a mask");
    place.fails(2, &["masks/1.png", "not from eqdiff", "--out"], &["mask", &ball]);
}

#[test]
fn training_makes_the_masks_that_are_missing() {
    let place = Place::new();
    let folder = ball(&place);
    let (ball, base) = (folder.display().to_string(), common::tiny_base());
    place.ok(&["mask", &ball, "--way", "plain"]);
    std::fs::remove_file(folder.join("masks/1.png")).expect("a mask");
    let training = ["train", "--subject", &ball, "--base", &base, "--steps", "1", "--num-class-images", "0"];
    place.fails(1, &["no mask for"], &training);
    let said = place.ok(&[&training[..], &["--auto-mask", "--out", "trained"]].concat());
    assert!(said.contains("made, ") && said.contains("masks/0.png"), "{said}");
    assert!(place.path("trained/masks/01.png").is_file());
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let place = Place::new();
    place.fails(2, &["PHOTOS"], &["mask"]);
    place.fails(1, &["nowhere.png"], &["mask", "nowhere.png", "--class", "dog"]);
    std::fs::write(place.path("broken.jpg"), b"\xff\xd8\xffnothing").expect("a file");
    place.fails(1, &["broken.jpg"], &["mask", "broken.jpg", "--class", "dog"]);
    place.fails(2, &["--auto-mask"], &["train", "--resume", "--auto-mask"]);
}
