//! Studies through the real program: whoever does which part, however often it is interrupted, the ledger is the same.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Place, bytes, tiny_base};

/// Two subjects, two methods, three prompts of each list, on a tiny base.
fn place() -> Place {
    let place = Place::new();
    place.subject("thing");
    place.subject("other");
    let methods = ["a", "f"].map(|preset| format!("[[methods]]\nname = \"{preset}\"\npreset = \"{preset}\"\n"));
    let plan = format!(
        "title = \"tiny\"\nbase = {:?}\nclip = \"mini\"\ndino = \"mini\"\nbaseline = \"a\"\n\
         subjects = [{{ folder = \"thing\" }}, {{ folder = \"other\", class = \"thing\" }}]\n[prompts]\nlimit = 3\n\
         [settings]\ntraining.steps = 3\ntraining.checkpoint_every = 1\nprior.class_images = 3\n\
         prior.class_steps = 2\nsampling.steps = 2\nrra.references_per_photo = 1\n{}",
        tiny_base(),
        methods.concat()
    );
    std::fs::write(place.path("plan.toml"), plan).expect("a plan");
    place
}

fn study<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    ["study", "plan.toml", "--out", out].into_iter().chain(more.iter().copied()).collect()
}

fn ledger(place: &Place, out: &str) -> String {
    String::from_utf8(bytes(&place.path(out).join("ledger.jsonl"))).expect("a text")
}

/// All files below a folder but locks, with the time of their last change.
fn files(folder: &Path) -> Vec<(String, std::time::SystemTime)> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.ends_with(".eqdiff-lock") {
            found.push((path.display().to_string(), path.metadata().and_then(|meta| meta.modified()).expect("a time")));
        }
    }
    found.sort();
    found
}

#[test]
fn parts_interruptions_and_repetitions_give_one_ledger() {
    let place = place();
    place.ok(&study("whole", &[]));
    let whole = ledger(&place, "whole");
    assert_eq!(whole.lines().count(), 2 * 2 * 6);
    let ids: std::collections::HashSet<&str> =
        whole.lines().map(|line| line.split(',').next().unwrap_or_default()).collect();
    assert_eq!(ids.len(), 24, "{whole}");

    // a second time there is nothing to do
    let before = files(&place.path("whole/trainings"));
    place.ok(&study("whole", &[]));
    assert!(before == files(&place.path("whole/trainings")) && whole == ledger(&place, "whole"));

    // two parts at once, the other way round, and what they say before they are put together
    let mut second = place.start(&study("parts", &["--shard", "2/2"]));
    place.ok(&study("parts", &["--shard", "1/2"]));
    assert!(second.wait().expect("an end").success());
    assert!(!place.path("parts/ledger.jsonl").exists());
    place.ok(&["study", "merge", "parts"]);
    assert!(whole == ledger(&place, "parts"));
    for file in ["report.html", "tables/methods.csv", "tables/methods.tex", "tables/differences.csv"] {
        assert!(bytes(&place.path("whole").join(file)) == bytes(&place.path("parts").join(file)), "{file}");
    }

    // killed at some moments, with what was torn off
    for delay in [1, 40, 90, 150, 400] {
        let mut child = place.start(&study("killed", &[]));
        std::thread::sleep(Duration::from_millis(delay * 10));
        let _ = child.kill();
        child.wait().expect("an end");
    }
    place.ok(&study("killed", &[]));
    assert!(whole == ledger(&place, "killed"));
    let parts = files(&place.path("killed")).into_iter().filter(|(name, _)| name.ends_with(".part"));
    assert_eq!(parts.count(), 0);

    // a longer plan keeps what it still asks for
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text").replace("limit = 3", "limit = 4");
    std::fs::write(place.path("plan.toml"), plan).expect("a plan");
    place.ok(&study("whole", &[]));
    let longer = ledger(&place, "whole");
    assert!(longer.lines().count() == 32 && whole.lines().all(|line| longer.contains(line)));

    // other photos are not the subject that was trained on
    std::fs::copy(place.path("thing/0.png"), place.path("thing/1.png")).expect("a photo");
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text").replace("limit = 4", "limit = 5");
    std::fs::write(place.path("plan.toml"), plan).expect("a plan");
    place.fails(1, &["trained on other photos", "thing"], &study("whole", &[]));
}

