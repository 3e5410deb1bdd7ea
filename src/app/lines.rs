//! The prompts of a request: those that were typed, those of a file with kohya's flags, and AUTOMATIC1111's styles.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{Observer, Usage};
use crate::evaluation::prompts;
use crate::images::shown;
use crate::sampling::Style;
use crate::settings::SamplerName;

/// A prompt, and what its line of the file says besides.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) prompt: String,
    pub(super) seed: Option<u64>,
    pub(super) flags: Flags,
}

/// What a line may ask for instead of what was typed, by kohya's flags.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Flags {
    /// `--n`.
    pub(super) negative: Option<String>,
    /// `--w`.
    width: Option<usize>,
    /// `--h`.
    height: Option<usize>,
    /// `--l`.
    guidance: Option<f64>,
    /// `--s`.
    steps: Option<usize>,
    /// `--ss`.
    sampler: Option<SamplerName>,
}

impl Flags {
    /// Puts them into a style.
    pub(super) fn put<'a>(&'a self, style: &mut Style<'a>) {
        style.negative = self.negative.as_deref().unwrap_or(style.negative);
        style.size = (self.width.unwrap_or(style.size.0), self.height.unwrap_or(style.size.1));
        style.guidance = self.guidance.unwrap_or(style.guidance);
        style.steps = self.steps.unwrap_or(style.steps);
        style.sampler = self.sampler.unwrap_or(style.sampler);
    }

    /// Whether they have a value for what a sheet calls so.
    pub(super) fn sets(&self, name: &str) -> bool {
        match name {
            "guidance" => self.guidance.is_some(),
            "steps" => self.steps.is_some(),
            "sampler" => self.sampler.is_some(),
            _ => false,
        }
    }

    /// Whether they ask for another size.
    pub(super) fn is_sized(&self) -> bool {
        self.width.is_some() || self.height.is_some()
    }
}

impl Line {
    /// Those of a file, with `subject` in every place for it.
    ///
    /// # Errors
    /// If the file cannot be read or holds none, or as [`parse`](Self::parse).
    pub(super) fn read(path: &Path, subject: &str, observer: &mut dyn Observer) -> Result<Vec<Self>> {
        let mut lines = Vec::new();
        for (i, template) in prompts::read_file(path)?.iter().enumerate() {
            let place = format!("{} prompt {}", shown(path), i + 1);
            lines.push(Self::parse(&prompts::fill(template, subject), &place, observer)?);
        }
        Ok(lines)
    }

    /// Takes a line apart: `a dog --n mud --w 512 --h 768 --d 7 --l 7.5 --s 30 --ss euler_a`.
    ///
    /// # Errors
    /// If a flag's value makes no sense; the message has both.
    pub(super) fn parse(line: &str, place: &str, observer: &mut dyn Observer) -> Result<Self> {
        let mut pieces = line.split(" --");
        let mut parsed = Self { prompt: pieces.next().unwrap_or_default().trim().into(), ..Self::default() };
        for piece in pieces {
            let (flag, value) = piece.split_once(' ').unwrap_or((piece, ""));
            let value = value.trim();
            let wrong = || Usage(format!("{place}: --{flag} {value:?} makes no sense"));
            let flags = &mut parsed.flags;
            match flag {
                "n" => flags.negative = Some(value.into()),
                "w" => flags.width = Some(number(value).with_context(wrong)?),
                "h" => flags.height = Some(number(value).with_context(wrong)?),
                "d" => parsed.seed = Some(number(value).with_context(wrong)?),
                "l" => flags.guidance = Some(number(value).with_context(wrong)?),
                "s" => flags.steps = Some(number(value).with_context(wrong)?),
                "ss" => flags.sampler = Some(sampler(value).with_context(wrong)?),
                _ => observer.warn(&format!("{place}: --{flag} is not known, and left out")),
            }
        }
        if parsed.prompt.is_empty() {
            bail!(Usage(format!("{place}: there is no prompt before the flags")));
        }
        Ok(parsed)
    }
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// A sampler by our name, or by kohya's.
fn sampler(text: &str) -> Option<SamplerName> {
    let name = text.trim_start_matches("k_").replace('_', "-");
    let name = if name == "dpmsolver++" { "dpmpp-2m" } else { &name };
    SamplerName::from_str(name, true).ok()
}

/// A style of AUTOMATIC1111's `styles.csv`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Preset {
    prompt: String,
    negative: String,
}

