//! `eqdiff sample`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use clap::Args;
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::{MachineArgs, Outcome, Usage, adapter_folder, make_folder, ui};
use crate::adapter::{Adapter, load_tensors};
use crate::base::{Base, MINI};
use crate::evaluation::prompts;
use crate::images;
use crate::images::png::{Parameters, save_png};
use crate::method::Customisation;
use crate::model::tokenizer::PLACEHOLDER;
use crate::report::contact_sheet;
use crate::sampling::{Order, Style, draw, latent_size};

const EXAMPLES: &str = "\
Examples:
  eqdiff sample --prompt \"S* dog in van gogh style\"
  eqdiff sample --prompts prompts.txt --count 4 --seed 7 --out drawn
  eqdiff sample --base sd14 --no-adapter --prompt \"a dog on the moon\"";

/// Arguments of `sample`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct SampleArgs {
    /// What to draw; S* stands for the subject. Repeatable
    #[arg(long, value_name = "TEXT", required_unless_present = "prompts")]
    pub prompt: Vec<String>,
    /// A file with a prompt in each line ({} or S* stands for the subject, # begins a comment)
    #[arg(long, value_name = "FILE")]
    pub prompts: Option<PathBuf>,
    /// The adapter's folder [default: the last one trained]
    #[arg(long, value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Draw with the base alone
    #[arg(long, conflicts_with = "adapter")]
    pub no_adapter: bool,
    /// What the pictures shall not show
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub negative: String,
    /// DDIM steps [default: the adapter's setting]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Guidance scale [default: the adapter's setting]
    #[arg(long, value_name = "X")]
    pub guidance: Option<f64>,
    /// Pictures of each prompt
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub count: usize,
    /// The seed of the first picture; the others count up
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Size in pixels [default: the base's]
    #[arg(long, value_name = "WxH")]
    pub size: Option<String>,
    /// The photo of the subject that reference attention looks at [default: the first of the training]
    #[arg(long, value_name = "PHOTO")]
    pub reference: Option<PathBuf>,
    /// Draw without reference attention
    #[arg(long, conflicts_with = "reference")]
    pub no_reference: bool,
    /// Where the pictures go
    #[arg(long, value_name = "DIR", default_value = "outputs/samples")]
    pub out: PathBuf,
    /// Start from this noise: a safetensors file with one tensor [1, 4, h, w]
    #[arg(long, value_name = "FILE")]
    pub init_latents: Option<PathBuf>,
    /// The base [default: the adapter's]
    #[arg(long)]
    pub base: Option<String>,
    #[command(flatten)]
    machine: MachineArgs,
}

/// Draws and saves.
pub fn run(args: &SampleArgs) -> Result<Outcome> {
    let adapter = if args.no_adapter { None } else { Some(Adapter::open(&adapter_folder(args.adapter.as_deref())?)?) };
    let studio = Studio::open(&args.machine, args.base.as_deref(), adapter)?;
    let texts = texts(args, &studio)?;
    let (base, side) = (&studio.base, studio.side());
    let size = args.size.as_deref().map(parse_size).transpose()?.unwrap_or((side, side));
    let (width, height) = latent_size(base, size).map_err(|e| Usage(format!("--size: {e}")))?;
    let init_latents = args.init_latents.as_deref().map(|p| init_latents(p, base, (width, height))).transpose()?;
    let reference = match (&args.reference, args.no_reference) {
        (_, true) => None,
        (Some(path), _) => Some(square(path, side)?),
        (None, false) => studio.reference.clone(),
    };
    warn_of_prompts(&texts, &studio)?;
    let mut orders = Vec::new();
    for (i, text) in texts.iter().enumerate() {
        for j in 0..args.count {
            let seed = args.seed + (i * args.count + j) as u64;
            orders.push(Order { prompt: text.clone(), seed, init_latents: init_latents.clone() });
        }
    }
    let mut style = studio.style(&args.negative, reference.as_ref());
    style.size = size;
    style.steps = args.steps.unwrap_or(style.steps);
    style.guidance = args.guidance.unwrap_or(style.guidance);
    base.scheduler.ddim(style.steps).map_err(|e| Usage(format!("--steps: {e}")))?;
    if !style.guidance.is_finite() {
        bail!(Usage("--guidance: give a finite number".into()));
    }
    make_folder(&args.out)?;
    let saved = studio.draw_and_save(studio.customisation.as_ref(), &style, &orders, &args.out)?;
    if saved.len() > 1 {
        let columns = if args.count > 1 { args.count.min(6) } else { saved.len().min(4) };
        let sheet = args.out.join("contact-sheet.png");
        let cells: Vec<_> = saved.iter().zip(&orders).map(|(s, o)| (s.1.clone(), o.prompt.clone())).collect();
        save_png(&sheet, &contact_sheet(&cells, columns), &[])?;
        eprintln!("{} pictures in {}, all on {}", saved.len(), args.out.display(), sheet.display());
    } else {
        for (path, _) in &saved {
            eprintln!("Picture: {}", path.display());
        }
    }
    Ok(Outcome::Done)
}

