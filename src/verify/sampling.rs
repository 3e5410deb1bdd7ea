//! DDIM with guidance and reference attention, with a clean and a noised reference.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::Tensor;
use serde::Deserialize;

use super::case::{ACTIVATION, Case, Checks};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::method::eqdiff::{Band, Customisation};
use crate::sampling::samplers::Ddim;
use crate::sampling::{Draft, Feed, Plan, Reference, denoise};

#[derive(Deserialize)]
struct SampleSettings {
    prompts: Prompts,
    placeholder: String,
    steps: usize,
    guidance: f64,
}

#[derive(Deserialize)]
struct Prompts {
    prompt: String,
    negative: String,
    reference: String,
}

pub(super) fn sample(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, "sample", &base.device)?;
    let SampleSettings { prompts, placeholder, steps, guidance } = case.settings()?;
    let mut tensors = BTreeMap::new();
    for name in case.below("in.unet.") {
        tensors.insert(name.clone(), case.get(&format!("in.unet.{name}"))?);
    }
    // what was recorded is S_ori, the sum
    tensors.insert("s_low".into(), case.get("in.embedding")?.flatten_all()?);
    let weights = Customisation::from_tensors(&base.unet, &tensors)?;
    let texts = Texts::new(base);
    let tokens = |prompt: &str| base.tokenizer.encode(prompt, &placeholder);
    let negative = texts.plain(&tokens(&prompts.negative)?)?;
    let class = texts.plain(&tokens(&prompts.reference)?)?;
    let prompt = texts.with_concept(&tokens(&prompts.prompt)?, &weights.concept.of(Band::Original)?)?;
    for (name, feed) in [("clean", Feed::Clean), ("noised", Feed::Noised(case.get("in.reference_noise")?))] {
        let reference =
            Reference { latents: case.get("in.reference_latents")?, feed, text: Tensor::cat(&[&negative, &class], 0)? };
        let plan = Plan {
            learned: &weights,
            reference: Some(reference),
            negative: negative.clone(),
            sampler: &Ddim::new(&base.scheduler, steps)?,
            guidance,
            guidance_rescale: 0.,
            batch: 2,
            first: 0,
            start: None,
            sketch: None,
        };
        let init = case.get("in.init_latents")?;
        // twice the same picture, so that the batched path is what is checked
        let draft = || Draft { text: prompt.clone(), latents: init.clone(), seed: 0, word: 0 };
        let mut drafts = [draft(), draft()];
        denoise(base, &plan, &mut drafts, |_| Ok(()))?;
        for (i, draft) in drafts.iter().enumerate() {
            let latents = case.get(&format!("out.{name}.latents"))?;
            checks.tensors(format!("sample: {name} latents {i}"), &draft.latents, &latents, ACTIVATION)?;
        }
        let image = base.pictures(&drafts[0].latents)?;
        checks.tensors(
            format!("sample: {name} image"),
            &image,
            &case.get(&format!("out.{name}.image"))?,
            ACTIVATION,
        )?;
    }
    Ok(())
}
