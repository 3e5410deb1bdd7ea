//! Names that came over the network, and the files that they may mean.

use std::fs;
use std::path::{Path, PathBuf};

use super::answer::{Answer, missing, wrong};
use crate::images::steers;

/// Bytes of the longest name: with a number before it and a digest after it a file system still takes it.
const LONGEST: usize = 160;

/// Whether a text is a plain name on every system: of one file or folder, not hidden, and no way up or out.
pub(super) fn is_plain(name: &str) -> bool {
    let odd = |c: char| matches!(c, '/' | '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|') || steers(c);
    !name.is_empty()
        && name.len() <= LONGEST
        && !name.starts_with(['.', '@', ' ', '-', '~'])
        && !name.ends_with(['.', ' '])
        && !name.contains(odd)
}

/// The name, if it is a plain one.
pub(super) fn plain(name: &str) -> Answer<&str> {
    if is_plain(name) { Ok(name) } else { Err(wrong(format!("{name:?} is no name of a file or folder"))) }
}

/// Plain names in a folder, sorted.
pub(super) fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.retain(|name| is_plain(name));
    names.sort();
    names
}

/// What is at `names` inside `folder`: neither names nor links lead out of it.
pub(super) fn inside(folder: &Path, names: &[&str]) -> Answer<PathBuf> {
    let mut path = folder.to_path_buf();
    for name in names {
        path.push(plain(name)?);
    }
    let gone = || missing(&format!("{} here", names.join("/")));
    let (real, top) = (path.canonicalize().map_err(|_| gone())?, folder.canonicalize().map_err(|_| gone())?);
    if real.starts_with(top) { Ok(path) } else { Err(gone()) }
}

/// A name made of what somebody typed or of another system's file name.
pub(super) fn tidy(text: &str) -> String {
    let sign = |c: char| if c.is_alphanumeric() || "_-".contains(c) { c } else { '-' };
    let text: String = text.trim().chars().map(sign).collect();
    let words: Vec<&str> = text.split('-').filter(|word| !word.is_empty()).collect();
    let name = words.join("-");
    name.char_indices().take_while(|(at, c)| at + c.len_utf8() <= LONGEST / 2).map(|(_, c)| c).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names() {
        for name in ["clock", "IMG_1.JPG", "my teapot", "日本.png", "a..b"] {
            assert!(is_plain(name), "{name}");
        }
        for name in
            ["", ".", "..", "../a", "a/b", "a\\b", "/etc", "C:", ".git", "a\0", "a\n", "a.", "~", "-x", "\u{202e}a"]
        {
            assert!(!is_plain(name), "{name:?}");
        }
        assert!(!is_plain(&"a".repeat(300)));
        assert_eq!([tidy(" My Teapot (1).x "), tidy("../../etc"), tidy("?")], ["My-Teapot-1-x", "etc", ""]);
    }

    #[test]
    #[cfg(unix)]
    fn links_lead_nowhere_outside() -> anyhow::Result<()> {
        let folder = tempfile::tempdir()?;
        let (top, secret) = (folder.path().join("top"), folder.path().join("secret"));
        fs::create_dir(&top)?;
        fs::write(&secret, "x")?;
        fs::write(top.join("a"), "x")?;
        std::os::unix::fs::symlink(&secret, top.join("b"))?;
        assert!(inside(&top, &["a"]).is_ok());
        for names in [&["b"][..], &["c"], &["..", "secret"], &["../secret"]] {
            assert!(inside(&top, names).is_err(), "{names:?}");
        }
        Ok(())
    }
}
