//! DreamMatcher: the correspondence alone, and pictures matched to a photo, with and without guidance.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::{IndexOp, Tensor};
use serde::Deserialize;

use super::super::case::{ACTIVATION, Case, Checks, GRADIENT};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::method::dreammatcher::matching::{Match, Outputs, Places, descriptors, foreground};
use crate::method::dreammatcher::{self, DreamMatcher, Options, Word, outputs_of};
use crate::method::{Learned, Pass, Recorder, Seen};
use crate::model::tokenizer::PLACEHOLDER;
use crate::model::{Plain, Unet};
use crate::sampling::samplers::{Ddim, Past, Sampler};
use crate::sampling::{Draft, Feed, Plan, Reference, Shown, denoise, invert, look_at, predicted};

#[derive(Deserialize)]
struct Dims {
    dims: [usize; 2],
}

/// A recorded output [C, h, w] of an up block.
fn places(recorded: &Tensor) -> Result<Places> {
    Ok(Places::of(&recorded.permute((1, 2, 0))?.contiguous()?)?)
}

pub(super) fn matching(folder: &Path, base: &Base, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, "matching", &base.device)?;
    let Dims { dims } = case.settings()?;
    let (second, third) = (case.get("in.second")?, case.get("in.third")?);
    let outputs = |row: usize| anyhow::Ok(Outputs { second: places(&second.i(row)?)?, third: places(&third.i(row)?)? });
    let side = third.dim(2)?;
    for half in 0..2 {
        let [reference, picture] = descriptors(&outputs(2 * half)?, &outputs(2 * half + 1)?, dims)?;
        for side in [side / 2, side] {
            let (found, key) = (Match::new([&reference, &picture], side)?, format!("out.{half}.{side}"));
            cosines(&case, &key, &found, "matching", checks)?;
            same(&case, &format!("{key}.to_reference"), &found.to_reference, "matching", checks)?;
            same(&case, &format!("{key}.to_target"), &found.to_picture, "matching", checks)?;
            let error = Tensor::new(found.error, &base.device)?;
            checks.tensors(
                format!("matching: {key}.error"),
                &error,
                &case.get(&format!("{key}.error"))?,
                ACTIVATION,
            )?;
        }
    }
    Ok(())
}

/// The cosines, which are large: not every case has them.
fn cosines(case: &Case, key: &str, found: &Match, name: &str, checks: &mut Checks) -> Result<()> {
    let key = format!("{key}.cost");
    if !case.has(&key) {
        return Ok(());
    }
    checks.tensors(format!("{name}: {key}"), &found.cosines, &case.get(&key)?, ACTIVATION)
}

/// The number of places that differ.
fn same(case: &Case, key: &str, ours: &[u32], name: &str, checks: &mut Checks) -> Result<()> {
    let wrong = case.integers(key)?.iter().zip(ours).filter(|(theirs, ours)| **theirs != **ours as usize).count();
    checks.check(format!("{name}: {key}"), wrong as f64, 0.);
    Ok(())
}

#[derive(Deserialize)]
struct Settings {
    prompts: Prompts,
    placeholder: String,
    token_index: usize,
    steps: usize,
    guidance: f64,
    matched_steps: [usize; 2],
    guided_steps: [usize; 2],
    guidance_weight: f64,
    dims: [usize; 2],
    threshold: f32,
}

#[derive(Deserialize)]
struct Prompts {
    empty: String,
    reference: String,
    prompt: String,
}

/// A UNet with some tensors of its own, and an embedding.
struct Recorded {
    unet: Unet,
    embedding: Tensor,
}

impl Recorded {
    fn new(case: &Case, base: &Base) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for name in case.below("in.unet.") {
            tensors.insert(name.clone(), case.get(&format!("in.unet.{name}"))?);
        }
        Ok(Self { unet: base.unet_with(tensors)?, embedding: case.get("in.embedding")?.flatten_all()? })
    }
}

impl Learned for Recorded {
    fn unet<'a>(&'a self, _: &'a Base) -> &'a Unet {
        &self.unet
    }

    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> Result<Tensor> {
        Ok(texts.with_concept(&base.tokenizer.encode(prompt, PLACEHOLDER)?, &self.embedding)?)
    }

