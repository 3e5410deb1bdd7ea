//! A base and perhaps an adapter, ready to draw.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use image::imageops::FilterType;
use image::{RgbImage, imageops};

use super::names::file_name;
use super::sketches::Sketches;
use super::{Interrupted, Machine, Note, Observer, Usage, WeightedFile, elite, page};
use crate::adapter::{Adapter, serialised};
use crate::base::{Base, MINI};
use crate::evaluation::prompts::{Kind, builtin, fill};
use crate::files::{digest, sweep_old};
use crate::images::png::{Parameters, save_png};
use crate::method::dreammatcher::{DreamMatcher, Options, Word};
use crate::method::elite::Files;
use crate::method::eqdiff::several::{Member, Several};
use crate::method::{BaseAlone, Learned, MethodName};
use crate::sampling::{Drawn, Open, Order, Set, Special, Style, draw_on_all};
use crate::settings::{Layers, Settings};
use crate::subject::Subject;

/// What pictures are drawn with.
pub struct Studio {
    /// The base.
    pub base: Rc<Base>,
    /// What was learnt; without an adapter the base as it is.
    pub learned: Box<dyn Learned>,
    /// The adapter.
    pub adapter: Option<Adapter>,
    /// The photo that reference attention looks at by default.
    pub reference: Option<RgbImage>,
    /// What the base was changed by.
    loras: Vec<WeightedFile>,
    /// Whether the placeholder stands for a subject.
    pub has_subject: bool,
    /// Tells what was learnt from anything else: empty without an adapter.
    pub(super) identity: String,
    /// The weight of DreamMatcher's guidance, where it matches.
    matching: Option<f64>,
    defaults: Settings,
    /// Cards that draw too, and how the same is loaded there.
    others: Option<(Vec<usize>, Box<Open<'static>>)>,
}

impl Studio {
    /// Loads the base that is named, else the adapter's, else the embedded one.
    ///
    /// # Errors
    /// If something cannot be loaded, or adapter and base do not go together.
    pub fn open(
        machine: &Machine,
        base: Option<&str>,
        adapter: Option<Adapter>,
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        Self::open_with(machine, base, adapter, &[], observer)
    }

    /// The same with LoRAs.
    ///
    /// # Errors
    /// As [`open`](Self::open), also if a LoRA does not fit.
    pub fn open_with(
        machine: &Machine,
        base: Option<&str>,
        adapter: Option<Adapter>,
        loras: &[WeightedFile],
        observer: &mut dyn Observer,
    ) -> Result<Self> {
        let of_adapter = adapter.as_ref().map(|a| a.manifest.base.clone());
        let base = match (base, of_adapter) {
            (Some(name), _) => machine.base_with(name, loras, observer)?,
            (None, Some(name)) => machine.base_of_adapter_with(&name, loras, observer)?,
            (None, None) => machine.base_with(MINI, loras, observer)?,
        };
        let loras = loras.to_vec();
        let Some(adapter) = adapter else {
            let mut layers = Layers::new()?;
            if let Some(toml) = Base::defaults(&base.name, machine.offline)? {
                layers = layers.over(&toml, &format!("eqdiff.toml of the base {}", base.name))?;
            }
            let defaults = layers.settings()?;
            return Ok(Self { loras, ..Self::of_base(Rc::new(base), defaults) });
        };
        Ok(Self { loras, ..Self::with(Rc::new(base), adapter)? })
    }

    /// A base alone that is loaded already.
    pub fn of_base(base: Rc<Base>, defaults: Settings) -> Self {
        Self {
            base,
            learned: Box::new(BaseAlone),
            adapter: None,
            has_subject: false,
            reference: None,
            loras: Vec::new(),
            identity: String::new(),
            matching: None,
            defaults,
            others: None,
        }
    }

