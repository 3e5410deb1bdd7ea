//! The denoising loop: classifier-free guidance, and the reference pass shared by all pictures.

use anyhow::Result;
use candle_core::Tensor;

use super::Inside;
use super::samplers::{Past, Sampler};
use crate::base::Base;
use crate::method::{Learned, Seen};
use crate::model::tiled;
use crate::rng;

/// The photo that the denoiser looks at.
pub struct Reference {
    /// Its scaled latents [1, 4, h, w].
    pub latents: Tensor,
    /// The noise that is added at each step's level ("matched"); none: the latents stay clean.
    pub noise: Option<Tensor>,
    /// States [2, L, d] of the negative prompt and of the plain class prompt.
    pub text: Tensor,
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
}

/// Denoises all `drafts`; `progress` is told after every pass.
///
/// All pictures go through a timestep before any goes to the next: the reference pass depends on the timestep alone, so
/// it is computed once for all of them, for several timesteps together where the latents are small.
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
    if let Some(start) = &plan.start {
        for draft in drafts.iter_mut() {
            draft.latents = start.noisy(&draft.latents, plan.sampler, plan.first)?;
        }
    }
    for (chunk, timesteps) in plan.sampler.timesteps()[plan.first..].chunks(together).enumerate() {
        let seen = look_at(base, plan, timesteps)?;
        for (i, &timestep) in timesteps.iter().enumerate() {
            let seen = seen.as_ref().map(|seen| seen.every(timesteps.len(), i)).transpose()?;
            let step = plan.first + chunk * together + i;
            let shows = plan.sketch.is_some_and(|every| (step + 1).is_multiple_of(every.max(1)) && step + 1 < all);
            let groups = drafts.chunks_mut(together).zip(pasts.chunks_mut(together)).zip(noises.chunks(together));
            for (group, ((drafts, pasts), noises)) in groups.enumerate() {
                let latents = Tensor::cat(&drafts.iter().map(|d| &d.latents).collect::<Vec<_>>(), 0)?;
                let guided = predicted(base, plan, &latents, timestep, seen.as_ref(), drafts)?;
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

/// `latents` with `amount` of noise that depends on a picture's seed and the step alone, not on other pictures.
fn noised(latents: Tensor, amount: f64, seed: u64, step: usize) -> Result<Tensor> {
    if amount == 0. {
        return Ok(latents);
    }
    let noise = rng::normal(latents.shape(), &mut rng::stream(seed, "ancestral", step as u64), latents.device())?;
    Ok((latents + (noise * amount)?)?)
}

/// What the denoiser predicts of `latents` [B, 4, h, w], guided.
fn predicted(
    base: &Base,
    plan: &Plan,
    latents: &Tensor,
    timestep: usize,
    seen: Option<&Seen>,
    drafts: &[Draft],
) -> Result<Tensor> {
    let count = drafts.len();
    let prompts = drafts.iter().map(|d| &d.text);
    let text: Vec<&Tensor> = std::iter::repeat_n(&plan.negative, count).chain(prompts).collect();
    let mut attention = plan.learned.attention(seen);
    let predicted = base.unet.forward(latents, &vec![timestep; count], &Tensor::cat(&text, 0)?, attention.as_mut())?;
    let (without, with) = (predicted.detach().narrow(0, 0, count)?, predicted.detach().narrow(0, count, count)?);
    let guided = (&without + ((&with - &without)? * plan.guidance)?)?;
    if plan.guidance_rescale == 0. { Ok(guided) } else { rescaled(&guided, &with, plan.guidance_rescale) }
}

/// A share `rescale` of the `guided` prediction [B, ...] brought to the spread that the prediction `with` the prompt has,
/// picture by picture (Lin et al. 2024, section 3.4): strong guidance overexposes less.
pub fn rescaled(guided: &Tensor, with: &Tensor, rescale: f64) -> Result<Tensor> {
    let spread = |x: &Tensor| x.flatten_from(1)?.var_keepdim(1)?.sqrt();
    let factor = (((spread(with)? / spread(guided)?)? * rescale)? + (1. - rescale))?;
    let shape = [&[guided.dim(0)?][..], &vec![1; guided.rank() - 1]].concat();
    Ok(guided.broadcast_mul(&factor.reshape(shape)?)?)
}

/// What the frozen base sees in the reference at each of the timesteps, first unconditionally, then with the class
/// prompt.
fn look_at(base: &Base, plan: &Plan, timesteps: &[usize]) -> Result<Option<Seen>> {
    let (Some(reference), Some(mut recorder)) = (&plan.reference, plan.learned.recorder()) else { return Ok(None) };
    let again = |x: &Tensor| tiled(x, timesteps.len());
    let latents = match &reference.noise {
        Some(noise) => base.scheduler.add_noise(&again(&reference.latents)?, &again(noise)?, timesteps)?,
        None => again(&reference.latents)?,
    };
    let texts = [again(&reference.text.narrow(0, 0, 1)?)?, again(&reference.text.narrow(0, 1, 1)?)?];
    base.unet.forward(&latents, timesteps, &Tensor::cat(&texts, 0)?, recorder.as_mut())?;
    Ok(Some(recorder.seen()))
}
