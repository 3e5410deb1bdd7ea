//! `eqdiff sample`.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use super::{MachineArgs, Outcome};
use crate::app::draw::{Reference, Request, Seed, Source, Turned, draw};
use crate::app::grid::{Axis, option};
use crate::app::{Observer, Usage, WeightedFile};
use crate::method::elite::{DETAILS, Files, VISION};
use crate::settings::SamplerName;

const EXAMPLES: &str = "\
Examples:
  eqdiff sample --prompt \"S* dog in van gogh style\"
  eqdiff sample --prompts prompts.txt --count 4 --seed 7 --out drawn
  eqdiff sample --prompt \"a S* dog\" --style Ink --styles webui/styles.csv
  eqdiff sample --prompt \"a S* dog\" --sampler dpmpp-2m-karras --steps 25 --guidance-rescale 0.7
  eqdiff sample --prompt \"a S* dog\" --explain
  eqdiff sample --prompt \"a S* dog\" --from beach.jpg --strength 0.6               # from a picture
  eqdiff sample --prompt \"a S* teapot\" --from shop.jpg --mask place.png           # into a photo
  eqdiff sample --prompt \"a S* dog\" --grid reference=0,0.5,1 --grid guidance=5,7.5,12.5
  eqdiff sample --prompt \"a S* dog in van gogh style\" --high 0.5 --reference-strength 0.5
  eqdiff sample --prompt \"a S* dog\" --seed 7 --variations 0.2 --count 6 --preview 5
  eqdiff sample --adapter outputs/dog --adapter outputs/clock --prompt \"a S* dog beside a S2* clock\"
  eqdiff sample --prompt \"a S* dog\" --lora watercolour.safetensors:0.8
  eqdiff sample --like drawn/s-dog-7-1a2b3c4d.png --count 4 --guidance 9
  eqdiff sample --base sd14 --no-adapter --prompt \"a dog on the moon\"";

/// Arguments of `sample`.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct SampleArgs {
    /// What to draw; S* stands for the subject. Repeatable
    #[arg(long, value_name = "TEXT", required_unless_present_any = ["prompts", "like"])]
    prompt: Vec<String>,
    /// A file with a prompt in each line ({} or S* stands for the subject, # begins a comment); a line may have
    /// kohya's flags: --n negative --w width --h height --d seed --l guidance --s steps --ss sampler
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// The adapter's folder [default: the last one trained]. Repeated: subjects in one picture, which prompts call
    /// S*, S2* and so on; they are drawn without reference attention
    #[arg(long, value_name = "DIR")]
    adapter: Vec<PathBuf>,
    /// Draw with the base alone
    #[arg(long, conflicts_with = "adapter")]
    no_adapter: bool,
    /// Draw with ELITE, which trains nothing: the folder of its global_mapper and local_mapper (.pt or .safetensors)
    #[arg(long, value_name = "DIR", requires = "subject", conflicts_with_all = ["adapter", "no_adapter", "dreammatcher"])]
    elite: Option<PathBuf>,
    /// With --elite: the subject, whose first photo and mask are taken
    #[arg(long, value_name = "NAME_OR_DIR", requires = "elite")]
    subject: Option<String>,
    /// With --elite: its vision tower
    #[arg(long, value_name = "NAME_OR_DIR", requires = "elite", default_value = VISION)]
    elite_vision: String,
    /// With --elite: weight of its details (0: the word alone)
    #[arg(long, value_name = "X", requires = "elite", default_value_t = DETAILS)]
    details: f64,
    /// Draw like this picture: its prompts, seed, size and settings, as far as they are not given here
    #[arg(long, value_name = "PICTURE")]
    like: Option<PathBuf>,
    /// What the pictures shall not show
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
    /// A style of AUTOMATIC1111's styles.csv that is added to every prompt. Repeatable
    #[arg(long, value_name = "NAME")]
    style: Vec<String>,
    /// The file of the styles [default: styles.csv]
    #[arg(long, value_name = "FILE", requires = "style")]
    styles: Option<PathBuf>,
    /// The way from noise to picture [default: the adapter's setting]
    #[arg(long, value_name = "NAME", value_enum)]
    sampler: Option<SamplerName>,
    /// Sampling steps [default: the adapter's setting]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale [default: the adapter's setting]
    #[arg(long, value_name = "X")]
    guidance: Option<f64>,
    /// Against overexposure by strong guidance: how much of it is brought to the spread of the prediction
    /// without guidance, 0 to 1; 0.7 is usual [default: the adapter's setting]
    #[arg(long, value_name = "X")]
    guidance_rescale: Option<f64>,
    /// Pictures of each prompt
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: usize,
    /// The seed of the first picture; the others count up. -1: any [default: 0]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<Seed>,
    /// Size in pixels [default: the base's]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<(usize, usize)>,
    /// The photo of the subject that reference attention looks at [default: the first of the training]
    #[arg(long, value_name = "PHOTO", conflicts_with = "no_adapter")]
    reference: Option<PathBuf>,
    /// Draw without reference attention
    #[arg(long, conflicts_with = "reference")]
    no_reference: bool,
    /// Say how the first picture came about, on a page beside it: where reference attention looks, what is fused, the
    /// bands, and what each embedding draws alone
    #[arg(long, conflicts_with = "no_adapter")]
    explain: bool,
    /// Start from this picture instead of noise alone
    #[arg(long, value_name = "PICTURE")]
    from: Option<PathBuf>,
    /// How much of the picture in --from is gone when drawing starts, up to 1 [default: 0.75, with --mask 1]
    #[arg(long, value_name = "X", requires = "from")]
    strength: Option<f64>,
    /// Draw only where this mask of the picture in --from is white; everything else keeps its pixels
    #[arg(long, value_name = "MASK", requires = "from")]
    mask: Option<PathBuf>,
    /// Draw pictures that are near to the first one: how far their noise is from its, 0 to 1. With --count
    #[arg(long, value_name = "X", conflicts_with = "init_latents")]
    variations: Option<f64>,
    /// How strongly the low band's embedding shows: layout, large shapes, colours; 0 to 2 [default: 1]
    #[arg(long, value_name = "X", conflicts_with = "no_adapter")]
    low: Option<f64>,
    /// How strongly the high band's embedding shows: edges, texture; 0 to 2 [default: 1]
    #[arg(long, value_name = "X", conflicts_with = "no_adapter")]
    high: Option<f64>,
    /// How strongly reference attention shows; less is more of the prompt's style; 0 to 2 [default: 1]
    #[arg(long, value_name = "X", conflicts_with_all = ["no_adapter", "no_reference"])]
    reference_strength: Option<f64>,
    /// A sheet on which a setting takes several values, columns; a second one has rows: reference, low, high,
    /// guidance, guidance-rescale, steps, sampler, strength or variations = X,Y,...
    #[arg(long, value_name = "SETTING=X,Y")]
    grid: Vec<Axis>,
    /// After every so many steps write the pictures as they are so far to preview.png beside them
    #[arg(long, value_name = "STEPS")]
    preview: Option<usize>,
    /// A LoRA of kohya, PEFT or diffusers that is added to the base, by a weight [default: 1]. Repeatable
    #[arg(long, value_name = "FILE[:WEIGHT]")]
    lora: Vec<WeightedFile>,
    /// Match the pictures to a photo of the subject (DreamMatcher), whatever method the adapter was trained by
    #[arg(long, conflicts_with_all = ["no_adapter", "no_reference", "reference_strength", "explain"])]
    dreammatcher: bool,
    /// Weight of DreamMatcher's semantic matching guidance, e.g. 50 [default: none, as it was released]
    #[arg(long, value_name = "X", requires = "dreammatcher", allow_hyphen_values = true)]
    matching_guidance: Option<f64>,
    /// Where the pictures go
    #[arg(long, value_name = "DIR", default_value = "outputs/samples")]
    out: PathBuf,
    /// Start from this noise: a safetensors file with one tensor [1, 4, h, w]
    #[arg(long, value_name = "FILE")]
    init_latents: Option<PathBuf>,
    /// The base [default: the adapter's]
    #[arg(long)]
    base: Option<String>,
    #[command(flatten)]
    machine: MachineArgs,
}

