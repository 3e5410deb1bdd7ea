//! Whether what a drawing is asked for has an effect on what was learnt.

use anyhow::{Result, bail};

use super::super::grid::{Axis, option};
use super::super::studio::Studio;
use super::super::{Observer, Usage};
use super::request::{Reference, Request};
use crate::method::{Dial, Learned};
use crate::sampling::Style;
use crate::settings::SamplerName;

/// How strongly the parts of what was learnt shall show. What there is not stays as it is, and that is told.
///
/// # Errors
/// [`Usage`] if nothing would change along an axis of the sheet.
pub(super) fn dial(request: &Request, studio: &Studio, observer: &mut dyn Observer) -> Result<Dial> {
    let (there, usual) = (studio.learned.dials(), Dial::default());
    let why = match (studio.learned.inverts(), request.more.is_empty()) {
        (true, _) => "DreamMatcher matches pictures instead of it",
        (false, false) => "several subjects are drawn without it",
        (false, true) => "this adapter has none",
    };
    let parts = [
        ("low", "embedding of the low band", "this adapter has none", there.low, request.dial.low, usual.low),
        ("high", "embedding of the high band", "this adapter has none", there.high, request.dial.high, usual.high),
        ("reference", "reference attention", why, there.reference, request.dial.reference, usual.reference),
    ];
    let [low, high, reference] = parts.map(|(name, part, why, there, asked, usual)| {
        if !there && asked.is_some_and(|asked| asked != usual) {
            observer.warn(&format!("{} has no effect: it turns the {part}, but {why}", option(name)));
        }
        if there { asked.unwrap_or(usual) } else { usual }
    });
    let axes = || request.grid.iter().map(Axis::name);
    if matches!(request.reference, Reference::None) && axes().any(|name| name == "reference") {
        bail!(Usage("--grid reference: --no-reference leaves it nothing to turn".into()));
    }
    for axis in &request.grid {
        if let Some((name, part, why, ..)) = parts.iter().find(|part| part.0 == axis.name() && !part.3) {
            bail!(Usage(format!("--grid {name}: it turns the {part}, but {why}")));
        }
    }
    if matches!(request.reference, Reference::Photo(_)) && studio.learned.recorder().is_none() {
        observer.warn(&format!("--reference has no effect: it is for reference attention, but {why}"));
    }
    if request.variations.is_some() && request.variation_of.is_none() && request.count == 1 {
        observer
            .warn("--variations has no effect on the first picture, to which the others are near: --count draws more");
    }
    Ok(Dial { low, high, reference })
}

/// Whether pictures of that style can be matched to its photo, if they are to be.
///
/// # Errors
/// [`Usage`] if not.
pub(super) fn check_matched(style: &Style, learned: &dyn Learned) -> Result<()> {
    let Some((photo, _)) = style.reference.filter(|_| learned.inverts()) else { return Ok(()) };
    if style.sampler == SamplerName::Lms {
        bail!(Usage(
            "--dreammatcher: a photo cannot be inverted between timesteps: take another sampler than LMS".into()
        ));
    }
    let (width, height) = style.size;
    if photo.dimensions() != (width as u32, height as u32) {
        let (side, _) = photo.dimensions();
        bail!(Usage(format!(
            "--dreammatcher: only square pictures of {side}x{side} are matched, not of {width}x{height}"
        )));
    }
    Ok(())
}

/// Whether a page can say how the first picture came about.
///
/// # Errors
/// [`Usage`] if not; the message says why.
pub(super) fn check_explained(request: &Request, studio: &Studio) -> Result<()> {
    let why = match &studio.adapter {
        None => "without an adapter there is nothing to explain",
        Some(_) if !request.grid.is_empty() => "a sheet is not explained: leave out --grid",
        Some(_) if !request.more.is_empty() => "one subject is explained: give one --adapter",
        Some(_) if studio.learned.inverts() => "what DreamMatcher matches is not explained",
        Some(_) if !studio.learned.dials().low => "the adapter has nothing of Equilibrated Diffusion",
        Some(adapter) if !adapter.photos().0.is_dir() => {
            "the adapter has no photos: eqdiff import --subject takes some along"
        }
        Some(_) => return Ok(()),
    };
    bail!(Usage(format!("--explain: {why}")))
}
