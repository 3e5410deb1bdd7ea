//! Evaluation of an adapter: the built-in prompts drawn and scored, and a page that shows it all.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::draw::{Seed, Source};
use super::evaluations::{self, Asked, SCORES};
use super::studio::Studio;
use super::{Machine, Nobody, Observer, Usage, page, places};
use crate::adapter::Adapter;
use crate::evaluation::prompts::{self, without_placeholder};
use crate::evaluation::scorer::{Concept, Scorer, Wanted};
use crate::evaluation::scores::{self, Evaluation, Group, ImageScores, Measured, WITHOUT_ADAPTER};
use crate::files::{check_target, check_writable, make_own_folder};
use crate::images;
use crate::model::tokenizer::PLACEHOLDER;
use crate::report::html;
use crate::sampling::Order;

/// What to score, and with what.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff eval --help`
pub struct Request {
    pub metrics: Vec<Wanted>,
    pub adapter: Source,
    pub base: Option<String>,
    pub baseline: bool,
    pub limit: Option<usize>,
    pub seed: Seed,
    pub clip: Option<String>,
    pub dino: Option<String>,
    pub json: Option<PathBuf>,
    /// Where the page goes; none: beside the pictures.
    pub page: Option<PathBuf>,
    pub machine: Machine,
}

impl Request {
    /// The encoders of the metrics, those that suit a base unless others are named.
    ///
    /// # Errors
    /// If one cannot be loaded.
    pub fn scorer(&self, base: &str) -> Result<Scorer> {
        let (device, _) = crate::base::device(&self.machine.device)?;
        let (clip, dino) = (self.clip.as_deref(), self.dino.as_deref());
        Scorer::load(&self.metrics, base, clip, dino, self.machine.offline, &device)
    }
}

