//! Everything once, on a bundled subject.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::draw::{Seed, Source};
use super::evaluate::{self, evaluate};
use super::places::OUTPUTS;
use super::resume::resume;
use super::steps::Trained;
use super::train::{self, Overrides, is_asked_for, train};
use super::{Interrupted, Machine, Observer, Usage};
use crate::adapter::Adapter;
use crate::evaluation::scorer::Wanted;
use crate::evaluation::scores::Evaluation;
use crate::files::{check_target, numbered};
use crate::report::html;
use crate::subject::{self, Crop};
use crate::training::budget::Budget;

/// What to show.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff demo --help`
pub struct Request {
    pub subject: String,
    pub steps: Option<usize>,
    pub limit: usize,
    pub page: PathBuf,
    pub machine: Machine,
}

/// The demo's training. One that an earlier call began goes on.
fn adapter(request: &Request, observer: &mut dyn Observer) -> Result<Trained> {
    let training = train::Request {
        subject: Some(request.subject.clone()),
        images: None,
        masks: None,
        auto_mask: None,
        class: None,
        invert_masks: false,
        crop: Crop::None,
        base: None,
        preset: None,
        config: None,
        overrides: Overrides { steps: request.steps, ..Overrides::default() },
        class_images: None,
        out: None,
        memory: Budget::Auto,
        study: None,
        machine: request.machine.clone(),
    };
    let stem = Path::new(OUTPUTS).join(format!("demo-{}", request.subject));
    for n in 1.. {
        let out = Some(numbered(&stem, n));
        match out.as_deref().filter(|out| out.exists()).map(Adapter::open) {
            None => return train(&train::Request { out, ..training }, observer),
            Some(Ok(begun)) if is_asked_for(&begun.manifest, &training)? => {
                let overrides = Overrides::default();
                return resume(&train::Request { out, subject: None, overrides, ..training }, observer);
            }
            Some(_) => {} // somebody else's
        }
    }
    bail!("there is no free name like {}", stem.display())
}

/// Trains, draws with and without the adapter, scores, and writes the page. What an earlier call left unfinished goes on.
///
/// # Errors
/// As [`train()`] and [`evaluate()`]; [`Interrupted`] if the user stops it.
pub fn demo(request: &Request, observer: &mut dyn Observer) -> Result<Evaluation> {
    let bundled = subject::bundled();
    if !bundled.contains(&request.subject) {
        let known = bundled.join(", ");
        bail!(Usage(format!("--subject {}: the bundled ones are {known}", request.subject)));
    }
    if request.limit == 0 {
        bail!(Usage("--limit 0 leaves no prompt".into()));
    }
    check_target(&request.page)?;
    html::check_ours(&request.page)?; // before hours of training
    let trained = adapter(request, observer)?;
    if !trained.finished {
        bail!(Interrupted);
    }
    evaluate(
        &evaluate::Request {
            metrics: Wanted::ALL.to_vec(),
            adapter: Source::Adapter(trained.folder),
            base: None,
            baseline: true,
            limit: Some(request.limit),
            seed: Seed::Given(0),
            clip: None,
            dino: None,
            json: None,
            page: Some(request.page.clone()),
            machine: request.machine.clone(),
        },
        observer,
    )
}
