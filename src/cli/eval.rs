//! `eqdiff eval`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use image::RgbImage;

use super::sample::Studio;
use super::{MachineArgs, Outcome, Usage, adapter_folder, fresh_folder, make_folder};
use crate::adapter::Adapter;
use crate::app::page;
use crate::base::MINI;
use crate::evaluation::prompts::{self, without_placeholder};
use crate::evaluation::report::{Evaluation, Group, ImageScores, Measured, table};
use crate::evaluation::scorer::{Scorer, Wanted};
use crate::images::{self, pictures_in};
use crate::model::tokenizer::PLACEHOLDER;
use crate::report::page::Drawing;
use crate::sampling::Order;

const EXAMPLES: &str = "\
Examples:
  eqdiff eval --metrics clip-t,clip-i,dino
  eqdiff eval --adapter outputs/dog --baseline --limit 8
  eqdiff eval --generated drawn/ --concept photos/ --json scores.json";

/// Arguments of `eval`.
#[derive(Args, Clone)]
#[command(after_help = EXAMPLES)]
pub struct EvalArgs {
    /// Which metrics, separated by commas
    #[arg(long, value_delimiter = ',', value_enum, default_value = "clip-t,clip-i,dino")]
    pub metrics: Vec<Wanted>,
    /// The adapter to score: it draws the built-in prompts [default: the last one trained]
    #[arg(long, value_name = "DIR", conflicts_with = "generated")]
    pub adapter: Option<PathBuf>,
    /// Draw the same prompts without the adapter too, for comparison
    #[arg(long, conflicts_with = "generated")]
    pub baseline: bool,
    /// The first N prompts of each built-in list only
    #[arg(long, value_name = "N", conflicts_with = "generated")]
    pub limit: Option<usize>,
    /// The seed of the first picture; the others count up
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Score the pictures of this folder instead; their prompts are in prompts.json there or in the folder
    /// above, in --prompts, or in the files
    #[arg(long, value_name = "DIR", requires = "concept")]
    pub generated: Option<PathBuf>,
    /// Photos of the subject to compare with
    #[arg(long, value_name = "DIR", requires = "generated")]
    pub concept: Option<PathBuf>,
    /// The prompts of --generated, a line for each picture by name
    #[arg(long, value_name = "FILE", requires = "generated")]
    pub prompts: Option<PathBuf>,
    /// The CLIP: a directory or a repository of the hub [default: as the base's]
    #[arg(long, value_name = "DIR|ID")]
    pub clip: Option<String>,
    /// The DINO: a directory or a repository of the hub [default: as the base's]
    #[arg(long, value_name = "DIR|ID")]
    pub dino: Option<String>,
    /// Write the scores to this file too
    #[arg(long, value_name = "F")]
    pub json: Option<PathBuf>,
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Scores and prints.
pub fn run(args: &EvalArgs) -> Result<Outcome> {
    match (&args.generated, &args.concept) {
        (Some(generated), Some(concept)) => score_folders(args, generated, concept)?,
        _ => {
            let adapter = Adapter::open(&adapter_folder(args.adapter.as_deref())?)?;
            score_adapter(args, adapter, None)?;
        }
    }
    Ok(Outcome::Done)
}

/// Draws the built-in prompts with the adapter, scores them, and writes pictures, JSON and a page.
pub fn score_adapter(args: &EvalArgs, adapter: Adapter, page: Option<&Path>) -> Result<Evaluation> {
    let folder = fresh_folder(&adapter.folder.join("evaluation"));
    let studio = Studio::open(&args.machine, None, Some(adapter))?;
    let Some(adapter) = &studio.adapter else { bail!("no adapter") };
    let manifest = &adapter.manifest;
    let scorer = scorer(args, &manifest.base)?;
    let set = prompts::builtin(prompts::kind_of(&manifest.class));
    let subject = format!("{PLACEHOLDER} {}", manifest.class);
    let limit = args.limit.unwrap_or(usize::MAX);
    let mut orders = Vec::new();
    let mut groups = Vec::new();
    for (group, templates) in [(Group::Unstylised, &set.unstylised), (Group::Stylised, &set.stylised)] {
        for template in templates.iter().take(limit) {
            let seed = args.seed + orders.len() as u64;
            orders.push(Order { prompt: prompts::fill(template, &subject), seed, init_latents: None });
            groups.push(group);
        }
    }
    if orders.is_empty() {
        bail!(Usage("--limit 0 leaves no prompt".into()));
    }
    let photos = page::subject(adapter)?;
    let concept: Vec<RgbImage> = photos.photos.iter().map(|photo| photo.image.clone()).collect();
    make_folder(&folder)?;
    let style = studio.style("", studio.reference.as_ref());
    let drawn = studio.draw_and_save(studio.customisation.as_ref(), &style, &orders, &folder)?;
    let texts: Vec<Option<String>> = orders.iter().map(|order| Some(order.prompt.clone())).collect();
    let measure = |drawn: &[(PathBuf, RgbImage)]| -> Result<Vec<ImageScores>> {
        let pictures: Vec<RgbImage> = drawn.iter().map(|(_, picture)| picture.clone()).collect();
        let scores = scorer.scores(&pictures, &texts, &concept)?;
        let listed = drawn.iter().zip(scores).zip(orders.iter().zip(&groups));
        let mut images = Vec::with_capacity(orders.len());
        for (((path, _), scores), (order, &group)) in listed {
            images.push(ImageScores { file: relative(path, &folder), prompt: order.prompt.clone(), group, scores });
        }
        Ok(images)
    };
    let scored = measure(&drawn)?;
    let mut without = None;
    if args.baseline {
        let below = folder.join("without-adapter");
        make_folder(&below)?;
        let plain = orders
            .iter()
            .map(|order| Order { prompt: without_placeholder(&order.prompt, PLACEHOLDER), ..order.clone() });
        let style = studio.style("", None);
        let pictures = studio.draw_and_save(None, &style, &plain.collect::<Vec<_>>(), &below)?;
        let scores = measure(&pictures)?;
        without = Some((pictures, scores));
    }
    let evaluation = Evaluation {
        subject: manifest.subject.clone(),
        photos: concept.len(),
        clip: scorer.names.0.clone(),
        dino: scorer.names.1.clone(),
        measured: Measured::new(scored.clone()),
        without_adapter: without.as_ref().map(|(_, scores)| Measured::new(scores.clone())),
    };
    println!("{}", table(&evaluation));
    let json = folder.join("evaluation.json");
    evaluation.write_json(&json)?;
    if let Some(path) = &args.json {
        evaluation.write_json(path)?;
    }
    let drawings = drawn.into_iter().zip(scored).enumerate().map(|(i, ((_, picture), scores))| Drawing {
        picture,
        scores,
        without: without.as_ref().map(|(pictures, scores)| (pictures[i].1.clone(), scores[i].scores)),
    });
    let html = page.map_or_else(|| folder.join("report.html"), Path::to_path_buf);
    page::write(&html, adapter, &photos, drawings.collect(), evaluation.clone())?;
    eprintln!("Pictures and scores: {}  Page: {}", folder.display(), html.display());
    Ok(evaluation)
}

fn scorer(args: &EvalArgs, base: &str) -> Result<Scorer> {
    let device = args.machine.device()?;
    let (clip, dino) = (args.clip.as_deref(), args.dino.as_deref());
    Scorer::load(&args.metrics, base, clip, dino, args.machine.offline, &device)
}

fn score_folders(args: &EvalArgs, generated: &Path, concept: &Path) -> Result<()> {
    let all = |folder: &Path| -> Result<(Vec<PathBuf>, Vec<RgbImage>)> {
        let mut paths = pictures_in(folder)?;
        paths.retain(|path| path.file_name().is_none_or(|name| name != "contact-sheet.png"));
        let pictures = paths.iter().map(|path| images::open(path)).collect::<Result<_>>()?;
        Ok((paths, pictures))
    };
    let ((paths, pictures), (_, photos)) = (all(generated)?, all(concept)?);
    let prompts = known_prompts(args, generated, &paths)?;
    if args.metrics.contains(&Wanted::ClipT) && prompts.iter().all(Option::is_none) {
        eprintln!("Warning: CLIP-T is left out: no prompts in prompts.json, in the files, or from --prompts");
    }
    let scorer = scorer(args, MINI)?;
    if scorer.names.0 == MINI && args.clip.is_none() {
        eprintln!(
            "Scored by the embedded encoders; for published numbers: --clip openai/clip-vit-base-patch32 --dino facebook/dino-vits16"
        );
    }
    let scores = scorer.scores(&pictures, &prompts, &photos)?;
    let images = paths.iter().zip(prompts).zip(scores).map(|((path, prompt), scores)| ImageScores {
        file: relative(path, generated),
        prompt: prompt.unwrap_or_default(),
        group: Group::Other,
        scores,
    });
    let evaluation = Evaluation {
        subject: concept.display().to_string(),
        photos: photos.len(),
        clip: scorer.names.0.clone(),
        dino: scorer.names.1.clone(),
        measured: Measured::new(images.collect()),
        without_adapter: None,
    };
    println!("{}", table(&evaluation));
    match &args.json {
        Some(path) => evaluation.write_json(path),
        None => Ok(()),
    }
}

/// The prompt of each picture, as far as it is known.
fn known_prompts(args: &EvalArgs, folder: &Path, paths: &[PathBuf]) -> Result<Vec<Option<String>>> {
    if let Some(file) = &args.prompts {
        let lines = prompts::read_file(file)?;
        if lines.len() != paths.len() {
            bail!(
                "{} has {} prompts for {} pictures in {}",
                file.display(),
                lines.len(),
                paths.len(),
                folder.display()
            );
        }
        return Ok(lines.into_iter().map(Some).collect());
    }
    let places = [Some(folder), folder.parent()].into_iter().flatten().map(|place| place.join("prompts.json"));
    let listed: serde_json::Value = match places.into_iter().find(|path| path.is_file()) {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?
        }
        None => serde_json::Value::Null,
    };
    let prompt = |path: &PathBuf| {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        listed[stem.as_str()].as_str().map(str::to_string).or_else(|| written_prompt(path))
    };
    Ok(paths.iter().map(prompt).collect())
}

/// The prompt in a PNG's parameters.
fn written_prompt(path: &Path) -> Option<String> {
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(path).ok()?));
    let reader = decoder.read_info().ok()?;
    let info = reader.info();
    let latin = info.uncompressed_latin1_text.iter().find(|c| c.keyword == "parameters").map(|c| c.text.clone());
    let parameters = latin.or_else(|| info.utf8_text.iter().find(|c| c.keyword == "parameters")?.get_text().ok())?;
    parameters.lines().next().map(str::to_string)
}

fn relative(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).display().to_string()
}