/// Draws the built-in prompts with the adapter, scores them, and writes pictures, JSON and a page. Pictures that an
/// earlier call of the same request drew are used again.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if something cannot be read, computed or written; what was drawn stays.
pub fn evaluate(request: &Request, observer: &mut dyn Observer) -> Result<Evaluation> {
    let folder = match &request.adapter {
        Source::Adapter(folder) => folder.clone(),
        Source::LastAdapter => places::adapter(None)?,
        Source::BaseAlone | Source::Elite(..) => bail!(Usage("there is nothing to evaluate without an adapter".into())),
    };
    if request.limit == Some(0) {
        bail!(Usage("--limit 0 leaves no prompt".into()));
    }
    for file in [&request.json, &request.page].into_iter().flatten() {
        check_target(file)?;
    }
    request.page.as_deref().map(html::check_ours).transpose()?;
    request.json.as_deref().map(scores::check_ours).transpose()?;
    let adapter = Adapter::open(&folder)?;
    check_writable(&folder)?;
    let seed = request.seed.number(observer);
    let (opened, base) = (folder.clone(), request.base.clone());
    let studio = Studio::open(&request.machine, base.as_deref(), Some(adapter), observer)?
        .on_all(&request.machine, move |machine| {
            Studio::open(&machine, base.as_deref(), Some(Adapter::open(&opened)?), &mut Nobody)
        });
    let Some(adapter) = &studio.adapter else { bail!("no adapter") };
    let manifest = &adapter.manifest;
    let sampling = &manifest.settings.sampling;
    let asked = Asked {
        adapter: studio.identity.clone(),
        base: studio.base.identity.clone(),
        steps: sampling.steps,
        guidance: sampling.guidance,
        limit: request.limit,
        seed: seed.to_string(),
        dtype: studio.base.precision.to_string(),
        trained: Some(manifest.steps),
    };
    let folder = evaluations::place(&adapter.folder, &asked)?;
    let scorer = request.scorer(&studio.base.name)?;
    let chosen = templates(&manifest.class, request.limit, |prompt| {
        Ok(studio.base.tokenizer.encode(prompt, PLACEHOLDER)?.unknown.is_empty())
    })?;
    let called = manifest.called();
    let order = |(i, (template, _)): (usize, &(String, Group))| Order {
        prompt: prompts::fill(template, &called),
        seed: seed.wrapping_add(i as u64),
        init_latents: None,
    };
    let orders: Vec<Order> = chosen.iter().enumerate().map(order).collect();
    // scores go by the class word, also where the placeholder was learnt alone
    let with_class = format!("{PLACEHOLDER} {}", manifest.class);
    let named: Vec<(String, Group)> =
        chosen.iter().map(|(template, group)| (prompts::fill(template, &with_class), *group)).collect();
    let subject = page::subject(adapter)?;
    let concept: Vec<_> = subject.photos.iter().map(|photo| photo.image.clone()).collect();
    let concept = scorer.concept(&concept, page::truth(&subject))?;
    let style = studio.style("", studio.reference.as_ref());
    let files = studio.draw(&style, &orders, &folder, observer)?;
    let judge = |files: &[PathBuf], observer: &mut dyn Observer| -> Result<Measured> {
        let pictures = files.iter().zip(&named);
        let named = pictures.map(|(file, (prompt, group))| (file.as_path(), Some(prompt.clone()), *group));
        scored(&scorer, named.collect(), &concept, &folder, observer)
    };
    let mut evaluation = Evaluation {
        subject: manifest.subject.clone(),
        photos: subject.photos.len(),
        clip: scorer.names.0.clone(),
        dino: scorer.names.1.clone(),
        measured: judge(&files, observer)?,
        others: Default::default(),
    };
    if request.baseline {
        let below = folder.join("without-adapter");
        make_own_folder(&below)?;
        let plain = |(order, (prompt, _)): (&Order, &(String, Group))| Order {
            prompt: without_placeholder(prompt, PLACEHOLDER),
            ..order.clone()
        };
        let plain: Vec<Order> = orders.iter().zip(&named).map(plain).collect();
        let files = studio.draw_plain(&studio.style("", None), &plain, &below, observer)?;
        evaluation.others.insert(WITHOUT_ADAPTER.into(), judge(&files, observer)?);
    }
    evaluation.write_json(&folder.join(SCORES))?;
    if let Some(path) = &request.json {
        evaluation.write_json(path)?;
    }
    let html = request.page.clone().unwrap_or_else(|| folder.join("report.html"));
    page::write(&html, adapter, &subject, &folder, &evaluation)?;
    observer.info(&format!("Pictures and scores: {}  Page: {}", folder.display(), html.display()));
    Ok(evaluation)
}

/// The built-in templates of a class: unstylised, then stylised, the first of each list that the base knows all words of.
fn templates(class: &str, limit: Option<usize>, known: impl Fn(&str) -> Result<bool>) -> Result<Vec<(String, Group)>> {
    let set = prompts::builtin(prompts::kind_of(class));
    let limit = limit.unwrap_or(usize::MAX);
    let mut chosen = Vec::new();
    for (group, templates) in [(Group::Unstylised, &set.unstylised), (Group::Stylised, &set.stylised)] {
        let mut taken = 0;
        for template in templates {
            if taken == limit || !known(&prompts::fill(template, PLACEHOLDER))? {
                continue;
            }
            taken += 1;
            chosen.push((template.clone(), group));
        }
    }
    Ok(chosen)
}

/// Scores pictures one after another, so that any number of them takes the memory of one.
///
/// # Errors
/// If one cannot be read or scored, or the user stops it.
pub fn scored(
    scorer: &Scorer,
    pictures: Vec<(&Path, Option<String>, Group)>,
    concept: &Concept,
    folder: &Path,
    observer: &mut dyn Observer,
) -> Result<Measured> {
    observer.begin("Scoring", pictures.len(), 0);
    let mut images = Vec::with_capacity(pictures.len());
    for (path, prompt, group) in pictures {
        let picture = images::open(path)?;
        let scores = scorer.scores(&picture, prompt.as_deref(), concept)?;
        let findings = scorer.findings(&picture, prompt.as_deref(), concept)?;
        let file = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        images.push(ImageScores { file, prompt: prompt.unwrap_or_default(), group, scores, findings });
        observer.go_on(1)?;
    }
    observer.end();
    Ok(Measured::new(images))
}
