//! The denoising loop: classifier-free guidance, and the reference pass shared by all pictures.

use anyhow::Result;
use candle_core::{Tensor, Var};

use super::samplers::{Past, Sampler};
use super::start::{Inside, begun};
use crate::base::Base;
use crate::method::{Guided, Learned, Pass, Seen};
use crate::model::scheduler::Level;
use crate::model::tiled;
use crate::rng;

/// The photo that the denoiser looks at.
pub struct Reference {
    /// Its scaled latents [1, 4, h, w].
    pub latents: Tensor,
    /// How they are shown.
    pub feed: Feed,
    /// States [2, L, d] of the negative prompt and of the reference's own text.
    pub text: Tensor,
}

/// How the latents of a reference are shown.
pub enum Feed {
    /// As they are, at every step.
    Clean,
    /// With this noise at each step's level ("matched").
    Noised(Tensor),
    /// As an inversion went: those of the last step first, then up to those of the first.
    Inverted(Vec<Tensor>),
}

/// How a group of pictures is drawn.
pub struct Plan<'a> {
    /// What was learnt.
    pub learned: &'a dyn Learned,
    /// The reference, if one is wanted; what looks at no photo ignores it.
    pub reference: Option<Reference>,
    /// States [1, L, d] of the negative prompt.
    pub negative: Tensor,
    /// The way from noise to latents.
    pub sampler: &'a dyn Sampler,
    /// Guidance scale.
    pub guidance: f64,
    /// See [`rescaled`].
    pub guidance_rescale: f64,
    /// Pictures that go through the UNet together.
    pub batch: usize,
    /// The first step that is taken; what the drafts then start from is noise mixed with `start`.
    pub first: usize,
    /// The picture that drawing starts from.
    pub start: Option<Inside>,
    /// Steps after which drafts are told of as they are so far.
    pub sketch: Option<usize>,
}

/// What [`denoise`] tells.
pub enum Progress<'a> {
    /// So many picture-steps more are done.
    Steps(usize),
    /// The clean latents [1, 4, h, w] that are predicted in the draft of that place.
    Sketch(usize, &'a Tensor),
}

/// One picture on its way.
pub struct Draft {
    /// States [1, L, d] of its prompt.
    pub text: Tensor,
    /// Its latents [1, 4, h, w]: noise at first, the picture's at the end.
    pub latents: Tensor,
    /// What the noise of samplers that add some is drawn from.
    pub seed: u64,
    /// See [`Learned::word`].
    pub word: usize,
}

/// Denoises all `drafts`; `progress` is told after every pass.
///
/// All pictures go through a timestep before any goes to the next: the reference pass depends on the timestep alone, so
/// it is computed once for all of them, for several timesteps together where the latents are small.
///
/// # Errors
/// If the base fails on a draft, or `progress` does.
pub fn denoise(
    base: &Base,
    plan: &Plan,
    drafts: &mut [Draft],
    mut progress: impl FnMut(Progress) -> Result<()>,
) -> Result<()> {
    let together = plan.batch.max(1);
    let mut pasts = vec![Past::default(); drafts.len()];
    let noises: Vec<Tensor> = drafts.iter().map(|draft| draft.latents.clone()).collect();
    let all = plan.sampler.timesteps().len();
    for draft in drafts.iter_mut() {
        draft.latents = match &plan.start {
            Some(start) => start.noisy(&draft.latents, plan.sampler, plan.first)?,
            None => begun(&draft.latents, plan.sampler)?,
        };
    }
    let mut before: Vec<Option<Seen>> = drafts.chunks(together).map(|_| None).collect();
    for (chunk, timesteps) in plan.sampler.timesteps()[plan.first..].chunks(together).enumerate() {
        let seen = look_at(base, plan, timesteps, plan.first + chunk * together)?;
        for (i, &timestep) in timesteps.iter().enumerate() {
            let seen = seen.as_ref().map(|seen| seen.every(timesteps.len(), i)).transpose()?;
            let step = plan.first + chunk * together + i;
            let shows = plan.sketch.is_some_and(|every| (step + 1).is_multiple_of(every.max(1)) && step + 1 < all);
            let groups = drafts.chunks_mut(together).zip(pasts.chunks_mut(together)).zip(noises.chunks(together));
            for (group, (((drafts, pasts), noises), before)) in groups.zip(&mut before).enumerate() {
                let shown = Shown { step, timestep, seen: seen.as_ref(), before: before.take() };
                let (guided, left) = predicted(base, plan, drafts, shown)?;
                *before = Some(left);
                for (j, (draft, past)) in drafts.iter_mut().zip(pasts).enumerate() {
                    let predicted = guided.narrow(0, j, 1)?;
                    if shows {
                        let (clean, _) = base.scheduler.parted(&draft.latents, &predicted, plan.sampler.level(step))?;
                        progress(Progress::Sketch(group * together + j, &clean))?;
                    }
                    let latents = plan.sampler.step(step, &draft.latents, &predicted, past)?;
                    let latents = noised(latents, plan.sampler.noise(step), draft.seed, step)?;
                    draft.latents = match &plan.start {
                        Some(start) => start.kept(latents, &noises[j], plan.sampler, step)?,
                        None => latents,
                    };
                }
                progress(Progress::Steps(drafts.len()))?;
            }
        }
    }
    Ok(())
}

