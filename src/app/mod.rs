//! What the program does for its users, a use case a file: a request in, a result out, and an observer that is told on
//! the way. The command line is one front of it; nothing here knows of arguments or terminals.

pub mod demo;
pub mod draw;
pub mod evaluate;
pub mod export;
pub mod import;
mod like;
pub mod page;
pub mod places;
pub mod resume;
pub mod score;
pub mod studio;
pub mod train;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::base::{Base, Folder, MINI, RANDOM_SD14, device};
use crate::ops::Precision;

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
        if name == MINI {
            observer.info("Base: mini, a small Stable Diffusion inside this program (--base sd14 for the real one)");
        } else {
            observer.info(&format!("Base: {name}"));
        }
        let (device, warning) = device(&self.device)?;
        warning.iter().for_each(|warning| observer.warn(warning));
        let precision = self.precision.unwrap_or_else(|| Precision::of(&device));
        precision.check(&device).map_err(|error| Usage(format!("--dtype {precision}: {error}")))?;
        let base = Base::load(name, self.offline, &device, precision);
        let base = base.with_context(|| format!("cannot load the base {name}"))?;
        base.notes.iter().for_each(|note| observer.info(&format!("Base: {note}")));
        Ok(base)
    }

    /// How weights are kept where nothing says it but this.
    pub fn precision(&self) -> Precision {
        let of_device =
            || device(&self.device).map_or_else(|_| Precision::default(), |(device, _)| Precision::of(&device));
        self.precision.unwrap_or_else(of_device)
    }

    /// Loads the base that an adapter names. An adapter may come from anybody, so what is not on this machine is not
    /// downloaded at its word.
    ///
    /// # Errors
    /// As [`base`](Self::base).
    pub fn base_of_adapter(&self, name: &str, observer: &mut dyn Observer) -> Result<Base> {
        ensure!(name != RANDOM_SD14, "the adapter's base is {RANDOM_SD14}, which is for measurements alone");
        let here = Self { offline: true, ..self.clone() };
        let found = Folder::find(name, true).context("the adapter's base (--base says where it is now)")?;
        let remote = found.is_remote();
        here.base(name, observer).with_context(|| match remote && !self.offline {
            true => format!("the adapter's base is not on this machine: give --base {name} to download it"),
            false => "the adapter's base".to_string(),
        })
    }
}