    /// An adapter on a base that is loaded already.
    ///
    /// # Errors
    /// If they do not go together, or the adapter cannot be read.
    pub fn with(base: Rc<Base>, adapter: Adapter) -> Result<Self> {
        let tensors = adapter.tensors(&base)?;
        let learned = adapter.learned(&base, &tensors)?;
        let reference = if learned.recorder().is_some() {
            let photo = page::subject(&adapter)?.photos.into_iter().next().context("the adapter has no photos")?;
            Some(photo.square(adapter.manifest.side as u32))
        } else {
            None
        };
        let defaults = adapter.manifest.settings.clone();
        let (matches, weight) = (defaults.sampling.dreammatcher, defaults.sampling.matching_guidance);
        let studio = Self {
            base,
            learned,
            reference,
            loras: Vec::new(),
            identity: digest(&serialised(&tensors, &[])?, 16),
            matching: None,
            defaults,
            adapter: Some(adapter),
            has_subject: true,
            others: None,
        };
        if matches { studio.matched(Some(weight).filter(|&weight| weight > 0.)) } else { Ok(studio) }
    }

    /// The same base with ELITE's encoder on the subject's first photo.
    ///
    /// # Errors
    /// As [`elite::open`].
    pub fn with_elite(self, files: &Files, subject: &Subject, offline: bool) -> Result<Self> {
        let photo = subject.photos.first().context("the subject has no photo")?;
        let learned = elite::open(&self.base, files, photo, offline)?;
        let mut vectors = vec![learned.word.clone()];
        vectors.extend(learned.local.as_ref().map(|local| local.patches.flatten_all()).transpose()?);
        let vectors: BTreeMap<String, Tensor> =
            vectors.into_iter().enumerate().map(|(i, vector)| (i.to_string(), vector)).collect();
        let identity = format!("elite {} {}", files.details, digest(&serialised(&vectors, &[])?, 16));
        Ok(Self { learned: Box::new(learned), identity, has_subject: true, ..self })
    }

    /// The same with pictures that DreamMatcher matches to the first photo; `guidance` is the weight of its semantic matching
    /// guidance, if it shall have any.
    ///
    /// # Errors
    /// [`Usage`] without an adapter; if its photos cannot be read.
    pub fn matched(mut self, guidance: Option<f64>) -> Result<Self> {
        let Some(adapter) = &self.adapter else {
            bail!(Usage("--dreammatcher matches pictures to the photos of an adapter: it needs one".into()));
        };
        let word = match adapter.manifest.settings.training.method {
            MethodName::TextualInversion => Word::Placeholder,
            _ => Word::Class(adapter.manifest.class.clone()),
        };
        let (photo, side) = (page::subject(adapter)?.photos.into_iter().next(), self.side() as u32);
        let photo = photo.context("the adapter has no photos")?.image;
        self.reference = Some(imageops::resize(&photo, side, side, FilterType::Nearest));
        self.learned = Box::new(DreamMatcher::new(self.learned, word, Options { guidance, ..Options::default() }));
        self.matching = Some(guidance.unwrap_or(0.));
        self.identity += &format!(" dreammatcher {}", guidance.unwrap_or(0.));
        Ok(self)
    }

    /// The same with more adapters, whose subjects the prompts call `S2*` and so on.
    ///
    /// # Errors
    /// [`Usage`] without an adapter; if one cannot be read or is of another base or method.
    pub fn joined(self, more: &[Adapter]) -> Result<Self> {
        let Some(adapter) = &self.adapter else {
            bail!(Usage("--adapter of several subjects: the first one is missing".into()));
        };
        let members = || std::iter::once(adapter).chain(more);
        let folders: Vec<String> = members().map(|a| a.folder.display().to_string()).collect();
        let classes: Vec<String> = members().map(|a| a.manifest.class.clone()).collect();
        let all = members().map(|member| member.tensors(&self.base)).collect::<Result<Vec<_>>>()?;
        // what both kinds of things are drawn in is to stay as it is
        let templates = [Kind::Live, Kind::Object].map(builtin).into_iter();
        let templates: Vec<String> = templates.flat_map(|set| [set.unstylised, set.stylised].concat()).collect();
        let captions = classes.iter().flat_map(|class| templates.iter().map(|template| fill(template, class)));
        let members = all.iter().zip(&classes).map(|(tensors, class)| Member { tensors, class });
        let learned = Several::merge(&self.base, &members.collect::<Vec<_>>(), &captions.collect::<Vec<_>>());
        let learned = learned.with_context(|| format!("{} cannot be drawn in one picture", folders.join(" and ")))?;
        let bytes = all.iter().map(|tensors| serialised(tensors, &[])).collect::<Result<Vec<_>>>()?;
        Ok(Self { learned: Box::new(learned), reference: None, identity: digest(&bytes.concat(), 16), ..self })
    }

