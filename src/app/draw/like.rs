//! Drawing like a picture that exists: what its file says of how it was drawn.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::super::{Observer, places};
use super::request::{Reference, Request, Seed, Source, Turned};
use crate::images::Written;
use crate::images::png::read_parameters;
use crate::settings::SamplerName;

/// The request with what the picture's file says where nothing else was asked for.
///
/// # Errors
/// If the file cannot be read, or says nothing.
pub(super) fn like(path: &Path, request: &Request, observer: &mut dyn Observer) -> Result<Request> {
    let name = path.display();
    let written = read_parameters(path)?.with_context(|| format!("{name} does not say how it was drawn"))?;
    let sampler = sampler(&written);
    if let (None, Some(title)) = (sampler, written.setting("Sampler")) {
        observer.warn(&format!("the sampler {title:?} of {name} is not one of ours: another one draws"));
    }
    if written.setting("Denoising strength").is_some() && request.from.is_none() {
        observer.warn(&format!("{name} was drawn from another picture: give that with --from"));
    }
    if let (Some(loras), true) = (written.setting("LoRAs"), request.loras.is_empty()) {
        observer.warn(&format!("{name} was drawn with the LoRAs {loras}: give their files with --lora"));
    }
    if written.setting("Initial latents").is_some() && request.init_latents.is_none() {
        observer.warn(&format!("{name} was drawn from given latents: give their file with --init-latents"));
    }
    let own_reference = !matches!(request.reference, Reference::Default);
    if written.setting("Reference") == Some("another photo") && !own_reference {
        observer.warn(&format!("{name} was drawn with another photo in view: give that with --reference"));
    }
    let adapter = match &request.adapter {
        Source::LastAdapter => places::adapter(None).ok(),
        Source::Adapter(folder) => Some(folder.clone()),
        Source::BaseAlone | Source::Elite(..) => None,
    };
    let adapter = adapter.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    if let (Some(then), Some(now)) = (written.setting("Adapter"), adapter)
        && then != now
    {
        observer.warn(&format!("{name} was drawn with the adapter {then}, not {now}: --adapter chooses"));
    }
    let request = request.clone();
    let dial = request.dial;
    // all variations of a picture have its seed, and one of their own
    let variation: Option<f64> = number(&written, "Variation seed strength");
    let own_seed = if variation.is_some() { "Variation seed" } else { "Seed" };
    // without an adapter there is no photo to match to
    let matched = written.setting("DreamMatcher").is_some() && !matches!(request.adapter, Source::BaseAlone);
    let own_prompts = request.prompts.is_empty() && request.prompt_file.is_none();
    Ok(Request {
        prompts: if own_prompts { vec![written.prompt.clone()] } else { request.prompts },
        negative: request.negative.or(Some(written.negative.clone())),
        sampler: request.sampler.or(sampler),
        steps: request.steps.or_else(|| number(&written, "Steps")),
        guidance: request.guidance.or_else(|| number(&written, "CFG scale")),
        guidance_rescale: request.guidance_rescale.or_else(|| number(&written, "CFG rescale")),
        seed: request.seed.or_else(|| number(&written, own_seed).map(Seed::Given)),
        size: request.size.or_else(|| size(&written)),
        strength: request
            .strength
            .or_else(|| number(&written, "Denoising strength").filter(|_| request.from.is_some())),
        variations: request.variations.or(variation),
        variation_of: variation.and_then(|_| number(&written, "Seed")),
        dreammatcher: request.dreammatcher || matched,
        matching_guidance: request
            .matching_guidance
            .or_else(|| number(&written, "Matching guidance").filter(|_| matched)),
        dial: Turned {
            low: dial.low.or_else(|| number(&written, "S low")),
            high: dial.high.or_else(|| number(&written, "S high")),
            reference: dial.reference.or_else(|| number(&written, "Reference strength")),
        },
        reference: match written.setting("Reference") {
            Some("none") if !own_reference => Reference::None,
            _ => request.reference,
        },
        ..request
    })
}

fn number<T: FromStr>(written: &Written, name: &str) -> Option<T> {
    written.setting(name)?.parse().ok()
}

fn size(written: &Written) -> Option<(usize, usize)> {
    let (width, height) = written.setting("Size")?.split_once('x')?;
    Some((width.parse().ok()?, height.parse().ok()?))
}

/// The sampler by its title; newer web UIs write its noise levels apart.
fn sampler(written: &Written) -> Option<SamplerName> {
    let title = written.setting("Sampler")?;
    let karras = written.setting("Schedule type") == Some("Karras");
    let whole = if karras { format!("{title} Karras") } else { title.to_string() };
    SamplerName::value_variants().iter().copied().find(|name| name.title().eq_ignore_ascii_case(&whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_web_uis_are_understood() {
        let text = "a dog\nNegative prompt: mud\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, \
                    Seed: 5, Size: 512x640, Model: x";
        let written = Written::parse(text);
        assert_eq!(sampler(&written), Some(SamplerName::Dpmpp2mKarras));
        assert_eq!((size(&written), number(&written, "CFG scale")), (Some((512, 640)), Some(7.)));
        assert_eq!(sampler(&Written::parse("a\nSteps: 2, Sampler: Euler a")), Some(SamplerName::EulerA));
        assert_eq!(sampler(&Written::parse("a\nSteps: 2, Sampler: DPM fast, Size: big")), None);
    }
}