/// A base and perhaps an adapter, ready to draw.
pub struct Studio {
    pub base: Base,
    pub customisation: Option<Customisation>,
    pub adapter: Option<Adapter>,
    /// The photo that reference attention looks at by default.
    pub reference: Option<RgbImage>,
    defaults: crate::settings::Settings,
}

impl Studio {
    pub fn open(machine: &MachineArgs, base: Option<&str>, adapter: Option<Adapter>) -> Result<Self> {
        let of_adapter = adapter.as_ref().map(|a| a.manifest.base.as_str());
        let name = base.or(of_adapter).unwrap_or(MINI);
        let base = machine.base(name)?;
        let mut layers = crate::settings::Layers::new()?;
        if let Some(toml) = Base::defaults(name, machine.offline)? {
            layers = layers.over(&toml, &format!("eqdiff.toml of the base {name}"))?;
        }
        let customisation = adapter.as_ref().map(|adapter| adapter.customisation(&base)).transpose()?;
        let reference = match (&adapter, customisation.as_ref().is_some_and(|c| c.has_reference())) {
            (Some(adapter), true) => {
                let subject = crate::app::page::subject(adapter)?;
                let photo = subject.photos.first().context("the adapter has no photos")?;
                Some(photo.square(adapter.manifest.side as u32))
            }
            _ => None,
        };
        let settings = adapter.as_ref().map(|a| a.manifest.settings.clone());
        let defaults = settings.map_or_else(|| layers.settings(), Ok)?;
        Ok(Self { base, customisation, adapter, reference, defaults })
    }

    /// Side of the pictures by default.
    pub fn side(&self) -> usize {
        self.adapter.as_ref().map_or_else(|| self.base.side(), |a| a.manifest.side)
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
            steps: self.defaults.sampling.steps,
            guidance: self.defaults.sampling.guidance,
            size: (side, side),
            reference: reference.map(|photo| (photo, self.class())),
            reference_noise: self.defaults.rra.reference_noise,
        }
    }

    /// Draws `orders` and writes them to `folder`, in groups, so that what is drawn is saved soon.
    pub fn draw_and_save(
        &self,
        customisation: Option<&Customisation>,
        style: &Style,
        orders: &[Order],
        folder: &Path,
    ) -> Result<Vec<(PathBuf, RgbImage)>> {
        let bar = ui::bar("Drawing", orders.len() * style.steps);
        let mut saved = Vec::with_capacity(orders.len());
        for orders in orders.chunks(32) {
            let images = draw(&self.base, customisation, style, orders, |count| ui::advance(&bar, count))?;
            for (order, image) in orders.iter().zip(images) {
                let path = free_name(folder, &order.prompt, order.seed);
                let parameters = Parameters {
                    prompt: &order.prompt,
                    negative: style.negative,
                    steps: style.steps,
                    sampler: "DDIM",
                    guidance: style.guidance,
                    seed: order.seed,
                    width: image.width(),
                    height: image.height(),
                    model: &self.base.name,
                };
                save_png(&path, &image, &[("parameters", &parameters.to_string())])?;
                saved.push((path, image));
            }
        }
        bar.finish_and_clear();
        Ok(saved)
    }
}