/// What a pass on drafts goes by.
pub struct Shown<'a> {
    /// The step.
    pub step: usize,
    /// Its timestep.
    pub timestep: f64,
    /// What was seen of the reference there.
    pub seen: Option<&'a Seen>,
    /// What the drafts' last pass left behind.
    pub before: Option<Seen>,
}

/// `latents` with `amount` of noise that depends on a picture's seed and the step alone, not on other pictures.
fn noised(latents: Tensor, amount: f64, seed: u64, step: usize) -> Result<Tensor> {
    if amount == 0. {
        return Ok(latents);
    }
    let noise = rng::normal(latents.shape(), &mut rng::stream(seed, "ancestral", step as u64), latents.device())?;
    Ok((latents + (noise * amount)?)?)
}

/// What the denoiser predicts of the drafts' latents [B, 4, h, w], guided, and what the pass leaves behind.
///
/// # Errors
/// If shapes do not fit.
pub fn predicted(base: &Base, plan: &Plan, drafts: &[Draft], shown: Shown) -> Result<(Tensor, Seen)> {
    let count = drafts.len();
    let latents = Tensor::cat(&drafts.iter().map(|d| &d.latents).collect::<Vec<_>>(), 0)?;
    let prompts = drafts.iter().map(|d| &d.text);
    let text: Vec<&Tensor> = std::iter::repeat_n(&plan.negative, count).chain(prompts).collect();
    let text = Tensor::cat(&text, 0)?;
    let words: Vec<usize> = drafts.iter().map(|draft| draft.word).collect();
    let step = (shown.step, plan.sampler.timesteps().len());
    let mut attention = plan.learned.attention(Pass {
        seen: shown.seen,
        before: shown.before.as_ref(),
        words: &words,
        side: latents.dim(2)?,
        step,
    });
    let unet = plan.learned.unet(base);
    let predicted = if plan.learned.guides(step) {
        // a variable that both halves are rows of
        let inputs = Var::from_tensor(&tiled(&latents, 2 * count)?)?;
        let predicted = unet.forward(&inputs, &vec![shown.timestep; 2 * count], &text, attention.as_mut())?;
        let changed = attention.guide(&Guided {
            inputs: &inputs,
            predicted: &predicted,
            latents: &latents,
            level: Level::of_alpha(base.scheduler.alpha(shown.timestep as usize)),
            reference: plan.reference.as_ref().map(|reference| &reference.latents),
        })?;
        changed.unwrap_or(predicted)
    } else {
        unet.forward(&latents, &vec![shown.timestep; count], &text, attention.as_mut())?
    };
    let left = attention.seen();
    let guided = guided(&predicted, plan.guidance)?;
    if plan.guidance_rescale == 0. {
        return Ok((guided, left));
    }
    let with = predicted.detach().narrow(0, count, count)?;
    Ok((rescaled(&guided, &with, plan.guidance_rescale)?, left))
}

