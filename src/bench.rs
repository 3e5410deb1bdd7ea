//! The work that users wait for, timed case by case on fixed inputs.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::base::texts::Texts;
use crate::base::{Base, Folder, Parts, ids_tensor};
use crate::images::Mask;
use crate::method::eqdiff::losses::{Batch, LossSettings, ReferenceBatch, training_losses};
use crate::method::eqdiff::mgdp::{Average, Guidance};
use crate::method::eqdiff::rra::Extent;
use crate::method::eqdiff::{Band, Customisation, Customised};
use crate::model::clip::Injection;
use crate::model::tokenizer::Tokens;
use crate::model::{ClipText, Plain, Unet};
use crate::ops::{Keep, Precision, prepare};
use crate::rng;
use crate::sampling::samplers::Ddim;
use crate::sampling::{self, Draft, Feed, Reference, denoise, together};
use crate::training::AdamW;
use crate::training::budget::{Budget, MemoryPlan};
use crate::training::optimiser::AdamWSettings;

/// The cases, in the order in which they run.
pub const CASES: [(&str, &str); 11] = [
    ("gemm", "a product of two 4096 x 4096 matrices"),
    ("unet_b1", "the UNet on one sample"),
    ("unet_b2", "the UNet on two samples, a guidance pair"),
    ("vae_dec", "latents to a picture"),
    ("vae_enc", "a picture to latents"),
    ("clip_b2", "the text encoder on two prompts"),
    ("train", "a training step: keys and values of cross-attention and one embedding"),
    ("train_ref", "the same with a frozen reference pass"),
    ("eqdiff_step", "a full step: two photos, two class images, their references, all losses"),
    ("sample", "8 prompts with guidance: one step, or several where latents are small"),
    ("sample_ref", "the same with reference attention, its reference pass included"),
];

/// What is measured, and where.
pub struct Bench {
    /// The base, or `random-sd14`.
    pub base: String,
    /// Where it computes.
    pub device: Device,
    /// How weights are kept.
    pub precision: Precision,
    /// The memory for training.
    pub memory: Budget,
    /// Timed runs, after one that warms up.
    pub runs: usize,
}

const OPTIMISER: AdamWSettings =
    AdamWSettings { learning_rate: 1e-5, betas: (0.9, 0.999), eps: 1e-8, weight_decay: 1e-2, max_grad_norm: 1. };
const TIMESTEP: usize = 501;

impl Bench {
    /// Seconds of each run of `case`.
    ///
    /// # Errors
    /// If there is no such case, or the base cannot be loaded.
    pub fn run(&self, case: &str) -> Result<Vec<f64>> {
        match case {
            "gemm" => self.gemm(),
            "unet_b1" => self.unet(1),
            "unet_b2" => self.unet(2),
            "vae_dec" => self.vae(true),
            "vae_enc" => self.vae(false),
            "clip_b2" => self.clip(),
            "train" => self.train(false),
            "train_ref" => self.train(true),
            "eqdiff_step" => self.eqdiff_step(),
            "sample" => self.sample(false),
            "sample_ref" => self.sample(true),
            _ => bail!("no case {case:?}: one of {}", CASES.map(|(name, _)| name).join(", ")),
        }
    }

    fn time<T, E>(&self, mut work: impl FnMut() -> Result<T, E>) -> Result<Vec<f64>>
    where
        anyhow::Error: From<E>,
    {
        work()?;
        self.device.synchronize()?;
        let run = |_| {
            let start = Instant::now();
            work()?;
            self.device.synchronize()?; // else only what was asked for is timed
            Ok(start.elapsed().as_secs_f64())
        };
        (0..self.runs).map(run).collect()
    }

    fn normal(&self, shape: &[usize], purpose: &str) -> Result<Tensor> {
        normal(shape, purpose, &self.device)
    }

    fn parts(&self) -> Result<Parts> {
        prepare(&self.device, self.precision)?;
        Ok(Parts {
            folder: Folder::find(&self.base, true)?,
            device: self.device.clone(),
            precision: self.precision,
            loras: [].into(),
        })
    }

