//! Scores through the real program: of which pictures, by which prompts, and what is told of them later.

mod common;

use std::path::Path;

use common::{Place, bytes, pictures, printed, tiny_base};
use serde_json::Value;

/// A place with the adapter `ev`, which has taken a step and draws in two.
fn trained() -> Place {
    let (place, base) = (Place::new(), tiny_base());
    place.subject("cup");
    std::fs::write(place.path("fast.toml"), "[sampling]\nsteps = 2\n").expect("a file");
    let training = ["train", "--subject", "cup", "--base", &base, "--config", "fast.toml", "--out", "ev"];
    place.ok(&[&training[..], &["--steps", "1", "--num-class-images", "0"]].concat());
    place
}

const EVALUATE: [&str; 9] = ["eval", "--adapter", "ev", "--limit", "1", "--clip", "mini", "--dino", "mini"];

fn json(path: &Path) -> Value {
    serde_json::from_slice(&bytes(path)).expect("scores")
}

/// Names and prompts of the pictures in a file of scores.
fn scored(path: &Path) -> Vec<[String; 2]> {
    let images = json(path)["images"].as_array().expect("pictures").clone();
    let text = |image: &Value, key: &str| image[key].as_str().expect("a text").to_string();
    images.iter().map(|image| ["file", "prompt"].map(|key| text(image, key))).collect()
}

#[test]
fn a_baseline_is_drawn_beside_the_pictures_that_are_there() {
    let place = trained();
    let scores = place.path("ev/evaluation/evaluation.json");
    place.ok(&EVALUATE);
    let first = json(&scores);
    assert!(first["images"].as_array().is_some_and(|images| images.len() == 2), "{first}");
    assert!(first.get("without_adapter").is_none(), "{first}");
    let said = place.ok(&[&EVALUATE[..], &["--baseline"]].concat());
    assert!(said.contains("2 of 2 pictures are in ev/evaluation already"), "{said}");
    assert!(!place.path("ev/evaluation-2").exists());
    let both = json(&scores);
    assert_eq!(both["images"], first["images"]);
    assert!(both["without_adapter"]["images"].as_array().is_some_and(|images| images.len() == 2), "{both}");
    // what was not asked for is not told
    place.ok(&EVALUATE);
    assert_eq!(json(&scores), first);
}

