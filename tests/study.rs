//! Studies through the real program: whoever does which part, however often it is interrupted, the ledger is the same.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{Place, bytes, tiny_base};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

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

    // what somebody deleted is drawn again, to the last bit
    let picture = files(&place.path("whole/trainings")).into_iter().map(|(name, _)| name);
    let picture =
        picture.filter(|name| name.contains("/pictures/") && name.ends_with(".png")).nth(7).expect("a picture");
    let drawn = bytes(Path::new(&picture));
    std::fs::remove_file(&picture).expect("a deletion");
    place.ok(&study("whole", &[]));
    assert!(drawn == bytes(Path::new(&picture)) && whole == ledger(&place, "whole"));

    // scores of other encoders have no place beside these
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text");
    std::fs::write(place.path("other.toml"), plan.replace("dino = \"mini\"", "dino = \"other\"")).expect("a plan");
    let said = ["whole holds scores by the CLIP of mini and the DINO of mini", "another --out"];
    place.fails(2, &said, &["study", "other.toml", "--out", "whole"]);

    // a longer plan keeps what it still asks for
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text").replace("limit = 3", "limit = 4");
    std::fs::write(place.path("plan.toml"), plan).expect("a plan");
    place.ok(&study("whole", &[]));
    let longer = ledger(&place, "whole");
    assert!(longer.lines().count() == 32 && whole.lines().all(|line| longer.contains(line)));

    // other photos are not the subject that was trained on, also where nothing is missing
    std::fs::copy(place.path("thing/0.png"), place.path("thing/1.png")).expect("a photo");
    place.fails(1, &["thing.a.0", "is of other photos", "remove that whole folder"], &study("whole", &[]));
}

#[test]
fn a_folder_of_anything_else_is_left_as_it_is() {
    let place = place();
    // the plan in its own folder, which the study's would take the place of
    let plan = bytes(&place.path("plan.toml"));
    place.fails(2, &["plan.toml", "another --out"], &study(".", &[]));
    assert!(plan == bytes(&place.path("plan.toml")));
    for foreign in ["report.html", "ledger.jsonl", "tables/mine.csv"] {
        let file = place.path("mine").join(foreign);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(&file, "mine").expect("a file");
        place.fails(2, &["is none of a study's", "another --out"], &study("mine", &[]));
        assert_eq!(bytes(&file), b"mine");
        std::fs::remove_dir_all(place.path("mine")).expect("a deletion");
    }
    // weights that are kept otherwise, and a ledger that is damaged
    place.ok(&study("d", &["--shard", "1/2"]));
    place.fails(2, &["d is computed in f32", "--dtype f32"], &study("d", &["--shard", "2/2", "--dtype", "bf16"]));
    place.ok(&study("d", &["--shard", "2/2"]));
    let (whole, lines) = (place.ok(&["study", "merge", "d"]), ledger(&place, "d"));
    assert!(whole.contains("24 pictures"), "{whole}");
    let cells = files(&place.path("d/trainings")).into_iter().map(|(name, _)| name);
    let cells = cells.filter(|name| name.ends_with("cells.jsonl")).nth(1).expect("a ledger");
    let kept = String::from_utf8(bytes(Path::new(&cells))).expect("a text");
    std::fs::write(&cells, "nonsense\n".to_string() + &kept).expect("a file");
    let said = ["line 1 of", "cells.jsonl is damaged: remove this file", "6 of 24 pictures are missing"];
    place.fails(1, &said, &["study", "merge", "d"]);
    assert_eq!(ledger(&place, "d").lines().count(), 18);
    std::fs::remove_file(&cells).expect("a deletion");
    place.ok(&study("d", &[]));
    assert!(lines == ledger(&place, "d"));
    // tables of which a plan has no more
    let plan = String::from_utf8(plan).expect("a text");
    let named = plan.replace("name = \"a\"\n", "name = \"a\"\npublished = \"a\"\n");
    let named = named.replace("name = \"f\"\n", "name = \"f\"\npublished = \"f\"\n");
    for (plan, is_there) in [(named, true), (plan, false)] {
        std::fs::write(place.path("plan.toml"), plan).expect("a plan");
        place.ok(&study("d", &[]));
        assert!(place.path("d/tables/ablation.csv").is_file() == is_there);
    }
}