    fn plan(&self, unet: &Unet, samples: usize) -> Result<Keep> {
        let plan = MemoryPlan::new(unet, unet.config.sample_size, samples, self.memory, (&self.device, self.precision));
        let _ = writeln!(std::io::stderr(), "{plan}"); // the output is for results
        Ok(plan.keep)
    }

    fn gemm(&self) -> Result<Vec<f64>> {
        let side = 4096;
        prepare(&self.device, self.precision)?;
        let linear = crate::ops::Linear::new(self.normal(&[side, side], "weight")?, None, self.precision)?;
        let x = self.normal(&[side, side], "x")?;
        self.time(|| linear.forward(&x))
    }

    fn unet(&self, batch: usize) -> Result<Vec<f64>> {
        let unet = self.parts()?.unet()?;
        let Inputs { latents, text, .. } = Inputs::of(&unet, batch, &self.device)?;
        self.time(|| unet.forward(&latents, &vec![TIMESTEP; batch], &text, &mut Plain))
    }

    fn vae(&self, decode: bool) -> Result<Vec<f64>> {
        let parts = self.parts()?;
        let vae = parts.vae()?;
        let side = parts.latent_side()?;
        let latents = self.normal(&[1, 4, side, side], "latents")?;
        let picture = self.normal(&[1, 3, side * vae.factor(), side * vae.factor()], "picture")?;
        self.time(|| if decode { vae.decode(&latents) } else { Ok(vae.encode(&picture)?.mean) })
    }

    fn clip(&self) -> Result<Vec<f64>> {
        let text = self.parts()?.text()?;
        let ids = prompt(&text);
        self.time(|| text.forward(&ids_tensor(&[&ids, &ids], &self.device)?, None))
    }

    fn train(&self, reference: bool) -> Result<Vec<f64>> {
        let parts = self.parts()?;
        let (unet, text) = (parts.unet()?, parts.text()?);
        let Inputs { latents, noise, .. } = Inputs::of(&unet, 1, &self.device)?;
        let ids = prompt(&text);
        let (ids, positions) = (ids_tensor(&[&ids], &self.device)?, at(5, ids.len(), &self.device)?);
        let mut trained = Trained::new(&unet, &text, false)?;
        let keep = self.plan(&unet, 1)?;
        self.time(|| {
            let embedding = trained.weights.concept.of(Band::Original)?.unsqueeze(0)?;
            let states = text.forward(&ids, Some(Injection { positions: &positions, embeddings: &embedding }))?;
            let mut processor = Customised::new(&trained.weights, None, None).keeping(keep);
            let predicted = unet.forward(&latents, &[TIMESTEP], &states, &mut processor)?;
            let mut loss = (&predicted - &noise)?.sqr()?.mean_all()?;
            if reference {
                let frozen = unet.forward(&latents, &[TIMESTEP], &states.detach(), &mut Plain)?;
                loss = (loss + (&predicted - frozen)?.sqr()?.mean_all()?)?;
            }
            drop(predicted);
            trained.step(&loss.backward()?)
        })
    }

    fn eqdiff_step(&self) -> Result<Vec<f64>> {
        let base = Base::load(&self.base, true, &self.device, self.precision)?;
        let samples = 4;
        let Inputs { latents, noise, .. } = Inputs::of(&base.unet, samples, &self.device)?;
        let side = latents.dim(2)?;
        let ids = prompt(&base.text);
        let tokens = |placeholder: Vec<usize>| Tokens { ids: ids.clone(), placeholder, ..Tokens::default() };
        let full = Mask::full(1., side, side);
        let mut half = full.clone();
        half.values[side * side / 2..].fill(0.);
        let masks = vec![half.clone(), half, full.clone(), full];
        let batch = Batch {
            latents: latents.clone(),
            noise,
            timesteps: vec![TIMESTEP; samples],
            prompts: [vec![5], vec![5], vec![], vec![]].map(tokens).to_vec(),
            is_prior: vec![false, false, true, true],
            bands: vec![Band::Original; samples],
            masks: masks.clone(),
            reference: Some(ReferenceBatch { latents, prompts: vec![tokens(vec![]); samples], masks }),
        };
        let settings = LossSettings {
            guidance: Guidance::MaskGuided,
            dilations: 5,
            average: Average::Area,
            time_gap: 2,
            prior_weight: 1.,
            reference_weight: 0.1,
            reference_extent: Extent::Subject,
            cross_weight: 0.1,
            keep: self.plan(&base.unet, samples)?,
        };
        let mut trained = Trained::new(&base.unet, &base.text, true)?;
        let texts = Texts::new(&base);
        self.time(|| {
            let losses = training_losses(&base, &texts, &trained.weights, &batch, &settings)?.losses;
            trained.step(&losses.total.backward()?)
        })
    }