impl Preset {
    /// Those of a file that are named, in that order.
    ///
    /// # Errors
    /// If the file cannot be read or lacks one; the message says which there are.
    pub(super) fn read(path: &Path, names: &[String]) -> Result<Vec<Self>> {
        let file = path.display();
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read styles from {file} (AUTOMATIC1111's styles.csv)"))?;
        let mut reader =
            csv::ReaderBuilder::new().flexible(true).from_reader(text.trim_start_matches('\u{feff}').as_bytes());
        let header = reader.headers().with_context(|| format!("{file} is no table"))?.clone();
        let column = |name: &str| header.iter().position(|title| title.trim() == name);
        let (Some(name), Some(prompt)) = (column("name"), column("prompt").or_else(|| column("text"))) else {
            bail!("{file} has no columns name and prompt: is it AUTOMATIC1111's styles.csv?");
        };
        let negative = column("negative_prompt");
        let mut all = Vec::new();
        for row in reader.records() {
            let row = row.with_context(|| format!("{file} is damaged"))?;
            let field = |column: usize| row.get(column).unwrap_or_default().trim().to_string();
            all.push((field(name), Self { prompt: field(prompt), negative: negative.map(field).unwrap_or_default() }));
        }
        let find = |wanted: &String| {
            let found = all.iter().find(|(name, _)| name == wanted).map(|(_, preset)| preset.clone());
            found.with_context(|| {
                let names: Vec<&str> =
                    all.iter().map(|(name, _)| name.as_str()).filter(|name| !name.is_empty()).collect();
                Usage(format!("--style {wanted:?}: {file} has {}", names.join(", ")))
            })
        };
        names.iter().map(find).collect()
    }

    /// A prompt in this style: in its place, or before its words.
    pub(super) fn prompt(&self, prompt: &str) -> String {
        joined(&self.prompt, prompt)
    }

    /// A negative prompt in this style.
    pub(super) fn negative(&self, negative: &str) -> String {
        joined(&self.negative, negative)
    }
}

fn joined(style: &str, prompt: &str) -> String {
    match (style.contains("{prompt}"), style.is_empty(), prompt.is_empty()) {
        (true, ..) => style.replace("{prompt}", prompt),
        (_, true, _) => prompt.into(),
        (_, _, true) => style.into(),
        _ => format!("{prompt}, {style}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Note;

    #[derive(Default)]
    struct Told(Vec<String>);

    impl Observer for Told {
        fn tell(&mut self, note: Note) {
            self.0.push(format!("{note:?}"));
        }
        fn begin(&mut self, _: &'static str, _: usize, _: usize) {}
        fn advance(&mut self, _: usize, _: &[(&str, f64)]) {}
        fn end(&mut self) {}
        fn stopped(&self) -> bool {
            false
        }
    }

    #[test]
    fn kohyas_flags_are_understood() -> Result<()> {
        let mut told = Told::default();
        let line = "a S* dog, sitting --n mud, rain --w 512 --h 768 --d 7 --l 7.5 --s 30 --ss k_euler_a --v 5";
        let parsed = Line::parse(line, "prompts.txt line 3", &mut told)?;
        assert_eq!((parsed.prompt.as_str(), parsed.seed), ("a S* dog, sitting", Some(7)));
        let flags = Flags {
            negative: Some("mud, rain".into()),
            width: Some(512),
            height: Some(768),
            guidance: Some(7.5),
            steps: Some(30),
            sampler: Some(SamplerName::EulerA),
        };
        assert_eq!(parsed.flags, flags);
        assert!(told.0.len() == 1 && told.0[0].contains("line 3: --v"), "{:?}", told.0);
        assert_eq!(Line::parse("a well-known dog", "x", &mut told)?.flags, Flags::default());
        for (line, part) in
            [("a --w wide", "--w \"wide\""), ("a --ss best", "--ss"), (" --n mud", "no prompt"), ("a --d", "--d")]
        {
            let said =
                Line::parse(line, "prompts.txt line 1", &mut told).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(said.contains(part) && said.contains("line 1"), "{line}: {said}");
        }
        Ok(())
    }

    #[test]
    fn styles_of_the_web_ui_are_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("styles.csv");
        std::fs::write(
            &path,
            "\u{feff}name,prompt,negative_prompt\r\nInk,\"ink, lines\",colour\r\nFramed,a frame around {prompt},\r\n",
        )?;
        let named =
            |names: &[&str]| Preset::read(&path, &names.iter().map(|name| name.to_string()).collect::<Vec<_>>());
        let styles = named(&["Ink", "Framed"])?;
        assert_eq!(styles[0].prompt("a dog"), "a dog, ink, lines");
        assert_eq!([styles[0].negative(""), styles[0].negative("mud")], ["colour", "mud, colour"]);
        assert_eq!(
            (styles[1].prompt("a dog"), styles[1].negative("mud")),
            ("a frame around a dog".into(), "mud".into())
        );
        let said = format!("{:#}", named(&["Oil"]).expect_err("no such style"));
        assert!(said.contains("Oil") && said.contains("Ink, Framed") && said.contains("styles.csv"), "{said}");
        for damaged in ["a,b\r\n1,2\r\n", "", "name,prompt\n\"open"] {
            std::fs::write(&path, damaged)?;
            assert!(format!("{:#}", named(&["Ink"]).expect_err("damaged")).contains("styles.csv"), "{damaged:?}");
        }
        Ok(())
    }
}
