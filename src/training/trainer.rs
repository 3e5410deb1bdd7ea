//! The training run: from an encoded subject to a saved adapter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::{Tensor, Var};
use image::RgbImage;

use super::log::{Log, Record, TERMS};
use super::losses::{LossSettings, Losses, training_losses};
use super::optimiser::{AdamW, AdamWSettings};
use super::{Data, state};
use crate::adapter::{self, Manifest};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::images::png::save_png;
use crate::method::Customisation;
use crate::model::tokenizer::PLACEHOLDER;
use crate::ops::Keep;
use crate::report::contact_sheet;
use crate::sampling::{Order, Style, draw};

/// Whether training goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It does.
    Continue,
    /// It saves its state and stops.
    Stop,
}

/// A run in its folder.
pub struct Trainer<'a> {
    base: &'a Base,
    data: &'a Data,
    folder: PathBuf,
    manifest: Manifest,
    optimiser: AdamW,
    weights: Customisation,
    log: Log,
    /// The photo that previews refer to.
    reference: RgbImage,
    /// What a step keeps of its forward pass.
    keep: Keep,
}

impl<'a> Trainer<'a> {
    /// A fresh run of `manifest.settings`, or one that goes on where `folder` stopped.
    ///
    /// # Errors
    /// If the folder's state is missing, damaged or of another base.
    pub fn new(
        base: &'a Base,
        data: &'a Data,
        folder: &Path,
        manifest: Manifest,
        reference: RgbImage,
        keep: Keep,
        resume: bool,
    ) -> Result<Self> {
        let settings = &manifest.settings;
        let initial = initial(base, &manifest)?;
        let (tensors, moments, steps) = if resume {
            let state = state::load(folder, &base.device)?;
            (state.variables, state.moments, state.steps)
        } else {
            (initial.clone(), BTreeMap::new(), 0)
        };
        let mut variables = BTreeMap::new();
        for (name, initial) in &initial {
            let tensor = tensors.get(name).with_context(|| format!("{name} is missing in the saved training"))?;
            if tensor.shape() != initial.shape() {
                bail!("{name} of the saved training has another shape than the base's: was it another base?");
            }
            variables.insert(name.clone(), Var::from_tensor(tensor)?);
        }
        let tensors = variables.iter().map(|(name, var)| (name.clone(), var.as_tensor().clone())).collect();
        let adamw = AdamWSettings {
            learning_rate: settings.training.learning_rate,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: settings.training.weight_decay,
            max_grad_norm: settings.training.max_grad_norm,
        };
        Ok(Self {
            base,
            data,
            folder: folder.to_path_buf(),
            weights: Customisation::from_tensors(&base.unet, &tensors)?,
            optimiser: AdamW::new(variables, adamw, steps, moments)?,
            log: if resume { Log::resume(folder, steps)? } else { Log::new(folder) },
            manifest,
            reference,
            keep,
        })
    }

    /// Steps taken so far.
    pub fn steps(&self) -> usize {
        self.optimiser.steps()
    }

    /// Trains to the end, or until `observe` says stop; saves either way.
    ///
    /// # Errors
    /// If a step fails; what the last checkpoint saved stays.
    pub fn run(&mut self, mut observe: impl FnMut(&Record) -> Next) -> Result<()> {
        let settings = self.manifest.settings.clone();
        let texts = Texts::new(self.base);
        let side = self.manifest.side / self.base.vae.factor();
        let loss_settings = LossSettings {
            guidance: settings.mgdp.mask,
            dilations: settings.mgdp.dilations_at(side),
            time_gap: settings.rra.time_gap,
            prior_weight: settings.prior.weight,
            reference_weight: settings.rra.loss_weight,
            cross_weight: settings.cross_attention.loss_weight,
            keep: self.keep,
        };
        let every = |interval: usize, step: usize| interval > 0 && step.is_multiple_of(interval);
        while self.steps() < settings.training.steps {
            let batch = self.data.batch(self.base, self.steps())?;
            let losses = training_losses(self.base, &texts, &self.weights, &batch, &loss_settings)?;
            let grads = losses.total.backward()?;
            let gradient_norm = self.optimiser.step(&grads)?;
            let record = record(self.steps(), &losses, gradient_norm)?;
            self.log.push(record.clone());
            let next = observe(&record);
            if every(settings.training.checkpoint_every, self.steps()) || next == Next::Stop {
                self.save()?;
            }
            if every(settings.training.preview_every, self.steps()) {
                self.preview()?;
            }
            if next == Next::Stop {
                return Ok(());
            }
        }
        self.save()
    }

    /// Writes the adapter, the optimiser's state and the loss curve.
    fn save(&mut self) -> Result<()> {
        self.manifest.steps = self.steps();
        let tensors = self.trained();
        adapter::save(&self.folder, &self.manifest, &tensors)?;
        state::save(&self.folder, &self.optimiser)?;
        self.log.save()
    }

    fn trained(&self) -> BTreeMap<String, Tensor> {
        let variables = self.optimiser.variables().iter();
        variables.map(|(name, var)| (name.clone(), var.as_detached_tensor())).collect()
    }

    /// Draws the subject with fixed prompts and seeds.
    fn preview(&self) -> Result<()> {
        let Manifest { settings, class, side, .. } = &self.manifest;
        let weights = Customisation::from_tensors(&self.base.unet, &self.trained())?;
        let prompts = [format!("photo of a {PLACEHOLDER} {class}"), format!("{PLACEHOLDER} {class} in van gogh style")];
        let style = Style {
            negative: "",
            steps: settings.sampling.steps,
            guidance: settings.sampling.guidance,
            size: (*side, *side),
            reference: settings.rra.enabled.then_some((&self.reference, class.as_str())),
            reference_noise: settings.rra.reference_noise,
        };
        let orders: Vec<Order> = prompts
            .iter()
            .flat_map(|prompt| (0..2).map(|seed| Order { prompt: prompt.clone(), seed, init_latents: None }))
            .collect();
        let images = draw(self.base, Some(&weights), &style, &orders, |_| Ok(()))?;
        let cells: Vec<_> = images.into_iter().zip(orders).map(|(image, order)| (image, order.prompt)).collect();
        let folder = self.folder.join("previews");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        save_png(&folder.join(format!("step-{:06}.png", self.steps())), &contact_sheet(&cells, 2), &[])
    }
}

/// What training starts from, by name.
fn initial(base: &Base, manifest: &Manifest) -> Result<BTreeMap<String, Tensor>> {
    let settings = &manifest.settings;
    let token = match settings.fdte.init_word.as_str() {
        "" => base.tokenizer.plain(&manifest.class)?.first().copied().context("the class word has no token")?,
        word => base.tokenizer.entry(word).context("fdte.init_word")?,
    };
    let init = base.text.token_embedding(token)?;
    Ok(Customisation::initial(&base.unet, &init, settings.fdte.enabled, settings.rra.enabled)?)
}

fn record(step: usize, losses: &Losses, gradient_norm: f64) -> Result<Record> {
    let mut values = [None; TERMS.len()];
    let total = ("total", losses.total.detach());
    for (name, value) in losses.terms.iter().chain([&total]) {
        if let Some(i) = TERMS.iter().position(|term| term == name) {
            values[i] = Some(value.to_scalar::<f32>()? as f64);
        }
    }
    Ok(Record { step, losses: values, gradient_norm })
}