    fn sample(&self, reference: bool) -> Result<Vec<f64>> {
        let base = Base::load(&self.base, true, &self.device, self.precision)?;
        let prompts = 8;
        let Inputs { latents, text, .. } = Inputs::of(&base.unet, prompts, &self.device)?;
        let tensors = Customisation::initial(&base.unet, &base.text.token_embedding(7)?, true, true)?;
        let customisation = Customisation::from_tensors(&base.unet, &tensors)?;
        let one = |t: &Tensor, i: usize| t.narrow(0, i, 1);
        let pixels = base.unet.config.sample_size.pow(2);
        let plan = sampling::Plan {
            learned: &customisation,
            reference: if reference {
                Some(Reference { latents: one(&latents, 0)?, feed: Feed::Clean, text: text.narrow(0, 0, 2)? })
            } else {
                None
            },
            negative: one(&text, 0)?,
            sampler: &Ddim::new(&base.scheduler, together(pixels, &base))?,
            guidance: 6.,
            guidance_rescale: 0.,
            batch: together(pixels, &base),
            first: 0,
            start: None,
            sketch: None,
        };
        let draft = |i| Ok(Draft { text: one(&text, i)?, latents: one(&latents, i)?, seed: i as u64, word: 0 });
        let mut drafts = (0..prompts).map(draft).collect::<Result<Vec<_>>>()?;
        self.time(|| denoise(&base, &plan, &mut drafts, |_| Ok(())))
    }
}

/// Fixed inputs of a UNet.
struct Inputs {
    latents: Tensor,
    noise: Tensor,
    text: Tensor,
}

impl Inputs {
    fn of(unet: &Unet, batch: usize, device: &Device) -> Result<Self> {
        let side = unet.config.sample_size;
        let shape = [batch, 4, side, side];
        Ok(Self {
            latents: normal(&shape, "latents", device)?,
            noise: normal(&shape, "noise", device)?,
            text: normal(&[batch, 77, unet.config.cross_attention_dim], "text", device)?,
        })
    }
}

/// Variables, the layers that see them, and their optimiser.
struct Trained {
    weights: Customisation,
    optimiser: AdamW,
}

impl Trained {
    fn new(unet: &Unet, text: &ClipText, everything: bool) -> Result<Self> {
        let initial = Customisation::initial(unet, &text.token_embedding(7)?, everything, everything)?;
        let variable = |(name, tensor): (String, Tensor)| Ok((name, Var::from_tensor(&tensor)?));
        let variables: BTreeMap<String, Var> = initial.into_iter().map(variable).collect::<Result<_>>()?;
        let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let weights = Customisation::from_tensors(unet, &tensors)?;
        Ok(Self { weights, optimiser: AdamW::new(variables, OPTIMISER, 0, BTreeMap::new())? })
    }

    fn step(&mut self, grads: &GradStore) -> Result<()> {
        self.optimiser.step(grads, &[]).context("the optimiser's step")?;
        Ok(())
    }
}

fn normal(shape: &[usize], purpose: &str, device: &Device) -> Result<Tensor> {
    Ok(rng::normal(shape, &mut rng::stream(0, purpose, 0), device)?)
}

/// A prompt of the greatest length.
fn prompt(text: &ClipText) -> Vec<u32> {
    let vocabulary = text.vocabulary() as u32;
    (0..text.config.max_position_embeddings as u32).map(|i| (i * 523 + 17) % vocabulary).collect()
}

/// 1 at a position: [1, length].
fn at(position: usize, length: usize, device: &Device) -> Result<Tensor> {
    let row: Vec<f32> = (0..length).map(|i| (i == position) as u8 as f32).collect();
    Ok(Tensor::from_vec(row, (1, length), device)?)
}