/// Classifier-free guidance: of what was `predicted` [2 B, ...] without the prompts and with them, the latter further on in
/// its direction.
///
/// # Errors
/// If shapes do not fit.
pub fn guided(predicted: &Tensor, guidance: f64) -> Result<Tensor> {
    let parts = predicted.detach().chunk(2, 0)?;
    let (without, with) = (&parts[0], &parts[1]);
    Ok((without + ((with - without)? * guidance)?)?)
}

/// A share `rescale` of the `guided` prediction [B, ...] brought to the spread that the prediction `with` the prompt has,
/// picture by picture (Lin et al. 2024, section 3.4): strong guidance overexposes less.
///
/// # Errors
/// If shapes do not fit.
pub fn rescaled(guided: &Tensor, with: &Tensor, rescale: f64) -> Result<Tensor> {
    let spread = |x: &Tensor| x.flatten_from(1)?.var_keepdim(1)?.sqrt();
    let factor = (((spread(with)? / spread(guided)?)? * rescale)? + (1. - rescale))?;
    let shape = [&[guided.dim(0)?][..], &vec![1; guided.rank() - 1]].concat();
    Ok(guided.broadcast_mul(&factor.reshape(shape)?)?)
}

/// What the denoiser sees in the reference at each of the timesteps, from step `first` on: first unconditionally, then with
/// the reference's text.
///
/// # Errors
/// If shapes do not fit.
pub fn look_at(base: &Base, plan: &Plan, timesteps: &[f64], first: usize) -> Result<Option<Seen>> {
    let (Some(reference), Some(mut recorder)) = (&plan.reference, plan.learned.recorder()) else { return Ok(None) };
    let again = |x: &Tensor| tiled(x, timesteps.len());
    let latents = match &reference.feed {
        Feed::Noised(noise) => {
            let whole: Vec<usize> = timesteps.iter().map(|&timestep| timestep as usize).collect();
            base.scheduler.add_noise(&again(&reference.latents)?, &again(noise)?, &whole)?
        }
        Feed::Clean => again(&reference.latents)?,
        Feed::Inverted(course) => {
            let end = course.len() - first;
            Tensor::cat(&course[end - timesteps.len()..end].iter().rev().collect::<Vec<_>>(), 0)?
        }
    };
    let texts = [again(&reference.text.narrow(0, 0, 1)?)?, again(&reference.text.narrow(0, 1, 1)?)?];
    plan.learned.unet(base).forward(&latents, timesteps, &Tensor::cat(&texts, 0)?, recorder.as_mut())?;
    Ok(Some(recorder.seen()))
}

/// The way of clean `latents` [1, 4, h, w] back to noise (DDIM's, backwards): a course for [`Feed::Inverted`]. The denoiser is
/// asked at the timestep that is stepped to. `text` [1, L, d] are the states of the empty prompt.
///
/// # Errors
/// If shapes do not fit.
pub fn invert(
    base: &Base,
    learned: &dyn Learned,
    sampler: &dyn Sampler,
    latents: &Tensor,
    text: &Tensor,
    mut progress: impl FnMut() -> Result<()>,
) -> Result<Vec<Tensor>> {
    let (mut alpha, mut latents) = (base.scheduler.last_alpha(), latents.clone());
    let mut course = Vec::with_capacity(sampler.timesteps().len());
    for &timestep in sampler.timesteps().iter().rev() {
        let mut attention = learned.attention(Pass::default());
        let predicted = learned.unet(base).forward(&latents, &[timestep], text, attention.as_mut())?;
        let (clean, noise) = base.scheduler.parted(&latents, &predicted, Level::of_alpha(alpha))?;
        alpha = base.scheduler.alpha(timestep as usize);
        latents = Level::of_alpha(alpha).mixed(&clean, &noise)?;
        course.push(latents.clone());
        progress()?;
    }
    Ok(course)
}