pub(super) fn run(args: SampleArgs, observer: &mut dyn Observer) -> Result<Outcome> {
    let given = [
        ("reference", args.reference_strength.is_some()),
        ("low", args.low.is_some()),
        ("high", args.high.is_some()),
        ("guidance", args.guidance.is_some()),
        ("guidance-rescale", args.guidance_rescale.is_some()),
        ("steps", args.steps.is_some()),
        ("sampler", args.sampler.is_some()),
    ];
    if let Some(name) = args.grid.iter().map(Axis::name).find(|name| given.contains(&(*name, true))) {
        bail!(Usage(format!("{} is what changes along --grid {name}=...: leave one of them out", option(name))));
    }
    let request = Request {
        prompts: args.prompt,
        prompt_file: args.prompts,
        more: args.adapter.iter().skip(1).cloned().collect(),
        adapter: match (args.adapter.into_iter().next(), args.elite, args.subject) {
            (_, Some(mappers), Some(subject)) => {
                Source::Elite(Files { mappers, vision: args.elite_vision, details: args.details }, subject)
            }
            _ if args.no_adapter => Source::BaseAlone,
            (Some(folder), ..) => Source::Adapter(folder),
            (None, ..) => Source::LastAdapter,
        },
        base: args.base,
        loras: args.lora,
        like: args.like,
        negative: args.negative,
        styles: args.style,
        style_file: args.styles,
        sampler: args.sampler,
        steps: args.steps,
        guidance: args.guidance,
        guidance_rescale: args.guidance_rescale,
        count: args.count,
        seed: args.seed,
        size: args.size,
        reference: match (args.reference, args.no_reference) {
            (_, true) => Reference::None,
            (Some(photo), false) => Reference::Photo(photo),
            (None, false) => Reference::Default,
        },
        dreammatcher: args.dreammatcher,
        matching_guidance: args.matching_guidance,
        init_latents: args.init_latents,
        explain: args.explain,
        from: args.from,
        strength: args.strength,
        anew: args.mask,
        variations: args.variations,
        variation_of: None,
        dial: Turned { low: args.low, high: args.high, reference: args.reference_strength },
        grid: args.grid,
        sketch: args.preview,
        out: args.out,
        machine: args.machine.into(),
    };
    draw(&request, observer).map(|_| Outcome::Done)
}

/// Width and height as they are typed.
fn size(text: &str) -> Result<(usize, usize), String> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some((w.trim().parse().ok()?, h.trim().parse().ok()?)));
    sides.ok_or_else(|| "give width and height in pixels, e.g. 512x512".into())
}
