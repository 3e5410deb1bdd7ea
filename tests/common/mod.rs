//! Running the real program in a folder of its own.
#![allow(dead_code)] // not every test file uses every helper

use std::path::{Path, PathBuf};
use std::process::Output;

use assert_cmd::Command;
use image::{GrayImage, Luma, Rgb, RgbImage};

/// A tiny Stable Diffusion with random weights, in the diffusers layout.
pub(crate) fn tiny_base() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/assets/golden/model").to_string()
}

/// A temporary folder in which the program runs.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::cargo_bin("eqdiff").expect("the program");
        command.current_dir(self.folder.path()).env("HF_HOME", self.path("hf")).args(arguments);
        command.output().expect("the program runs")
    }

    /// The program, ready to start.
    pub(crate) fn command(&self, arguments: &[&str]) -> std::process::Command {
        self.command_by(&[], arguments)
    }

    /// The program, to be started by another one.
    fn command_by(&self, other: &[&str], arguments: &[&str]) -> std::process::Command {
        let program = assert_cmd::cargo::cargo_bin("eqdiff").display().to_string();
        let words: Vec<&str> =
            other.iter().copied().chain([program.as_str()]).chain(arguments.iter().copied()).collect();
        let mut command = std::process::Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.folder.path()).env("HF_HOME", self.path("hf"));
        command
    }

    /// Runs the program by another one.
    pub(crate) fn run_by(&self, other: &[&str], arguments: &[&str]) -> Output {
        self.command_by(other, arguments).output().expect("the program runs")
    }

    /// Starts the program; what it says is thrown away.
    pub(crate) fn start(&self, arguments: &[&str]) -> std::process::Child {
        self.start_by(&[], arguments)
    }

    /// Starts the program by another one.
    pub(crate) fn start_by(&self, other: &[&str], arguments: &[&str]) -> std::process::Child {
        let nothing = std::process::Stdio::null;
        self.command_by(other, arguments).stdout(nothing()).stderr(nothing()).spawn().expect("the program starts")
    }

    /// Waits for something to happen.
    pub(crate) fn wait_until(&self, what: &str, limit: std::time::Duration, happened: impl Fn() -> bool) {
        let start = std::time::Instant::now();
        while !happened() {
            assert!(start.elapsed() < limit, "no {what} within {limit:?}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// Runs and expects success; gives what was printed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = printed(&output);
        assert!(output.status.success(), "{arguments:?}\n{text}");
        text
    }

    /// Runs and expects an exit code and parts of the message, and no panic.
    pub(crate) fn fails(&self, code: i32, parts: &[&str], arguments: &[&str]) {
        let output = self.run(arguments);
        let text = printed(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}");
        assert!(!text.contains("panicked"), "{arguments:?}\n{text}");
        for part in parts {
            assert!(text.contains(part), "{arguments:?}: no {part:?} in\n{text}");
        }
    }

    /// A subject of three photos with masks in `masks/`.
    pub(crate) fn subject(&self, name: &str) -> PathBuf {
        let folder = self.path(name);
        std::fs::create_dir_all(folder.join("masks")).expect("a folder");
        for i in 0..3u32 {
            let photo = RgbImage::from_fn(96, 80, |x, y| Rgb([(x * 2) as u8, (y * 3) as u8, (40 * i) as u8]));
            let inside = |x, y| (20 + i..60 + i).contains(&x) && (20..60).contains(&y);
            let mask = GrayImage::from_fn(96, 80, |x, y| Luma([if inside(x, y) { 255 } else { 0 }]));
            photo.save(folder.join(format!("{i}.png"))).expect("a photo");
            mask.save(folder.join(format!("masks/{i}.png"))).expect("a mask");
        }
        folder
    }
}

/// Sends a signal.
#[cfg(unix)]
pub(crate) fn signal(child: &std::process::Child, signal: i32) {
    // SAFETY: a signal to a child of ours that was not waited for
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// All pictures in `folder` but the contact sheet, sorted; none if there is no folder.
pub(crate) fn pictures(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let is_picture =
        |path: &PathBuf| path.extension().is_some_and(|e| e == "png") && !path.ends_with("contact-sheet.png");
    let mut found: Vec<PathBuf> = entries.filter(is_picture).collect();
    found.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')));
    found.sort();
    found
}

/// The one picture in `folder` whose name begins like that and ends in a digest.
pub(crate) fn picture(folder: &Path, name: &str) -> PathBuf {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let named = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        stem.rsplit_once('-').is_some_and(|(words, _)| words == name)
    };
    let is_picture = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "png");
    let mut found: Vec<PathBuf> = entries.filter(is_picture).filter(named).collect();
    assert_eq!(found.len(), 1, "pictures {name}-... in {}", folder.display());
    found.remove(0)
}

/// Both streams of a run.
pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The content of a file.
pub(crate) fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Copies a folder with everything in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").map(|e| e.expect("an entry").path()) {
        let target = to.join(entry.file_name().expect("a name"));
        if entry.is_dir() {
            copy(&entry, &target);
        } else {
            std::fs::copy(&entry, &target).expect("a copy");
        }
    }
}