#[test]
fn a_subject_is_beside_the_plan_or_the_programs_own() {
    let place = place();
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text");
    let of = |folder: &str, out: &str| {
        std::fs::create_dir_all(place.path("plans")).expect("a folder");
        let (head, tail) = plan.split_once("subjects =").expect("subjects");
        let (_, tail) = tail.split_once('\n').expect("a line");
        let text = format!("{head}subjects = [{{ folder = {folder:?} }}]\n{tail}").replace("limit = 3", "limit = 1");
        std::fs::write(place.path("plans/own.toml"), text).expect("a plan");
        place.ok(&["study", "plans/own.toml", "--out", out]);
        let kept = String::from_utf8(bytes(&place.path(out).join("plan.toml"))).expect("a text");
        (kept.lines().find(|line| line.starts_with("folder = ")).expect("a folder").to_string(), ledger(&place, out))
    };
    // a folder of that name where the program is called is another matter
    std::fs::rename(place.path("thing"), place.path("dog")).expect("a move");
    let (folder, lines) = of("dog", "by-name");
    assert!(folder == "folder = \"bundled:dog\"" && lines.contains("\"dog.a.0"), "{folder} {lines}");
    assert_eq!(of("bundled:dog", "for-sure"), (folder, lines.clone()));
    let (folder, other) = of("../dog", "beside");
    assert!(folder.ends_with("/../dog\"") && lines != other, "{folder}");
}

#[test]
fn one_bad_subject_does_not_stop_the_others() {
    let place = place();
    let photo = bytes(&place.path("other/1.png"));
    std::fs::write(place.path("other/1.png"), &photo[..photo.len() / 2]).expect("half a photo");
    place.fails(
        1,
        &["other.a.0", "1.png", "12 of 24 pictures are missing", "2 of 4 trainings failed"],
        &study("d", &[]),
    );
    assert_eq!(ledger(&place, "d").lines().filter(|line| line.contains("thing.")).count(), 12);
    std::fs::write(place.path("other/1.png"), photo).expect("a photo");
    place.ok(&study("d", &[]));
    assert_eq!(ledger(&place, "d").lines().count(), 24);
    // what all of them need stops it at once
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text");
    std::fs::write(place.path("plan.toml"), plan.replace("dino = \"mini\"", "dino = \"no\"")).expect("a plan");
    place.fails(1, &["thing.a.0", "no training can begin"], &study("e", &[]));
}

#[test]
fn methods_that_only_draw_otherwise_share_a_training() {
    let place = place();
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text");
    let drawn = "[[methods]]\nname = \"drawn\"\npreset = \"f\"\nsettings.sampling.steps = 3\n";
    let of_it = |out: &str| -> Vec<String> {
        ledger(&place, out).lines().filter(|line| line.contains(".drawn.")).map(String::from).collect()
    };
    std::fs::write(place.path("plan.toml"), plan.clone() + drawn).expect("a plan");
    place.ok(&study("shared", &[]));
    let trained = files(&place.path("shared/trainings")).into_iter().filter(|(name, _)| name.ends_with("adapter.toml"));
    assert_eq!(trained.count(), 2 * 2);
    // its own training comes to the same
    std::fs::write(place.path("plan.toml"), plan.replace("name = \"f\"\npreset = \"f\"", &drawn[12..]))
        .expect("a plan");
    place.ok(&study("alone", &[]));
    assert!(of_it("shared").len() == 12 && of_it("shared") == of_it("alone"));
}

/// ELITE's files with the names and the depth of the published ones, small and random.
fn elite(place: &Place) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/golden");
    for folder in ["elite", "vision"] {
        std::fs::create_dir(place.path(folder)).expect("a folder");
    }
    for part in ["global", "local"] {
        let to = place.path(&format!("elite/{part}_mapper.safetensors"));
        std::fs::copy(golden.join(format!("elite-{part}.safetensors")), to).expect("its file");
    }
    let vision = golden.join("elite-vision");
    let config = std::fs::read_to_string(vision.join("config.json")).expect("a text");
    let config = config.replace("\"num_hidden_layers\": 5", "\"num_hidden_layers\": 24");
    std::fs::write(place.path("vision/config.json"), config).expect("its file");
    let bytes = bytes(&vision.join("model.safetensors"));
    let tensors = SafeTensors::deserialize(&bytes).expect("tensors");
    let mut deeper: Vec<(String, TensorView)> = tensors.tensors();
    for (name, tensor) in tensors.tensors().into_iter().filter(|(name, _)| name.contains("layers.0.")) {
        deeper.extend((5..24).map(|layer| (name.replace("layers.0.", &format!("layers.{layer}.")), tensor.clone())));
    }
    let deeper = safetensors::serialize(deeper, None).expect("a file");
    std::fs::write(place.path("vision/model.safetensors"), deeper).expect("its file");
}