/// A file name made of the prompt's words and the seed that no file has yet.
fn free_name(folder: &Path, prompt: &str, seed: u64) -> PathBuf {
    let mut words: String = prompt.to_lowercase().chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    while words.contains("--") {
        words = words.replace("--", "-");
    }
    let words: String = words.trim_matches('-').chars().take(60).collect();
    let stem = format!("{words}-{seed}");
    let first = folder.join(format!("{stem}.png"));
    if !first.exists() {
        return first;
    }
    (2..).map(|n| folder.join(format!("{stem}-{n}.png"))).find(|path| !path.exists()).unwrap_or(first)
}

fn texts(args: &SampleArgs, studio: &Studio) -> Result<Vec<String>> {
    let mut texts = args.prompt.clone();
    if let Some(path) = &args.prompts {
        let subject = match studio.class() {
            "" => PLACEHOLDER.to_string(),
            class => format!("{PLACEHOLDER} {class}"),
        };
        texts.extend(prompts::read_file(path)?.iter().map(|template| prompts::fill(template, &subject)));
    }
    if texts.is_empty() || args.count == 0 {
        bail!(Usage("nothing to draw: give --prompt, --prompts with at least one line, and a --count above 0".into()));
    }
    Ok(texts)
}

/// Says what was cut off long prompts, and which prompts leave out the subject.
fn warn_of_prompts(texts: &[String], studio: &Studio) -> Result<()> {
    for text in texts {
        let tokens = studio.base.tokenizer.encode(text, PLACEHOLDER)?;
        if let Some(cut) = &tokens.cut {
            eprintln!("Warning: the prompt is longer than {} tokens; cut off: {cut:?}", tokens.ids.len());
        }
        match (&studio.adapter, tokens.placeholder.is_empty()) {
            (Some(_), true) if tokens.placeholder_cut => {
                eprintln!(
                    "Warning: {PLACEHOLDER}, which stands for the subject, is in what was cut off: put it in front"
                );
            }
            (Some(adapter), true) => eprintln!(
                "Warning: {text:?} has no {PLACEHOLDER}, which stands for the subject: try \"{PLACEHOLDER} {}\"",
                adapter.manifest.class
            ),
            (None, false) => {
                eprintln!("Warning: without an adapter {PLACEHOLDER} stands for nothing and is left out of {text:?}");
            }
            _ => {}
        }
    }
    Ok(())
}

fn parse_size(text: &str) -> Result<(usize, usize)> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
    sides.ok_or_else(|| Usage(format!("--size {text}: give width and height in pixels, e.g. 512x512")).into())
}

fn square(path: &Path, side: usize) -> Result<RgbImage> {
    let image = images::open(path)?;
    Ok(imageops::resize(&image, side as u32, side as u32, FilterType::CatmullRom))
}

fn init_latents(path: &Path, base: &Base, (width, height): (usize, usize)) -> Result<Tensor> {
    let tensors = load_tensors(path, &base.device)?;
    let (Some((name, latents)), 1) = (tensors.iter().next(), tensors.len()) else {
        bail!("{} must hold exactly one tensor, it has {}", path.display(), tensors.len());
    };
    if latents.dims() != [1, 4, height, width] {
        let shape = latents.dims();
        bail!("{name} in {} has shape {shape:?}, expected [1, 4, {height}, {width}]", path.display());
    }
    Ok(latents.clone())
}
