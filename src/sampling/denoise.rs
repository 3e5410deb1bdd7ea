//! The denoising loop: classifier-free guidance, and the reference pass shared by all pictures.

use anyhow::Result;
use candle_core::Tensor;

use super::samplers::Sampler;
use crate::base::Base;
use crate::method::{Learned, Seen};
use crate::model::tiled;

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
    /// Pictures that go through the UNet together.
    pub batch: usize,
}

/// One picture on its way.
pub struct Draft {
    /// States [1, L, d] of its prompt.
    pub text: Tensor,
    /// Its latents [1, 4, h, w]: noise at first, the picture's at the end.
    pub latents: Tensor,
}

/// Denoises all `drafts`; `progress` is told after every pass with the number of picture-steps done.
///
/// All pictures go through a timestep before any goes to the next: the reference pass depends on the timestep alone, so
/// it is computed once for all of them, for several timesteps together where the latents are small.
pub fn denoise(
    base: &Base,
    plan: &Plan,
    drafts: &mut [Draft],
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let together = plan.batch.max(1);
    for (chunk, timesteps) in plan.sampler.timesteps().chunks(together).enumerate() {
        let seen = look_at(base, plan, timesteps)?;
        for (i, &timestep) in timesteps.iter().enumerate() {
            let seen = seen.as_ref().map(|seen| seen.every(timesteps.len(), i)).transpose()?;
            for drafts in drafts.chunks_mut(together) {
                let latents = Tensor::cat(&drafts.iter().map(|d| &d.latents).collect::<Vec<_>>(), 0)?;
                let guided = predicted(base, plan, &latents, timestep, seen.as_ref(), drafts)?;
                let latents = plan.sampler.step(chunk * together + i, &latents, &guided)?;
                for (i, draft) in drafts.iter_mut().enumerate() {
                    draft.latents = latents.narrow(0, i, 1)?.copy()?;
                }
                progress(drafts.len())?;
            }
        }
    }
    Ok(())
}

/// The guided prediction of the noise in `latents` [B, 4, h, w].
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
    Ok((&without + ((with - &without)? * plan.guidance)?)?)
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
