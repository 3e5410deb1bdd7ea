//! Every sampler on a toy denoiser, and the rescaling of guidance, against diffusers.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{Device, IndexOp};
use serde::Deserialize;

use super::case::{ACTIVATION, Case, Checks};
use crate::model::Scheduler;
use crate::sampling::rescaled;
use crate::sampling::samplers::{Past, sampler};
use crate::settings::SamplerName;

#[derive(Deserialize)]
struct Recorded {
    cases: BTreeMap<String, SamplerCase>,
    rescale: f64,
}

#[derive(Deserialize)]
struct SamplerCase {
    sampler: SamplerName,
    steps: usize,
    schedule: serde_json::Value,
}

pub(super) fn samplers(folder: &Path, device: &Device, checks: &mut Checks) -> Result<()> {
    if !folder.join("samplers.json").is_file() {
        return Ok(()); // cases that make_golden.py alone recorded
    }
    let case = Case::open(folder, "samplers", device)?;
    let Recorded { cases, rescale } = case.settings()?;
    let pattern = case.get("in.pattern")?;
    for (name, SamplerCase { sampler: kind, steps, schedule }) in cases {
        let scheduler =
            Scheduler::from_json(&schedule.to_string()).with_context(|| format!("the schedule of {name}"))?;
        let sampler = sampler(kind, &scheduler, steps)?;
        let wrong = case.numbers(&format!("out.{name}.timesteps"))?;
        let wrong = wrong.iter().zip(sampler.timesteps()).filter(|(theirs, ours)| theirs != ours).count();
        checks.check(format!("samplers: {name} timesteps"), wrong as f64, 0.);
        let after = case.get(&format!("out.{name}.latents"))?;
        let noise = format!("in.{name}.noise");
        let noise = if case.has(&noise) { Some(case.get(&noise)?) } else { None };
        let (mut latents, mut past) = (case.get("in.latents")?, Past::default());
        for (i, &timestep) in sampler.timesteps().iter().enumerate() {
            let t = timestep / 1000.;
            let predicted = ((&latents * (0.2 + 0.6 * t))? + (&pattern * (0.5 - t))?)?;
            latents = sampler.step(i, &latents, &predicted, &mut past)?;
            if let Some(noise) = &noise {
                latents = (latents + (noise.i(i..i + 1)? * sampler.noise(i))?)?;
            }
            checks.tensors(format!("samplers: {name} step {i}"), &latents, &after.i(i)?, ACTIVATION)?;
        }
    }
    let ours = rescaled(&case.get("in.guided")?, &case.get("in.with_prompt")?, rescale)?;
    checks.tensors("samplers: rescaled guidance".into(), &ours, &case.get("out.rescaled")?, ACTIVATION)
}