    fn attention<'a>(&'a self, _: Pass<'a>) -> Box<dyn Recorder + 'a> {
        Box::new(Plain)
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        None
    }
}

pub(super) fn pictures(folder: &Path, name: &str, base: &Base, checks: &mut Checks) -> Result<()> {
    let case = Case::open(folder, name, &base.device)?;
    let settings: Settings = case.settings()?;
    let (init, clean) = (case.get("in.init_latents")?, case.get("in.reference_latents")?);
    let side = init.dim(2)?;
    let options = Options {
        dims: settings.dims,
        threshold: settings.threshold,
        plain: settings.matched_steps[0] as f64 / settings.steps as f64,
        guidance: None,
    };
    let matcher = |guidance| -> Result<DreamMatcher> {
        let word = Word::Class("dog".into());
        Ok(DreamMatcher::new(Box::new(Recorded::new(&case, base)?), word, Options { guidance, ..options }))
    };
    // weights are given for latents of 64 x 64
    let weight = settings.guidance_weight * 4096. / (side * side) as f64;
    let (matched, guided) = (matcher(None)?, matcher(Some(weight))?);
    let texts = Texts::new(base);
    let text = |prompt: &str| matched.text(base, &texts, &prompt.replace(&settings.placeholder, PLACEHOLDER));
    let prompt = settings.prompts.prompt.replace(&settings.placeholder, PLACEHOLDER);
    let word = matched.word(base, &prompt)?;
    checks.check(format!("{name}: the word's place"), word.abs_diff(settings.token_index) as f64, 0.);
    let (empty, shown) = (text(&settings.prompts.empty)?, matched.reference_text(base, &texts, "dog")?);
    checks.check(
        format!("{name}: the reference's text"),
        distance_of(&shown, &text(&settings.prompts.reference)?)?,
        0.,
    );
    let all = Tensor::cat(&[&empty, &empty, &shown, &text(&prompt)?], 0)?;
    checks.tensors(format!("{name}: text"), &all, &case.get("out.text")?, ACTIVATION)?;
    let sampler = Ddim::new(&base.scheduler, settings.steps)?;
    let course = invert(base, &matched, &sampler, &clean, &empty, || Ok(()))?;
    let whole: Vec<&Tensor> = std::iter::once(&clean).chain(&course).collect();
    checks.tensors(format!("{name}: inversion"), &Tensor::cat(&whole, 0)?, &case.get("out.trajectory")?, ACTIVATION)?;
    let plan = |learned| Plan {
        learned,
        reference: Some(Reference {
            latents: clean.clone(),
            feed: Feed::Inverted(course.clone()),
            text: Tensor::cat(&[&empty, &shown], 0).unwrap_or_else(|_| empty.clone()),
        }),
        negative: empty.clone(),
        sampler: &sampler as &dyn Sampler,
        guidance: settings.guidance,
        guidance_rescale: 0.,
        batch: 1,
        first: 0,
        start: None,
        sketch: None,
    };
    let draft = || anyhow::Ok(Draft { text: text(&prompt)?, latents: init.clone(), seed: 0, word });
    let plans = [plan(&matched as &dyn Learned), plan(&guided)];
    let (mut drafts, mut before) = ([draft()?], None::<Seen>);
    for (step, &timestep) in sampler.timesteps().iter().enumerate() {
        let is_guided = (settings.guided_steps[0]..settings.guided_steps[1]).contains(&step);
        let plan = &plans[is_guided as usize];
        let seen = look_at(base, plan, &[timestep], step)?.context("no reference pass")?;
        let known = before.take();
        let recorded = Step { case: &case, name, step, is_guided, threshold: settings.threshold };
        let shown = Shown { step, timestep, seen: Some(&seen), before: known.clone() };
        let (noise, left) = predicted(base, plan, &drafts, shown)?;
        if step == 0 {
            recorded.outputs(&seen, &left, checks)?;
        }
        if step >= settings.matched_steps[0] {
            recorded.matches(known.as_ref().context("nothing was left")?, &left, side, checks)?;
        }
        before = Some(left);
        drafts[0].latents = sampler.step(step, &drafts[0].latents, &noise, &mut Past::default())?;
    }
    checks.tensors(format!("{name}: latents"), &drafts[0].latents, &case.get("out.latents")?, ACTIVATION)?;
    // the loop that draws, where all steps are alike
    if settings.guided_steps[0] == settings.guided_steps[1] {
        let mut drafts = [draft()?];
        denoise(base, &plans[0], &mut drafts, |_| Ok(()))?;
        checks.tensors(format!("{name}: drawn latents"), &drafts[0].latents, &case.get("out.latents")?, ACTIVATION)?;
    }
    let plain = Recorded::new(&case, base)?;
    let mut drafts = [draft()?];
    denoise(base, &Plan { reference: None, ..plan(&plain) }, &mut drafts, |_| Ok(()))?;
    checks.tensors(
        format!("{name}: latents without"),
        &drafts[0].latents,
        &case.get("out.unmatched.latents")?,
        ACTIVATION,
    )
}