#[test]
fn elite_is_drawn_of_its_files_without_a_training() {
    let place = place();
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text");
    let row = "[[methods]]\nname = \"ELITE\"\npublished = \"elite\"\n\
               elite = { mappers = \"elite\", vision = \"vision\" }\n";
    let plan = plan.replace("name = \"f\"\n", "name = \"f\"\npublished = \"f\"\n") + row;
    std::fs::write(place.path("plan.toml"), &plan).expect("a plan");
    let said = place.ok(&study("d", &[]));
    assert!(said.contains("ELITE is left out: ") && said.contains("/elite has not"), "{said}");
    assert!(
        ledger(&place, "d").lines().count() == 24 && place.ok(&["study", "merge", "d"]).contains("ELITE is left out")
    );
    let page = String::from_utf8(bytes(&place.path("d/report.html"))).expect("a text");
    assert!(page.contains("2 subjects, 2 methods, ") && page.contains("ELITE is left out: its files are not there."));
    // it is found from wherever the parts are put together
    let kept = String::from_utf8(bytes(&place.path("d/plan.toml"))).expect("a text");
    assert!(kept.lines().any(|line| line.starts_with("mappers = \"/") && line.ends_with("/elite\"")), "{kept}");

    elite(&place);
    place.ok(&study("d", &[]));
    let all = ledger(&place, "d");
    assert!(all.lines().count() == 36 && all.lines().filter(|line| line.contains(".ELITE.")).count() == 12, "{all}");
    let trained = files(&place.path("d/trainings")).into_iter().filter(|(name, _)| name.ends_with("adapter.toml"));
    assert_eq!(trained.count(), 2 * 2);
    let table = String::from_utf8(bytes(&place.path("d/tables/table1.csv"))).expect("a text");
    let scores = table.lines().find(|line| line.starts_with("ELITE,ELITE,")).expect("its row");
    assert!(!scores.contains(",,") && !scores.contains(",-,"), "{scores}");

    // the folder may lie elsewhere, the subject's photos may not change
    std::fs::create_dir(place.path("moved")).expect("a folder");
    std::fs::rename(place.path("vision"), place.path("moved/vision")).expect("a move");
    let plan = plan.replace("vision = \"vision\"", "vision = \"moved/vision\"");
    std::fs::write(place.path("plan.toml"), &plan).expect("a plan");
    let before = files(&place.path("d/trainings"));
    place.ok(&study("d", &[]));
    assert!(before == files(&place.path("d/trainings")) && all == ledger(&place, "d"));
    std::fs::copy(place.path("thing/0.png"), place.path("thing/1.png")).expect("a photo");
    let (head, _) = plan.split_once("[[methods]]").expect("methods");
    let only = head.replace("limit = 3", "limit = 4").replace("baseline = \"a\"\n", "")
        + &row.replace("\"vision\"", "\"moved/vision\"");
    std::fs::write(place.path("only.toml"), only).expect("a plan");
    place.fails(1, &["ELITE", "is of other photos"], &["study", "only.toml", "--out", "d"]);

    std::fs::write(place.path("wrong.toml"), plan.replace("elite =", "preset = \"a\"\nelite =")).expect("a plan");
    place.fails(2, &["ELITE", "a preset, or the files"], &["study", "wrong.toml", "--out", "d"]);
}

#[test]
fn a_part_is_told_by_the_job_and_mistakes_are_told() {
    let place = place();
    place.fails(2, &["--shard"], &study("d", &["--shard", "3/2"]));
    place.fails(2, &["/N"], &["study", "plan.toml", "--out", "d", "--shard", "x"]);
    place.fails(2, &["cannot read the plan", "paper, ablation, fdte, mini"], &["study", "nowhere.toml", "--out", "d"]);
    place.fails(1, &["d", "no study"], &["study", "merge", "d"]);
    let plan = String::from_utf8(bytes(&place.path("plan.toml"))).expect("a text");
    std::fs::write(place.path("style.txt"), "a drawing of a {}\na dog\n").expect("prompts");
    for (from, to, said) in [
        ("name = \"f\"", "name = \"a\"", "twice"),
        ("preset = \"f\"", "preset = \"z\"", "z"),
        ("training.steps = 3", "training.step = 3", "training.step"),
        ("baseline = \"a\"", "baseline = \"x\"", "x"),
        ("folder = \"other\"", "folder = \"nobody\"", "nobody"),
        ("limit = 3", "limit = 0", "no prompt"),
        ("title", "tittle", "tittle"),
        ("folder = \"other\"", "folders = \"other\"", "subject 2: unknown field `folders`"),
        ("training.steps = 3", "training.seed = 3", "training.seed: give seeds = [...]"),
        ("name = \"f\"", "name = \"f\\n\"", "in one line"),
        ("limit = 3", "style = \"style.txt\"", "style.txt: \"a dog\" has no {}"),
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
