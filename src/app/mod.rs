//! What the program does for its users, a use case a file: a request in, a result out, and an observer that is told on
//! the way. The command line is one front of it; nothing here knows of arguments or terminals.

pub mod demo;
pub mod draw;
pub mod elite;
pub mod evaluate;
pub mod evaluations;
mod explain;
pub mod export;
pub mod grid;
pub mod import;
pub mod info;
mod lines;
pub mod mask;
mod names;
pub mod page;
pub mod places;
pub mod resume;
pub mod runs;
pub mod score;
mod sketches;
mod steps;
pub mod studio;
pub mod study;
pub mod train;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::base::{Base, Folder, MINI, RANDOM_SD14, device, other_cards, things};
use crate::images::typed;
use crate::model::tokenizer::PLACEHOLDER;
use crate::ops::Precision;
use crate::weights::Lora;

/// Something that the user should know.
#[derive(Clone, Copy, Debug)]
pub enum Note<'a> {
    /// How things stand.
    Info(&'a str),
    /// Something is odd, but work goes on.
    Warning(&'a str),
    /// A picture is finished and on the disk.
    Picture(&'a Path),
}

/// Whoever runs a use case: it is told of the work, and asked whether to go on.
pub trait Observer {
    /// Something to know.
    fn tell(&mut self, note: Note);

    /// Work begins that has `units`, of which `done` are done already.
    fn begin(&mut self, work: &'static str, units: usize, done: usize);

    /// So many units more are done; `values` are numbers that describe the last one.
    fn advance(&mut self, units: usize, values: &[(&str, f64)]);

    /// The work that began last is over.
    fn end(&mut self);

    /// Whether the user asked to stop.
    fn stopped(&self) -> bool;

    /// [`advance`](Self::advance), unless the user asked to stop.
    ///
    /// # Errors
    /// [`Interrupted`].
    fn go_on(&mut self, units: usize) -> Result<()> {
        self.advance(units, &[]);
        if self.stopped() { bail!(Interrupted) } else { Ok(()) }
    }

    /// Tells how things stand.
    fn info(&mut self, text: &str) {
        self.tell(Note::Info(text));
    }

    /// Tells of something odd.
    fn warn(&mut self, text: &str) {
        self.tell(Note::Warning(text));
    }
}

/// Nobody: for work that another's observer is told of.
pub struct Nobody;

impl Observer for Nobody {
    fn tell(&mut self, _: Note) {}
    fn begin(&mut self, _: &'static str, _: usize, _: usize) {}
    fn advance(&mut self, _: usize, _: &[(&str, f64)]) {}
    fn end(&mut self) {}
    fn stopped(&self) -> bool {
        false
    }
}

/// A request that makes no sense, as opposed to work that fails.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The error that ends work which the user asked to stop; what was finished is on the disk.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Interrupted {}

/// A file, and how much of it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedFile {
    /// The file.
    pub file: PathBuf,
    /// 1 is all of it.
    pub weight: f64,
}

/// Beyond this nothing is left of a picture.
const HEAVIEST: f64 = 100.;

impl std::str::FromStr for WeightedFile {
    type Err = String;

    /// `FILE`, or `FILE:WEIGHT`.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once(':').and_then(|(file, weight)| Some((file, weight.parse().ok()?))) {
            Some((file, weight)) if !(-HEAVIEST..=HEAVIEST).contains(&weight) => {
                Err(format!("{file}: a weight of {weight} is beyond sense: 1 is all of it, at most {HEAVIEST}"))
            }
            Some((file, weight)) => Ok(Self { file: file.into(), weight }),
            None => Ok(Self { file: text.into(), weight: 1. }),
        }
    }
}

/// Where models come from and where they compute.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Whether nothing may be downloaded.
    pub offline: bool,
    /// `auto`, `cpu`, `cuda`, `cuda:N` or `metal`.
    pub device: String,
    /// How weights are kept; none: as what goes on began, else as the device is best used.
    pub precision: Option<Precision>,
}

impl Machine {
    /// Loads the base that the user named.
    ///
    /// # Errors
    /// If it cannot be found or loaded.
    pub fn base(&self, name: &str, observer: &mut dyn Observer) -> Result<Base> {
        self.base_with(name, &[], observer)
    }