#[test]
fn sheets_are_no_pictures() {
    let place = trained();
    place.ok(&EVALUATE);
    let folder = place.path("ev/evaluation");
    assert!(folder.join("overview.png").is_file() && pictures(&folder).len() == 3);
    // as one that was stopped leaves it
    std::fs::copy(folder.join("overview.png"), folder.join("preview.png")).expect("a copy");
    let score = ["eval", "--generated", "ev/evaluation", "--concept", "cup", "--metrics", "dino", "--json", "s.json"];
    place.ok(&score);
    let found = scored(&place.path("s.json"));
    assert!(found.len() == 2 && found.iter().all(|[_, prompt]| prompt.contains("S* cup")), "{found:?}");
    // a sheet of --grid, and a picture of another program's that is called like one
    let grid = ["sample", "--no-adapter", "--base", &tiny_base(), "--steps", "1", "--grid", "guidance=1,5"];
    place.ok(&[&grid[..], &["--prompt", "a cup", "--out", "grid"]].concat());
    std::fs::copy(place.path("cup/0.png"), place.path("grid/preview.png")).expect("a copy");
    place.ok(&["eval", "--generated", "grid", "--concept", "cup", "--metrics", "dino", "--json", "s.json"]);
    let found = scored(&place.path("s.json"));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn lines_go_to_pictures_by_their_numbers() {
    let place = Place::new();
    place.subject("cup");
    std::fs::create_dir(place.path("g")).expect("a folder");
    for (from, to) in [("0", "2"), ("1", "10")] {
        std::fs::copy(place.path(&format!("cup/{from}.png")), place.path(&format!("g/{to}.png"))).expect("a copy");
    }
    let score = |lines: &str| {
        std::fs::write(place.path("p.txt"), lines).expect("a file");
        let fixed = ["eval", "--generated", "g", "--concept", "cup", "--metrics", "clip-t", "--json", "s.json"];
        place.ok(&[&fixed[..], &["--prompts", "p.txt"]].concat());
        let clip_t = |i: usize| json(&place.path("s.json"))["images"][i]["clip_t_cosine"].clone();
        (scored(&place.path("s.json")), [clip_t(0), clip_t(1)])
    };
    let (found, values) = score("# mine\n\na {} at the beach --n mud --s 30\na S2* red cup\n");
    let expected = [["2.png", "a S* cup at the beach"], ["10.png", "a S2* red cup"]];
    assert_eq!(found, expected.map(|pair| pair.map(String::from)));
    // what stands for a subject is nothing that CLIP reads
    assert_eq!(score("a cup at the beach\na red cup\n").1, values);
    std::fs::write(place.path("p.txt"), "a cup --w wide\na cup\n").expect("a file");
    let wrong = ["eval", "--generated", "g", "--concept", "cup", "--metrics", "clip-t", "--prompts", "p.txt"];
    place.fails(2, &["p.txt", "--w"], &wrong);
}

#[test]
fn prompts_lie_above_the_folder_that_one_is_in() {
    let place = Place::new();
    place.subject("cup");
    std::fs::create_dir(place.path("g")).expect("a folder");
    std::fs::copy(place.path("cup/0.png"), place.path("g/a.png")).expect("a copy");
    std::fs::write(place.path("prompts.json"), r#"{"a": "a red cup"}"#).expect("a file");
    let score = ["eval", "--generated", ".", "--concept", "../cup", "--metrics", "clip-t", "--json", "s.json"];
    let output = place.command(&score).current_dir(place.path("g")).output().expect("the program");
    assert!(output.status.success(), "{}", printed(&output));
    assert_eq!(scored(&place.path("g/s.json")), [["a.png".to_string(), "a red cup".to_string()]]);
}

#[test]
fn minis_judge_says_nothing_of_pictures_of_another_world() {
    let place = Place::new();
    place.subject("cup");
    let score = |more: &[&str]| {
        let fixed = ["eval", "--generated", "cup", "--concept", "cup", "--json", "s.json"];
        let said = place.ok(&[&fixed[..], more].concat());
        (said, json(&place.path("s.json"))["images"][0].get("findings").is_some())
    };
    assert!(score(&[]).1);
    assert!(score(&["--clip", "mini", "--dino", "mini"]).1);
    // encoders that no metric needs are not looked for
    let (said, judged) = score(&["--metrics", "dino,judge", "--clip", "nowhere"]);
    assert!(!judged && said.contains("The judge is left out"), "{said}");
    assert!(score(&["--metrics", "dino,judge", "--clip", "nowhere", "--base", "mini"]).1);
    let judge_alone = ["eval", "--generated", "cup", "--concept", "cup", "--metrics", "judge", "--clip", "nowhere"];
    place.fails(2, &["--metrics judge", "--base mini"], &judge_alone);
}

#[test]
fn scores_of_an_older_state_are_told_as_such() {
    let place = trained();
    let told = || [place.ok(&["runs", "."]), place.ok(&["info", "ev"])];
    let older = |said: &String| said.contains("step 1, not as it is now");
    place.ok(&EVALUATE);
    let said = told();
    assert!(said.iter().all(|said| said.contains("CLIP-I") && !older(said)), "{said:?}");
    place.ok(&["train", "--resume", "--out", "ev", "--steps", "2"]);
    let said = told();
    assert!(said.iter().all(|said| said.contains("CLIP-I") && older(said)), "{said:?}");
    place.ok(&EVALUATE);
    assert!(place.path("ev/evaluation-2/evaluation.json").is_file());
    let said = told();
    assert!(said.iter().all(|said| said.contains("CLIP-I") && !older(said)), "{said:?}");
}
