//! Deterministic sampling with classifier-free guidance and the reference pass shared by all pictures.

use anyhow::Result;
use candle_core::Tensor;

use crate::base::Base;
use crate::method::eqdiff::{Customisation, Customised, Recorder, References};
use crate::model::scheduler::DdimStep;
use crate::model::{AttentionProcessor, Plain, tiled};

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
    /// The trained parts; none: the base alone.
    pub customisation: Option<&'a Customisation>,
    /// The reference, if the adapter has reference attention and it is wanted.
    pub reference: Option<Reference>,
    /// States [1, L, d] of the negative prompt.
    pub negative: Tensor,
    /// DDIM steps.
    pub steps: usize,
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
pub fn sample(
    base: &Base,
    plan: &Plan,
    drafts: &mut [Draft],
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let reference = plan.reference.as_ref().zip(plan.customisation.filter(|c| c.has_reference()));
    let together = plan.batch.max(1);
    for steps in base.scheduler.ddim(plan.steps)?.chunks(together) {
        let seen = reference.map(|(reference, weights)| look_at(base, weights, reference, steps)).transpose()?;
        for (i, step) in steps.iter().enumerate() {
            let references = seen.as_ref().map(|seen| seen.every(steps.len(), i)).transpose()?;
            for drafts in drafts.chunks_mut(together) {
                denoise(base, plan, step, references.as_ref(), drafts)?;
                progress(drafts.len())?;
            }
        }
    }
    Ok(())
}

/// Takes `drafts` one step on.
fn denoise(
    base: &Base,
    plan: &Plan,
    step: &DdimStep,
    references: Option<&References>,
    drafts: &mut [Draft],
) -> Result<()> {
    let count = drafts.len();
    let latents = Tensor::cat(&drafts.iter().map(|d| &d.latents).collect::<Vec<_>>(), 0)?;
    let prompts = drafts.iter().map(|d| &d.text);
    let text: Vec<&Tensor> = std::iter::repeat_n(&plan.negative, count).chain(prompts).collect();
    let (mut customised, mut plain);
    let processor: &mut dyn AttentionProcessor = match plan.customisation {
        Some(weights) => {
            customised = Customised::new(weights, references, None);
            &mut customised
        }
        None => {
            plain = Plain;
            &mut plain
        }
    };
    let timesteps = vec![step.timestep; count];
    let predicted = base.unet.forward(&latents, &timesteps, &Tensor::cat(&text, 0)?, processor)?.detach();
    let (without, with) = (predicted.narrow(0, 0, count)?, predicted.narrow(0, count, count)?);
    let guided = (&without + ((with - &without)? * plan.guidance)?)?;
    let latents = step.apply(&latents, &guided)?;
    for (i, draft) in drafts.iter_mut().enumerate() {
        draft.latents = latents.narrow(0, i, 1)?.copy()?;
    }
    Ok(())
}

/// What the frozen base sees in the reference at each of the timesteps, first unconditionally, then with the class
/// prompt.
fn look_at(base: &Base, weights: &Customisation, reference: &Reference, steps: &[DdimStep]) -> Result<References> {
    let timesteps: Vec<usize> = steps.iter().map(|step| step.timestep).collect();
    let again = |x: &Tensor| tiled(x, steps.len());
    let latents = match &reference.noise {
        Some(noise) => base.scheduler.add_noise(&again(&reference.latents)?, &again(noise)?, &timesteps)?,
        None => again(&reference.latents)?,
    };
    let texts = [again(&reference.text.narrow(0, 0, 1)?)?, again(&reference.text.narrow(0, 1, 1)?)?];
    let mut recorder = Recorder::new(weights);
    base.unet.forward(&latents, &timesteps, &Tensor::cat(&texts, 0)?, &mut recorder)?;
    Ok(recorder.references)
}
