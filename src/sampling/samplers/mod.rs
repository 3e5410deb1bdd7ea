//! Samplers: how latents come from noise, given what the denoiser predicts. A file each.
//!
//! All keep the variance of the latents: Euler's, which is usually written for latents whose noise grows, are here those
//! latents by the signal's share of their level.

mod course;
mod ddim;
mod dpmpp_2m;
mod euler;
mod euler_a;
mod lms;
mod unipc;

use candle_core::{Result, Tensor};

use crate::model::Scheduler;
use crate::model::scheduler::Level;
use crate::settings::SamplerName;
use course::Course;
pub use ddim::Ddim;
use dpmpp_2m::Dpmpp2m;
use euler::Euler;
use euler_a::EulerA;
pub use lms::Lms;
use unipc::UniPc;

/// A way from noise to latents.
pub trait Sampler {
    /// The timesteps that the denoiser is asked at, in order.
    fn timesteps(&self) -> &[f64];

    /// What the first noise is multiplied with.
    fn first(&self) -> f64 {
        1.
    }

    /// The latents [1, 4, h, w] of a picture after step `i`, given those before it, what the denoiser predicted of them
    /// and the picture's past.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn step(&self, i: usize, latents: &Tensor, predicted: &Tensor, past: &mut Past) -> Result<Tensor>;

    /// The level of the latents before step `i`, and after the last one.
    fn level(&self, i: usize) -> Level;

    /// How much fresh normal noise is then added to them.
    fn noise(&self, _i: usize) -> f64 {
        0.
    }
}

/// What the last step and the one before it left to those that look back.
#[derive(Clone, Default)]
pub struct Past {
    last: Option<Taken>,
    before: Option<Taken>,
    /// The noise that was predicted, the newest first, as many as somebody looks back.
    noises: Vec<Tensor>,
}

/// A step that was taken.
#[derive(Clone)]
struct Taken {
    /// The latents that it started from.
    latents: Tensor,
    /// The clean latents that were predicted there.
    clean: Tensor,
}

impl Past {
    /// The last `most` predictions of the noise, this one first.
    fn noises(&mut self, noise: Tensor, most: usize) -> &[Tensor] {
        self.noises.insert(0, noise);
        self.noises.truncate(most);
        &self.noises
    }

    fn remember(&mut self, latents: Tensor, clean: Tensor) {
        self.before = self.last.replace(Taken { latents, clean });
    }
}

/// The sampler of that name with so many steps.
///
/// # Errors
/// If there are no steps, or more than the schedule has timesteps for.
pub fn sampler(name: SamplerName, scheduler: &Scheduler, steps: usize) -> Result<Box<dyn Sampler>> {
    Ok(match name {
        SamplerName::Ddim => Box::new(Ddim::new(scheduler, steps)?),
        SamplerName::Ddpm => Box::new(Ddim::ancestral(scheduler, steps)?),
        SamplerName::Dpmpp2m => Box::new(Dpmpp2m::new(Course::spaced(scheduler, steps, 1)?)),
        SamplerName::Dpmpp2mKarras => Box::new(Dpmpp2m::new(Course::karras(scheduler, steps)?)),
        SamplerName::Euler => Box::new(Euler::new(Course::spaced(scheduler, steps, 0)?)),
        SamplerName::EulerA => Box::new(EulerA::new(Course::spaced(scheduler, steps, 0)?)),
        SamplerName::Lms => Box::new(Lms::new(scheduler, steps)?),
        SamplerName::Unipc => Box::new(UniPc::new(Course::spaced(scheduler, steps, 1)?)),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use clap::ValueEnum;

    use super::*;
    use crate::rng;

    /// With the right prediction at every step, all of them end at the clean latents: even the last step's noise is
    /// known, except DDIM's, which stops at the first timestep.
    #[test]
    fn the_truth_is_found() -> anyhow::Result<()> {
        let draw = |index| rng::normal((1, 4, 3, 2), &mut rng::stream(0, "samplers", index), &Device::Cpu);
        let clean = draw(0)?;
        for json in [
            "{}",
            r#"{"timestep_spacing": "trailing", "prediction_type": "v_prediction", "rescale_betas_zero_snr": true}"#,
        ] {
            let scheduler = Scheduler::from_json(json)?;
            // LMS asks between timesteps, where there is no level to compare with
            let whole = SamplerName::value_variants().iter().filter(|name| **name != SamplerName::Lms);
            for (&name, steps) in whole.flat_map(|name| [1, 2, 7, 50].map(|n| (name, n))) {
                let sampler = sampler(name, &scheduler, steps)?;
                let first = Level::of_alpha(scheduler.alpha(sampler.timesteps()[0] as usize));
                let (mut latents, mut past) = (first.mixed(&clean, &draw(1)?)?, Past::default());
                assert_eq!(sampler.timesteps().len(), steps, "{name:?}");
                for (i, &timestep) in sampler.timesteps().iter().enumerate() {
                    let timestep = timestep as usize;
                    let level = Level::of_alpha(scheduler.alpha(timestep));
                    let noise = ((&latents - (&clean * level.signal)?)? / level.noise)?;
                    let predicted = scheduler.target(&clean, &noise, &[timestep])?;
                    latents = sampler.step(i, &latents, &predicted, &mut past)?;
                    latents = (latents + (draw(2 + i as u64)? * sampler.noise(i))?)?;
                }
                let gap = (latents - &clean)?.abs()?.max_all()?.to_scalar::<f32>()?;
                // Karras' levels lie between timesteps, so that the denoiser is asked a little beside them
                let rough = [SamplerName::Ddim, SamplerName::Ddpm, SamplerName::Dpmpp2mKarras].contains(&name);
                let bound = if rough { 0.15 } else { 1e-3 };
                assert!(gap < bound, "{json} {name:?} {steps}: {gap}");
            }
        }
        Ok(())
    }
}
