//! The house's rules that the compiler does not know.

use std::path::{Path, PathBuf};

/// The modules from top to bottom: each may use those below it, and none above.
const ORDER: [&str; 24] = [
    "cli",
    "ui",
    "app",
    "verify",
    "bench",
    "training",
    "report",
    "study",
    "evaluation",
    "sampling",
    "adapter",
    "settings",
    "method",
    "segmentation",
    "subject",
    "base",
    "model",
    "weights",
    "ops",
    "images",
    "files",
    "rng",
    "machine",
    "memory",
];

/// No file is longer.
const LINES: usize = 450;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let inside = |path: PathBuf| if path.is_dir() { sources(&path) } else { vec![path] };
    entries.flat_map(inside).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

fn all() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("a source").display().to_string();
        (name, std::fs::read_to_string(&path).expect("a source"))
    };
    sources(&root).into_iter().map(read).collect()
}

/// The rank of a file's or path's module; none for the crate's roots.
fn rank(path: &str) -> Option<usize> {
    let module = path.split(['/', ':', '.']).next().unwrap_or_default();
    ORDER.iter().position(|known| *known == module)
}

#[test]
fn no_arrow_climbs() {
    let mut climbing = Vec::new();
    let mut unknown = Vec::new();
    for (file, text) in all() {
        let Some(own) = rank(&file) else {
            unknown.push(file);
            continue;
        };
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for used in code.flat_map(|line| line.split("crate::").skip(1)) {
            // one path, or several in braces
            let paths = used.strip_prefix('{').and_then(|list| list.split('}').next()).unwrap_or(used);
            let several = paths.len() < used.len();
            let paths = paths.split(',').take(if several { usize::MAX } else { 1 }).map(str::trim);
            for path in paths.filter(|path| rank(path).is_some_and(|used| used < own)) {
                climbing.push(format!("{file}: crate::{path}"));
            }
        }
    }
    assert!(climbing.is_empty(), "modules above are used by {climbing:#?}");
    unknown.sort();
    assert_eq!(unknown, ["lib.rs", "main.rs"], "modules without a place in the order");
}

#[test]
fn the_readmes_map_is_this_order() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README");
    let places: Vec<_> = ORDER.iter().map(|module| readme.find(&format!("| `src/{module}"))).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{ORDER:?} in README.md: {places:?}");
}

#[test]
fn files_are_of_readable_size() {
    let long: Vec<_> = all().into_iter().map(|(file, text)| (file, text.lines().count())).collect();
    let long: Vec<_> = long.into_iter().filter(|(_, lines)| *lines > LINES).collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn fronts_do_not_depend_on_the_target() {
    let fronts = all().into_iter().filter(|(file, _)| file.starts_with("ops/") && file.matches('/').count() == 1);
    let conditional = |(file, text): (String, String)| {
        text.lines().any(|line| line.contains("cfg") && !line.contains("cfg(test)")).then_some(file)
    };
    let found: Vec<String> = fronts.filter_map(conditional).filter(|file| file != "ops/mod.rs").collect();
    assert!(found.is_empty(), "{found:?}");
}
