//! How the program behaves among others: pipes, terminals that close, logs, programs that read its progress.

mod common;

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use common::{Place, tiny_base};

fn train<'a>(base: &'a str, steps: &'a str) -> Vec<&'a str> {
    ["train", "--subject", "thing", "--base", base, "--num-class-images", "0", "--config", "c.toml", "--out", "o"]
        .into_iter()
        .chain(["--steps", steps])
        .collect()
}

fn place() -> Place {
    let place = Place::new();
    place.subject("thing");
    let toml = "[rra]\nreferences_per_photo = 1\n[training]\npreview_every = 0\n";
    std::fs::write(place.path("c.toml"), toml).expect("a file");
    place
}

#[test]
fn a_reader_that_goes_away_ends_nothing_but_itself() {
    let (place, base) = (place(), tiny_base());
    // the standard error
    let mut child = place.command(&train(&base, "3")).stderr(Stdio::piped()).spawn().expect("the program");
    drop(child.stderr.take());
    assert!(child.wait().expect("an end").success());
    assert!(place.path("o/adapter.safetensors").is_file());
    // the standard output
    let mut child = place.command(&["verify"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a start");
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(child.wait().expect("an end").success() && said.is_empty(), "{said}");
}

#[test]
#[cfg(target_os = "linux")]
fn an_output_that_cannot_be_written_is_an_error() {
    let place = Place::new();
    for command in [&["verify"][..], &["completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").expect("the device");
        let output = place.command(command).stdout(full).stderr(Stdio::piped()).output().expect("the program");
        let said = common::printed(&output);
        assert!(
            output.status.code() == Some(1) && said.contains("standard output") && !said.contains("panicked"),
            "{command:?}: {said}"
        );
    }
}

#[test]
#[cfg(unix)]
fn a_hangup_stops_a_training_unless_it_is_ignored() {
    // nohup has these tests ignore it, and with them what they start
    // SAFETY: the default needs no handler
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    for (ignored, code) in [(false, Some(130)), (true, None)] {
        let (place, base) = (place(), tiny_base());
        let mut child = if ignored {
            place.start_by(&["sh", "-c", "trap '' HUP; exec \"$0\" \"$@\""], &train(&base, "100000"))
        } else {
            place.start(&train(&base, "100000"))
        };
        place.wait_until("a checkpoint", Duration::from_secs(180), || place.path("o/adapter.safetensors").is_file());
        common::signal(&child, libc::SIGHUP);
        if ignored {
            std::thread::sleep(Duration::from_secs(1));
            assert!(child.try_wait().expect("a state").is_none(), "the hangup ended it");
            child.kill().expect("an end");
        }
        assert_eq!(child.wait().expect("an end").code(), code);
    }
}

#[test]
#[cfg(unix)]
fn two_signals_end_anything() {
    let (place, base) = (place(), tiny_base());
    let mut child = place.start(&train(&base, "100000"));
    place.wait_until("a checkpoint", Duration::from_secs(180), || place.path("o/adapter.safetensors").is_file());
    common::signal(&child, libc::SIGTERM);
    common::signal(&child, libc::SIGTERM);
    assert_eq!(child.wait().expect("an end").code(), Some(130));
}

#[test]
fn logs_and_programs_hear_of_progress() {
    let (place, base) = (place(), tiny_base());
    let text = place.ok(&train(&base, "3"));
    assert!(text.contains("Training 3/3 in 0:0"), "{text}");
    let resumed = ["train", "--resume", "--out", "o", "--steps", "5", "--json-progress"];
    let text = place.ok(&resumed);
    let events: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect();
    let output = place.run(&["train", "--resume", "--out", "o", "--lr", "9", "--json-progress"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("an object");
    assert!(error["event"] == "error" && error["text"].as_str().is_some_and(|text| text.contains("9")), "{error}");
    let last = events.iter().rfind(|event| event["event"] == "progress").expect("progress");
    assert_eq!((&last["work"], &last["done"], &last["of"]), (&"Training".into(), &5.into(), &5.into()));
    assert!(last["values"]["total"].as_f64().is_some_and(f64::is_finite), "{last}");
}

#[test]
#[cfg(target_os = "linux")]
fn folders_of_any_name_are_remembered() {
    use std::os::unix::ffi::OsStrExt;
    let (place, base) = (place(), tiny_base());
    let mut arguments: Vec<std::ffi::OsString> = train(&base, "1").iter().map(std::ffi::OsString::from).collect();
    let out = arguments.iter().position(|argument| argument == "o").expect("the folder");
    arguments[out] = std::ffi::OsStr::from_bytes(b"a\xff\nb ").into();
    let output = place.command(&[]).args(&arguments).output().expect("the program");
    assert!(output.status.success(), "{}", common::printed(&output));
    place.ok(&["sample", "--prompt", "S* thing", "--steps", "1"]);
}

#[test]
fn an_unknown_level_is_wrong_usage() {
    let output = Place::new().command(&["bench"]).env("EQDIFF_SIMD", "avx9000").output().expect("the program");
    let said = common::printed(&output);
    assert!(output.status.code() == Some(2) && said.contains("avx9000") && said.contains("portable"), "{said}");
}

#[test]
fn an_unwritable_working_directory_is_only_missed_where_it_is_needed() {
    let (place, base) = (place(), tiny_base());
    std::fs::write(place.path("outputs"), "").expect("a file in the folder's place");
    let text = place.ok(&train(&base, "1"));
    assert!(text.contains("Warning") && text.contains("outputs"), "{text}");
    place.ok(&["sample", "--adapter", "o", "--prompt", "S* thing", "--steps", "1", "--out", "d"]);
}
