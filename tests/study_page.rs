//! The page of a study of a thousand pictures. It is left in the target's folder `tmp/study-page` to be looked at.

use std::path::Path;

use eqdiff::app::Nobody;
use eqdiff::app::study::merge;
use eqdiff::evaluation::judge::Attribute;
use eqdiff::evaluation::scores::{Group, Metric, Scores};
use eqdiff::ops::Precision;
use eqdiff::study::ledger::{picture, pictures_folder, training_folder};
use eqdiff::study::{Cell, Entry, Ledger, Plan, Training};
use image::{Rgb, RgbImage};

/// A number from 0 to 1 that belongs to a text.
fn chance(text: &str) -> f64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) as f64 / u64::MAX as f64
}

/// Invented scores around the published ones of a method.
fn invented(training: &Training, cell: &Cell) -> Scores {
    let row = training.method.published.as_deref().and_then(eqdiff::study::published::row);
    let mut scores = Scores::default();
    for metric in [Metric::ClipT, Metric::ClipI, Metric::Dino] {
        let middle = row.and_then(|row| row.get(cell.group, metric)).unwrap_or(0.74);
        let of = |what: &str, spread: f64| (chance(&format!("{what} {}", metric.name())) - 0.5) * spread;
        let of_method = of(&format!("{} {}", training.subject.name, training.method.name), 0.04);
        let value = middle + of(&training.subject.name, 0.12) + of_method + of(&cell.id, 0.2);
        scores.set(metric, value as f32);
        if metric == Metric::ClipT {
            scores.set(Metric::Cosine, value as f32 / 2.5);
        }
    }
    scores
}

/// What a judge might find.
fn judged(training: &Training, cell: &Cell) -> Vec<(&'static str, f32)> {
    let ours = if training.method.name == training.method.title { 0. } else { 0.2 };
    let share = |attribute: Attribute| {
        let right = chance(&format!("{} {} {}", attribute.name(), training.id, cell.id)) + ours > 0.4;
        (attribute.name(), if right { 1. } else { 0. })
    };
    Attribute::ALL.map(share).into()
}

fn invented_picture(training: &Training, cell: &Cell, side: u32) -> RgbImage {
    let (hue, size) = (chance(&training.subject.name), 0.2 + 0.2 * chance(&training.method.name));
    let (ground, grain) = (chance(&cell.prompt), (1000. * chance(&cell.id)) as u32);
    RgbImage::from_fn(side, side, |x, y| {
        let noise = f64::from((x * 31 + y * 17 + x * y * grain) % 19);
        let (x, y) = (f64::from(x) / f64::from(side) - 0.5, f64::from(y) / f64::from(side) - 0.5);
        let inside = x.hypot(y) < size;
        let shade = |i: f64| if inside { 230. * ((hue + i / 3.) % 1.) } else { 90. + 130. * ((ground + i / 5.) % 1.) };
        Rgb([0., 1., 2.].map(|i| (shade(i) + 40. * y + noise).clamp(0., 255.) as u8))
    })
}

#[test]
fn a_page_of_a_thousand_pictures() -> anyhow::Result<()> {
    let study = Path::new(env!("CARGO_TARGET_TMPDIR")).join("study-page");
    let _ = std::fs::remove_dir_all(&study);
    std::fs::create_dir_all(&study)?;
    let mut plan = Plan::read(Path::new("mini"), Precision::F32, true)?;
    plan.seeds.truncate(1);
    std::fs::write(study.join("plan.toml"), plan.toml()?)?;
    for training in plan.trainings()? {
        std::fs::create_dir_all(pictures_folder(&study, &training))?;
        let photos = training_folder(&study, &training).join("adapter/photos");
        std::fs::create_dir_all(&photos)?;
        let mut entries = Vec::new();
        for (i, cell) in training.cells().enumerate() {
            invented_picture(&training, &cell, 128).save(picture(&study, &training, &cell))?;
            if i < 5 {
                invented_picture(&training, &cell, 200).save(photos.join(format!("{i:02}.png")))?;
            }
            entries.push(Entry::new(&training, &cell, invented(&training, &cell), judged(&training, &cell)));
        }
        Ledger::open(&training_folder(&study, &training))?.append(&entries)?;
    }
    let progress = merge(&study, &mut Nobody)?;
    assert!(progress.done == progress.all && progress.all > 1000, "{progress:?}");
    let page = std::fs::read_to_string(study.join("report.html"))?;
    let (pictures, lazy) = (page.matches("<img ").count(), page.matches("loading=\"lazy\"").count());
    assert!((900..=1200).contains(&pictures) && pictures == lazy, "{pictures} {lazy}");
    assert!(page.len() < 16 << 20, "{} bytes", page.len());
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("), "it fetches nothing");
    for part in [
        "Methods (Table 1)",
        "Ablations (figure 7)",
        "0.790",
        "With stylised prompts, eqdiff ",
        "CLIP-T (cosine)",
        "<svg",
        "download=\"methods.csv\"",
        "download=\"truth.csv\"",
        "download=\"truth-differences.csv\"",
        "download=\"steps.csv\"",
        "eqdiff less A, to the judge, with stylised prompts: the subject&#39;s attributes ",
        "Equilibrated Diffusion is here F (D + MGDP, the full method), and not eqdiff (F + the loss",
        "alt=\"as it should be\"",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for tag in ["section", "table", "tr", "td", "th", "svg", "div", "details", "p", "text", "g"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    assert!(plan.trainings()?[0].cells().any(|cell| cell.group == Group::Stylised));
    Ok(())
}