    /// The same, drawing on the machine's other cards too, where `open` makes it again.
    pub(super) fn on_all(self, machine: &Machine, open: impl Fn(Machine) -> Result<Self> + Sync + 'static) -> Self {
        let (cards, machine) = (machine.other_cards(&self.base), machine.clone());
        let set = move |card| -> Result<Set> {
            let Self { base, learned, .. } = open(machine.on_card(card))?;
            Ok(Set { base, learned })
        };
        let open: Box<Open> = Box::new(set);
        Self { others: Some((cards, open)), ..self }
    }

    /// Side of the pictures by default.
    pub fn side(&self) -> usize {
        match (&self.adapter, self.defaults.training.side) {
            (Some(adapter), _) => adapter.manifest.side,
            (None, 0) => self.base.side(),
            (None, side) => side,
        }
    }

    /// The subject's class word.
    pub fn class(&self) -> &str {
        self.adapter.as_ref().map_or("", |a| &a.manifest.class)
    }

    /// The default way of drawing.
    pub fn style<'a>(&'a self, negative: &'a str, reference: Option<&'a RgbImage>) -> Style<'a> {
        let side = self.side();
        Style {
            negative,
            sampler: self.defaults.sampling.sampler,
            steps: self.defaults.sampling.steps,
            guidance: self.defaults.sampling.guidance,
            guidance_rescale: self.defaults.sampling.guidance_rescale,
            size: (side, side),
            reference: reference.map(|photo| (photo, self.class())),
            reference_noise: self.defaults.rra.reference_noise,
            special: Special::default(),
        }
    }

    /// Draws `orders` into `folder` with what was learnt, and gives the files. Each is written as soon as it is
    /// finished; those that an earlier call drew from the same order in the same way are left as they are.
    ///
    /// # Errors
    /// If a picture cannot be drawn or written; [`Interrupted`] if the user stops it.
    pub fn draw(
        &self,
        style: &Style,
        orders: &[Order],
        folder: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PathBuf>> {
        let others = self.others.as_ref().map(|(cards, open)| (&cards[..], open.as_ref()));
        self.draw_with((self.learned.as_ref(), others), &self.identity, style, orders, folder, observer)
    }

    /// The same with the base alone.
    ///
    /// # Errors
    /// As [`draw`](Self::draw).
    pub fn draw_plain(
        &self,
        style: &Style,
        orders: &[Order],
        folder: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PathBuf>> {
        let open = self.others.as_ref().map(|(_, open)| {
            move |card: usize| -> Result<Set> { Ok(Set { learned: Box::new(BaseAlone), ..open(card)? }) }
        });
        let others = self.others.as_ref().zip(open.as_ref()).map(|((cards, _), open)| (&cards[..], open as &Open));
        self.draw_with((&BaseAlone, others), "", style, orders, folder, observer)
    }

    fn draw_with(
        &self,
        (learned, others): (&dyn Learned, Option<(&[usize], &Open)>),
        identity: &str,
        style: &Style,
        orders: &[Order],
        folder: &Path,
        observer: &mut dyn Observer,
    ) -> Result<Vec<PathBuf>> {
        let name =
            |order: &Order| -> Result<PathBuf> { Ok(folder.join(file_name(&self.base, order, style, identity)?)) };
        sweep_old(folder)?;
        let paths = orders.iter().map(name).collect::<Result<Vec<_>>>()?;
        let missing: Vec<usize> = (0..paths.len()).filter(|&i| !paths[i].is_file()).collect();
        if missing.len() < paths.len() {
            let (there, all) = (paths.len() - missing.len(), paths.len());
            observer.info(&format!("{there} of {all} pictures are in {} already", folder.display()));
        }
        let chosen: Vec<Order> = missing.iter().map(|&i| orders[i].clone()).collect();
        observer.begin("Drawing", chosen.len() * style.taken(), 0);
        let mut finished = paths.len() - missing.len();
        let mut sketches = Sketches::new(folder);
        let drawn = draw_on_all(&self.base, learned, others, style, &chosen, |drawn| match drawn {
            Drawn::Steps(steps) => {
                sketches.show()?;
                observer.go_on(steps)
            }
            Drawn::Sketch(i, picture) => {
                sketches.put(i, picture);
                Ok(())
            }
            Drawn::Picture(i, picture) => {
                let (path, order) = (&paths[missing[i]], &chosen[i]);
                let parameters = self.parameters(order, style, !identity.is_empty());
                save_png(path, &picture, &[("parameters", &parameters.to_string())])?;
                finished += 1;
                sketches.done(i);
                observer.tell(Note::Picture(path));
                Ok(())
            }
            Drawn::Lost(text) => {
                observer.warn(&text);
                Ok(())
            }
        });
        sketches.end();
        observer.end();
        if drawn.as_ref().is_err_and(|error| error.is::<Interrupted>()) {
            let all = paths.len();
            observer.info(&format!(
                "{finished} of {all} pictures are in {}: the same command draws the others",
                folder.display()
            ));
        }
        drawn.map(|()| paths)
    }

    /// What the text of a picture says that was drawn with what was learnt.
    pub(super) fn parameters_of_learned<'a>(&'a self, order: &'a Order, style: &'a Style) -> Parameters<'a> {
        self.parameters(order, style, true)
    }

    fn parameters<'a>(&'a self, order: &'a Order, style: &'a Style, of_learned: bool) -> Parameters<'a> {
        Parameters {
            prompt: &order.prompt,
            negative: style.negative,
            steps: style.steps,
            sampler: style.sampler.title(),
            guidance: style.guidance,
            guidance_rescale: style.guidance_rescale,
            seed: style.special.variation.map_or(order.seed, |(seed, _)| seed),
            others: self.others(order, style, of_learned),
            width: style.size.0 as u32,
            height: style.size.1 as u32,
            model: &self.base.name,
        }
    }

    /// What a picture's text says besides, in the words of AUTOMATIC1111's web UI where it has some.
    fn others(&self, order: &Order, style: &Style, of_learned: bool) -> Vec<(&'static str, String)> {
        let Special { start, variation, dial, .. } = &style.special;
        let mut others = Vec::new();
        if let Some(start) = start {
            others.push(("Denoising strength", start.strength.to_string()));
        }
        if order.init_latents.is_some() {
            others.push(("Initial latents", "given".into()));
        }
        if let Some((_, share)) = variation {
            others.extend([("Variation seed", order.seed.to_string()), ("Variation seed strength", share.to_string())]);
        }
        let weights = [("S low", dial.low), ("S high", dial.high), ("Reference strength", dial.reference)];
        others.extend(weights.into_iter().filter(|(_, weight)| *weight != 1.).map(|(name, w)| (name, w.to_string())));
        if let (true, Some(adapter)) = (of_learned, &self.adapter) {
            let name = adapter.folder.file_name().unwrap_or_default().to_string_lossy();
            others.push(("Adapter", name.into()));
            match (&self.reference, style.reference) {
                (Some(_), None) => others.push(("Reference", "none".into())),
                (Some(own), Some((photo, _))) if own != photo => others.push(("Reference", "another photo".into())),
                _ => {}
            }
        }
        if let Some(guidance) = self.matching.filter(|_| of_learned && style.reference.is_some()) {
            others.push(("DreamMatcher", "true".into()));
            others.extend((guidance != 0.).then(|| ("Matching guidance", guidance.to_string())));
        }
        let name = |lora: &WeightedFile| {
            format!("{}:{}", lora.file.file_stem().unwrap_or_default().to_string_lossy(), lora.weight)
        };
        if !self.loras.is_empty() {
            others.push(("LoRAs", self.loras.iter().map(name).collect::<Vec<_>>().join(" ")));
        }
        others
    }
}