    /// The same with LoRAs, each by a weight.
    ///
    /// # Errors
    /// As [`base`](Self::base), also if a LoRA cannot be read or does not fit.
    pub fn base_with(&self, name: &str, loras: &[WeightedFile], observer: &mut dyn Observer) -> Result<Base> {
        if name == MINI {
            observer.info("Base: mini, a small Stable Diffusion inside this program (--base sd14 for the real one)");
        } else {
            observer.info(&format!("Base: {name}"));
        }
        let (device, warning) = device(&self.device)?;
        warning.iter().for_each(|warning| observer.warn(warning));
        let precision = self.precision.unwrap_or_else(|| Precision::of(&device));
        precision.check(&device).map_err(|error| Usage(format!("--dtype {precision}: {error}")))?;
        let open = |lora: &WeightedFile| Lora::open(&lora.file, lora.weight, &device);
        let loras = loras.iter().map(open).collect::<Result<Vec<_>>>()?;
        let base = Base::load_with(name, self.offline, &device, precision, loras);
        let base = base.with_context(|| format!("cannot load the base {name}"))?;
        base.notes.iter().for_each(|note| observer.info(&format!("Base: {note}")));
        Ok(base)
    }

    /// The numbers of the cards that share work with the one that `base` is on.
    fn other_cards(&self, base: &Base) -> Vec<usize> {
        other_cards(&self.device, &base.device)
    }

    /// The same machine, with one of its cards.
    fn on_card(&self, card: usize) -> Self {
        Self { device: format!("cuda:{card}"), ..self.clone() }
    }

    /// How weights are kept where nothing says it but this.
    pub fn precision(&self) -> Precision {
        let of_device =
            || device(&self.device).map_or_else(|_| Precision::default(), |(device, _)| Precision::of(&device));
        self.precision.unwrap_or_else(of_device)
    }

    /// Says which words of `texts` the base does not know, and what it can draw instead.
    ///
    /// # Errors
    /// If a text cannot be encoded.
    pub fn warn_of_words<'a>(
        &self,
        texts: impl Iterator<Item = &'a str>,
        base: &Base,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let mut unknown = Vec::new();
        for text in texts {
            unknown.extend(base.tokenizer.encode(text, PLACEHOLDER)?.unknown);
        }
        unknown.sort();
        unknown.dedup();
        if unknown.is_empty() {
            return Ok(());
        }
        let things = things(&base.name, self.offline)?;
        let known =
            if things.is_empty() { String::new() } else { format!("; it knows these things: {}", things.join(", ")) };
        observer.warn(&format!("{} does not know {}{known}", base.name, unknown.join(", ")));
        Ok(())
    }

    /// Loads the base that an adapter names. An adapter may come from anybody, so what is not on this machine is not
    /// downloaded at its word.
    ///
    /// # Errors
    /// As [`base`](Self::base).
    pub fn base_of_adapter(&self, name: &str, observer: &mut dyn Observer) -> Result<Base> {
        self.base_of_adapter_with(name, &[], observer)
    }

    /// The same with LoRAs, which the user named.
    ///
    /// # Errors
    /// As [`base_with`](Self::base_with).
    pub fn base_of_adapter_with(
        &self,
        name: &str,
        loras: &[WeightedFile],
        observer: &mut dyn Observer,
    ) -> Result<Base> {
        ensure!(name != RANDOM_SD14, "the adapter's base is {RANDOM_SD14}, which is for measurements alone");
        let here = Self { offline: true, ..self.clone() };
        let found = Folder::find(name, true).context("the adapter's base (--base says where it is now)")?;
        let remote = found.is_remote();
        here.base_with(name, loras, observer).with_context(|| match remote && !self.offline {
            true => format!("the adapter's base is not on this machine: give --base {} to download it", typed(name)),
            false => "the adapter's base".to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_files_make_sense() {
        let parsed =
            |text: &str| text.parse().map(|WeightedFile { file, weight }| (file.display().to_string(), weight));
        assert_eq!(parsed("a.safetensors:-0.5"), Ok(("a.safetensors".into(), -0.5)));
        assert_eq!(parsed("C:\\a.safetensors"), Ok(("C:\\a.safetensors".into(), 1.)));
        for heavy in ["a:1e39", "a:-101", "a:inf", "a:nan"] {
            assert!(parsed(heavy).is_err_and(|error| error.contains("at most 100")), "{heavy}");
        }
    }
}