#[test]
fn a_part_is_told_by_the_job_and_mistakes_are_told() {
    let place = place();
    place.fails(2, &["--shard"], &study("d", &["--shard", "3/2"]));
    place.fails(2, &["/N"], &["study", "plan.toml", "--out", "d", "--shard", "x"]);
    place.fails(2, &["cannot read the plan", "paper, ablation, fdte, mini"], &["study", "nowhere.toml", "--out", "d"]);
    place.fails(1, &["d", "no study"], &["study", "merge", "d"]);
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text");
    for (from, to, said) in [
        ("name = \"f\"", "name = \"a\"", "twice"),
        ("preset = \"f\"", "preset = \"z\"", "z"),
        ("training.steps = 3", "training.step = 3", "training.step"),
        ("baseline = \"a\"", "baseline = \"x\"", "x"),
        ("folder = \"other\"", "folder = \"nobody\"", "nobody"),
        ("limit = 3", "limit = 0", "no prompt"),
        ("title", "tittle", "tittle"),
    ] {
        std::fs::write(place.path("wrong.toml"), plan.replace(from, to)).expect("a plan");
        place.fails(2, &[said, "wrong.toml"], &["study", "wrong.toml", "--out", "d"]);
    }
}

#[test]
fn a_base_with_a_judge_tells_the_truth() {
    let place = Place::new();
    std::fs::write(place.path("object.txt"), "a {} at the beach\na {} nobody drew\n").expect("prompts");
    std::fs::write(place.path("style.txt"), "a mosaic of a {}\n").expect("prompts");
    let methods = ["a", "ti"].map(|preset| format!("[[methods]]\nname = \"{preset}\"\npreset = \"{preset}\"\n"));
    let plan = "title = \"truth\"\nsubjects = [{ folder = \"clock\" }]\n[prompts]\nobject = \"object.txt\"\n\
                style = \"style.txt\"\n[settings]\ntraining.steps = 1\nprior.class_images = 0\nsampling.steps = 2\n";
    std::fs::write(place.path("plan.toml"), plan.to_string() + &methods.concat()).expect("a plan");
    place.ok(&study("whole", &[]));
    let lines: Vec<serde_json::Value> =
        ledger(&place, "whole").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let known: Vec<bool> = lines.iter().map(|line| line["dino_true"].is_f64() && line["clip_true"].is_f64()).collect();
    assert_eq!(known, [true, false, true, true, false, true], "{lines:?}");
    for line in &lines {
        let judge = line["judge"].as_object().expect("what the judge finds");
        assert!(judge.contains_key("word") && judge.contains_key("style") && judge.contains_key("shape"), "{line}");
        assert_eq!(judge.contains_key("place"), line["prompt"] == "a {} at the beach", "{line}");
        assert!(judge.values().all(|share| share.as_f64().is_some_and(|share| (0. ..=1.).contains(&share))));
    }
    let table = |name: &str| String::from_utf8(bytes(&place.path("whole/tables").join(name))).expect("a text");
    assert!(table("truth.csv").starts_with("method,what,prompts,pictures,subject,word,main colour,"));
    assert!(table("truth-differences.csv").contains("ti less a,stylised,"));
    assert!(table("methods.csv").contains("DINO-true"));
    let page = String::from_utf8(bytes(&place.path("whole/report.html"))).expect("a text");
    assert!(page.contains("What the judge sees") && page.contains("as it should be"));
}

#[test]
fn a_picture_is_explained() {
    let (place, base) = (place(), tiny_base());
    let toml = "[training]\nsteps = 1\npreview_every = 0\n[prior]\nclass_images = 0\n[sampling]\nsteps = 3\n\
                [rra]\nreferences_per_photo = 1\n";
    std::fs::write(place.path("tiny.toml"), toml).expect("settings");
    let pages = |adapter: &str| -> String {
        let train = ["train", "--subject", "thing", "--base", &base, "--config", "tiny.toml", "--out", adapter];
        place.ok(&[&train[..], &["--preset", adapter]].concat());
        place.ok(&[
            "sample",
            "--adapter",
            adapter,
            "--prompt",
            "a S* thing",
            "--explain",
            "--out",
            &format!("{adapter}-d"),
        ]);
        let file = common::picture(&place.path(&format!("{adapter}-d")), "a-s-thing-0");
        String::from_utf8(bytes(&file.with_extension("html"))).expect("a page")
    };
    let (full, plain) = (pages("f"), pages("a"));
    for part in ["where it looks in the photo", "step 3 of 3", "aggregated map", "true mask", "high band", "S_HF alone"]
    {
        assert!(full.contains(part) && (part == "high band" || !plain.contains(part)), "{part}");
    }
    assert!(plain.contains("Where S* is"));
    place.fails(2, &["--explain"], &["sample", "--no-adapter", "--base", &base, "--prompt", "a", "--explain"]);
}
