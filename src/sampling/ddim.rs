//! Deterministic sampling with classifier-free guidance and the reference pass shared by all pictures.

use anyhow::Result;
use candle_core::Tensor;

use crate::base::Base;
use crate::method::{Customisation, Customised, Features, Recorder};
use crate::model::{AttentionProcessor, Plain};

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
/// All pictures go through a timestep before any goes to the next: the reference pass depends on the
/// timestep alone, so it is computed once for all of them and nothing has to be kept.
pub fn sample(
    base: &Base,
    plan: &Plan,
    drafts: &mut [Draft],
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let reference = plan.reference.as_ref().filter(|_| plan.customisation.is_some_and(|c| c.has_reference()));
    for step in base.scheduler.ddim(plan.steps)? {
        let features = reference.map(|r| reference_features(base, r, step.timestep)).transpose()?;
        for drafts in drafts.chunks_mut(plan.batch.max(1)) {
            let count = drafts.len();
            let latents = Tensor::cat(&drafts.iter().map(|d| &d.latents).collect::<Vec<_>>(), 0)?;
            let prompts = drafts.iter().map(|d| &d.text);
            let text: Vec<&Tensor> = std::iter::repeat_n(&plan.negative, count).chain(prompts).collect();
            let (mut customised, mut plain);
            let processor: &mut dyn AttentionProcessor = match plan.customisation {
                Some(weights) => {
                    customised = Customised::new(weights, features.as_ref(), None);
                    &mut customised
                }
                None => {
                    plain = Plain;
                    &mut plain
                }
            };
            let both = Tensor::cat(&[&latents, &latents], 0)?;
            let timesteps = vec![step.timestep; 2 * count];
            let predicted = base.unet.forward(&both, &timesteps, &Tensor::cat(&text, 0)?, processor)?.detach();
            let (without, with) = (predicted.narrow(0, 0, count)?, predicted.narrow(0, count, count)?);
            let guided = (&without + ((with - &without)? * plan.guidance)?)?;
            let latents = step.apply(&latents, &guided)?;
            for (i, draft) in drafts.iter_mut().enumerate() {
                draft.latents = latents.narrow(0, i, 1)?.copy()?;
            }
            progress(count)?;
        }
    }
    Ok(())
}

/// What the frozen base sees in the reference at a timestep, unconditionally and with the class prompt.
fn reference_features(base: &Base, reference: &Reference, timestep: usize) -> Result<Features> {
    let latents = match &reference.noise {
        Some(noise) => base.scheduler.add_noise(&reference.latents, noise, &[timestep])?,
        None => reference.latents.clone(),
    };
    let mut recorder = Recorder::default();
    base.unet.forward(&Tensor::cat(&[&latents, &latents], 0)?, &[timestep; 2], &reference.text, &mut recorder)?;
    Ok(recorder.features)
}
