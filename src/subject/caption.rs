//! What a photo shows, in a text file beside it, as other trainers have it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::store::Store;
use crate::images::{printable, shown};
use crate::model::tokenizer::PLACEHOLDER;

/// Bytes of a caption; more is no caption.
const LONGEST: usize = 2000;

/// The caption of a photo; none if there is no `NAME.txt` beside it.
///
/// # Errors
/// If the file is no text of one caption, or names neither the placeholder nor the class.
pub(super) fn caption(store: &Store, photo: &Path, class: &str) -> Result<Option<String>> {
    let file = photo.with_extension("txt");
    if !store.files(Path::new("")).contains(&file) {
        return Ok(None);
    }
    let (bytes, name) = (store.read(&file)?, shown(&store.path(&file)));
    ensure!(bytes.len() <= LONGEST, "{name} has {} bytes: a caption has at most {LONGEST}", bytes.len());
    let text = std::str::from_utf8(&bytes).ok().with_context(|| format!("{name} is no text in UTF-8"))?;
    let text = text.trim_start_matches('\u{feff}').split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(!text.is_empty(), "{name} is empty: write what the photo shows, or remove it");
    placed(&text, class).with_context(|| format!("the caption {name}")).map(Some)
}

/// The caption with the placeholder before the class word, unless it is somewhere already.
fn placed(text: &str, class: &str) -> Result<String> {
    if text.contains(PLACEHOLDER) {
        return Ok(text.into());
    }
    let is_word = |at: usize| {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !letter(text[..at].chars().next_back()) && !letter(text[at + class.len()..].chars().next())
    };
    let same = |at: &usize| text.get(*at..at + class.len()).is_some_and(|found| found.eq_ignore_ascii_case(class));
    match (0..text.len()).find(|at| same(at) && is_word(*at)) {
        Some(at) => Ok(format!("{}{PLACEHOLDER} {}", &text[..at], &text[at..])),
        None => bail!("{:?} names neither {PLACEHOLDER} nor {class:?}: which word is the subject?", printable(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::placed;

    #[test]
    fn the_placeholder_stands_before_the_class_word() {
        for (text, expected) in [
            ("a dog on grass", "a S* dog on grass"),
            ("Dogs and a Dog", "Dogs and a S* Dog"),
            ("a S* thing", "a S* thing"),
            ("\u{130} dog", "\u{130} S* dog"),
        ] {
            assert_eq!(placed(text, "dog").ok().as_deref(), Some(expected));
        }
        assert!(placed("a hotdog", "dog").is_err_and(|e| e.to_string().contains("neither")));
    }
}