/// The greatest difference.
fn distance_of(a: &Tensor, b: &Tensor) -> Result<f64> {
    Ok((a - b)?.abs()?.max_all()?.to_scalar::<f32>()? as f64)
}

/// What was recorded of a step.
struct Step<'a> {
    case: &'a Case,
    name: &'a str,
    step: usize,
    is_guided: bool,
    threshold: f32,
}

impl Step<'_> {
    /// The outputs of the up blocks: reference and picture without the prompt, then with it.
    fn outputs(&self, seen: &Seen, left: &Seen, checks: &mut Checks) -> Result<()> {
        for block in [1, 2] {
            let key = format!("out.{}.up_block.{block}", self.step);
            let recorded = self.case.get(&key)?;
            for row in 0..4 {
                let ours = outputs_of(if row % 2 == 0 { seen } else { left }, row / 2)?;
                let ours = if block == 1 { ours.second } else { ours.third };
                let theirs = places(&recorded.i(row)?)?.tensor()?;
                checks.tensors(format!("{}: {key} row {row}", self.name), &ours.tensor()?, &theirs, ACTIVATION)?;
            }
        }
        Ok(())
    }

    fn matches(&self, before: &Seen, left: &Seen, latent_side: usize, checks: &mut Checks) -> Result<()> {
        let Self { case, name, step, .. } = self;
        let attention = left.get(dreammatcher::FOREGROUND).context("no foreground")?[0].i(0)?.to_vec1::<f32>()?;
        for half in 0..2 {
            for side in [latent_side / 2, latent_side] {
                // guidance matches once more, by what its own pass shows
                let by = if self.is_guided && side == latent_side { left } else { before };
                let all = by.get(dreammatcher::DESCRIPTORS).context("no descriptors")?;
                let descriptor = |i: usize| -> Result<Places> {
                    Ok(Places::of(&all[i].i(half)?.reshape((latent_side, latent_side, ()))?)?)
                };
                let found = Match::new([&descriptor(0)?, &descriptor(1)?], side)?;
                let soft = foreground(&attention, side);
                let key = format!("out.{step}.{half}.{side}");
                same(case, &format!("{key}.to_reference"), &found.to_reference, name, checks)?;
                let confidence: Vec<u32> =
                    found.confidence(&soft, self.threshold).into_iter().map(|x| x as u32).collect();
                same(case, &format!("{key}.confidence"), &confidence, name, checks)?;
                cosines(case, &key, &found, name, checks)?;
                let recorded = case.get(&format!("out.{step}.foreground.{side}"))?;
                let soft = Tensor::new(soft, recorded.device())?;
                checks.tensors(format!("{name}: foreground {step} {side}"), &soft, &recorded, ACTIVATION)?;
            }
        }
        if self.is_guided {
            let of = |key: &str| left.get(key).map(|tensors| tensors[0].clone()).context("no guidance");
            let loss = case.get(&format!("out.{step}.loss"))?;
            checks.tensors(format!("{name}: loss"), &of(dreammatcher::LOSS)?, &loss, ACTIVATION)?;
            let gradient = case.get(&format!("out.{step}.gradient"))?;
            let of_picture = Tensor::cat(&[gradient.narrow(0, 1, 1)?, gradient.narrow(0, 3, 1)?], 0)?;
            checks.tensors(format!("{name}: gradient"), &of(dreammatcher::GRADIENT)?, &of_picture, GRADIENT)?;
        }
        Ok(())
    }
}
