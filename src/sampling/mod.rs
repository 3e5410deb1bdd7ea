//! Drawing pictures from prompts.

mod cards;
mod denoise;
pub mod samplers;
mod start;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use image::RgbImage;

use crate::base::Base;
use crate::base::texts::Texts;
use crate::images;
use crate::method::eqdiff::rra::ReferenceNoise;
use crate::method::{Dial, Learned};
use crate::model::tokenizer::PLACEHOLDER;
use crate::ops::{Precision, memory};
use crate::rng;
use crate::settings::SamplerName;
pub use cards::{Open, Set, draw_on_all};
pub use denoise::{
    Draft, Feed, Plan, Progress, Reference, Shown, denoise, guided, invert, look_at, predicted, rescaled,
};
use samplers::{Sampler, sampler};
pub use start::{Inside, Start, between};

/// One picture to draw.
#[derive(Clone, Debug)]
pub struct Order {
    /// The prompt, with the placeholder where the subject goes.
    pub prompt: String,
    /// What its noise is drawn from.
    pub seed: u64,
    /// Given noise [1, 4, h, w] instead.
    pub init_latents: Option<Tensor>,
}

/// What all pictures of a call share.
#[derive(Clone)]
pub struct Style<'a> {
    /// What the pictures shall not show.
    pub negative: &'a str,
    /// The way from noise to latents.
    pub sampler: SamplerName,
    /// Its steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// See [`rescaled`].
    pub guidance_rescale: f64,
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// The photo that the denoiser looks at, a square of the training side, with the class word.
    pub reference: Option<(&'a RgbImage, &'a str)>,
    /// How the reference is fed.
    pub reference_noise: ReferenceNoise,
    /// What most pictures are drawn without.
    pub special: Special<'a>,
}

/// What most pictures are drawn without.
#[derive(Clone, Default)]
pub struct Special<'a> {
    /// The picture that drawing starts from.
    pub start: Option<Start<'a>>,
    /// A seed and a share: the noise is that seed's, and so much of it that of the order's own.
    pub variation: Option<(u64, f64)>,
    /// How strongly what was learnt shows.
    pub dial: Dial,
    /// Steps after which a picture is shown as it is so far, again and again.
    pub sketch: Option<usize>,
}

impl Style<'_> {
    /// Steps that are taken for each picture.
    pub fn taken(&self) -> usize {
        self.steps - self.special.start.map_or(0, |start| start.first(self.steps))
    }
}

/// What [`draw`] and [`draw_on_all`] tell while they work.
pub enum Drawn {
    /// So many picture-steps more are done.
    Steps(usize),
    /// The picture of the order of that place is finished.
    Picture(usize, RgbImage),
    /// The picture of the order of that place as it would be if nothing more changed.
    Sketch(usize, RgbImage),
    /// A card draws no more; a sentence that names it and says why. [`draw_on_all`] alone tells this.
    Lost(String),
}

/// Pictures that share their reference passes: more would share them cheaper, fewer are finished sooner.
const GROUP: usize = 8;

/// Draws `orders` with what was learnt, or with the base alone. Pictures are handed over as they are finished.
///
/// # Errors
/// If the size does not suit the base, the computation fails or gives no finite picture, or `tell` wants to stop.
pub fn draw(
    base: &Base,
    learned: &dyn Learned,
    style: &Style,
    orders: &[Order],
    mut tell: impl FnMut(Drawn) -> Result<()>,
) -> Result<()> {
    let texts = Texts::new(base);
    let Special { start, variation, dial, sketch } = &style.special;
    let turned = if *dial == Dial::default() { None } else { learned.turned(*dial)? };
    let learned = turned.as_deref().unwrap_or(learned);
    let (width, height) = latent_size(base, style.size)?;
    // the placeholder means nothing there
    let negative = learned.text(base, &texts, &style.negative.replace(PLACEHOLDER, " "))?;
    let sampler = sampler(style.sampler, &base.scheduler, style.steps)?;
    // an inversion is stopped between its passes
    let mut reference_of = |(photo, class): (&RgbImage, &str)| {
        let pause = &mut || tell(Drawn::Steps(0));
        reference(base, learned, &texts, (&negative, style), (photo, class), (sampler.as_ref(), pause))
    };
    let looks = looks(learned, style);
    let reference = style.reference.filter(|_| looks).map(&mut reference_of).transpose();
    let plan = Plan {
        learned,
        reference: reference.context("the reference photo")?,
        negative,
        sampler: sampler.as_ref(),
        guidance: style.guidance,
        guidance_rescale: style.guidance_rescale,
        batch: batch(base, learned, style, width * height),
        first: start.map_or(0, |start| start.first(style.steps)),
        start: start.map(|start| start.inside(base)).transpose().context("the picture to start from")?,
        sketch: *sketch,
    };
    let size = block(plan.reference.is_some(), plan.batch);
    let noise = |seed: u64| rng::normal((1, 4, height, width), &mut rng::stream(seed, "latents", 0), &base.device);
    for (i, group) in orders.chunks(size).enumerate() {
        let mut drafts = Vec::with_capacity(group.len());
        for order in group {
            let latents = match (&order.init_latents, variation) {
                (Some(latents), _) => latents.clone(),
                (None, Some((seed, share))) => between(&noise(*seed)?, &noise(order.seed)?, *share)?,
                (None, None) => noise(order.seed)?,
            };
            let seed = variation.map_or(order.seed, |(seed, _)| seed);
            let (text, word) = (learned.text(base, &texts, &order.prompt)?, learned.word(base, &order.prompt)?);
            drafts.push(Draft { text, latents, seed, word });
        }
        denoise(base, &plan, &mut drafts, |progress| match progress {
            Progress::Steps(steps) => tell(Drawn::Steps(steps)),
            Progress::Sketch(j, clean) => {
                tell(Drawn::Sketch(i * size + j, images::from_tensor(&base.pictures(clean)?)?))
            }
        })?;
        for (j, (draft, order)) in drafts.iter().zip(group).enumerate() {
            let picture = base.pictures(&draft.latents)?;
            // the sum of all values is finite only if each of them is
            if !picture.sum_all()?.to_scalar::<f32>()?.is_finite() {
                bail!("the picture of {:?} is not finite: the base or the adapter is damaged", order.prompt);
            }
            let picture = images::from_tensor(&picture)?;
            let picture = match start {
                Some(start) => start.laid_over(picture, base.vae.factor()),
                None => picture,
            };
            tell(Drawn::Picture(i * size + j, picture))?;
        }
    }
    Ok(())
}

/// The pictures 0 to `count` in the blocks in which [`draw`] makes them. A picture depends on its block's other pictures
/// by the rounding of products of other sizes: who goes on with a list that was interrupted, and wants what it would have
/// become without that, draws whole blocks. On a device with memory of its own their size depends on how much is free.
///
/// # Errors
/// If the size does not suit the base.
pub fn blocks(
    base: &Base,
    learned: &dyn Learned,
    style: &Style,
    count: usize,
) -> Result<impl Iterator<Item = std::ops::Range<usize>> + use<>> {
    let (width, height) = latent_size(base, style.size)?;
    let size = block(looks(learned, style), batch(base, learned, style, width * height));
    Ok((0..count).step_by(size).map(move |first| first..count.min(first + size)))
}

/// How many pictures are drawn at a time.
fn block(looks: bool, batch: usize) -> usize {
    if looks { GROUP } else { batch }
}

/// Whether a photo is looked at.
fn looks(learned: &dyn Learned, style: &Style) -> bool {
    style.reference.is_some() && style.special.dial.reference != 0. && learned.recorder().is_some()
}

/// How many pictures with that many latent pixels go through the UNet together.
fn batch(base: &Base, learned: &dyn Learned, style: &Style, pixels: usize) -> usize {
    if learned.guides((style.steps - 1, style.steps)) { 1 } else { together(pixels, base) }
}

/// The photo that all pictures of a call look at.
fn reference(
    base: &Base,
    learned: &dyn Learned,
    texts: &Texts,
    (negative, style): (&Tensor, &Style),
    (photo, class): (&RgbImage, &str),
    (sampler, pause): (&dyn Sampler, &mut dyn FnMut() -> Result<()>),
) -> Result<Reference> {
    let posterior = base.vae.encode(&images::to_tensor(photo, &base.device)?)?;
    let latents = (&posterior.mean * base.vae.config.scaling_factor)?;
    let feed = if learned.inverts() {
        ensure!(style.sampler != SamplerName::Lms, "a photo cannot be inverted between timesteps: use another sampler");
        let (width, height) = style.size;
        ensure!(
            width == height && photo.dimensions() == (width as u32, height as u32),
            "{width}x{height} pixels: a picture that is matched to a photo is a square of the photo's size"
        );
        Feed::Inverted(invert(base, learned, sampler, &latents, &learned.text(base, texts, "")?, pause)?)
    } else {
        match style.reference_noise {
            ReferenceNoise::Clean => Feed::Clean,
            ReferenceNoise::Matched => {
                Feed::Noised(rng::normal(latents.shape(), &mut rng::stream(0, "reference", 0), &base.device)?)
            }
        }
    };
    let text = Tensor::cat(&[negative, &learned.reference_text(base, texts, class)?], 0)?;
    Ok(Reference { latents, feed, text })
}

/// How many pictures with that many latent pixels go through a base's UNet together: small ones do, large ones fill the
/// machine alone. A device with memory of its own takes more, as far as that reaches.
pub fn together(pixels: usize, base: &Base) -> usize {
    // of all, not of what is free now: a list that is gone on with is drawn in the same blocks
    fitting(pixels, memory(&base.device).map(|memory| memory.total), base.precision)
}

/// The same for so many bytes of the device's own, if it has any.
fn fitting(pixels: usize, bytes: Option<u64>, precision: Precision) -> usize {
    let (at_once, room) = match bytes {
        Some(bytes) => {
            let maps = if precision == Precision::Bf16 { 0 } else { MAPS * pixels.pow(2) };
            (8 * 4096, bytes as usize / (PICTURE / 4096 * pixels + maps))
        }
        None => (4096, usize::MAX),
    };
    (at_once / pixels).min(room).clamp(1, 8)
}

/// Bytes of a device that a guided picture of 64 x 64 latent pixels takes in the UNet, about, with room to spare.
const PICTURE: usize = 3 << 29;

/// Bytes besides for every two of its pixels where attention is composed, as it is of all but bf16: of two samples the scores
/// of a head, less their maximum, exponentiated and divided.
const MAPS: usize = 2 * 4 * 4;

/// Pictures with a longer side are a slip of the hand: no machine has memory for them.
const LONGEST_SIDE: usize = 8192;

/// Width and height of the latents of a picture of that size.
///
/// # Errors
/// If the sides do not divide into the UNet's levels, or are absurdly long.
pub fn latent_size(base: &Base, (width, height): (usize, usize)) -> Result<(usize, usize)> {
    let unit = base.unit();
    if width == 0 || height == 0 || !width.is_multiple_of(unit) || !height.is_multiple_of(unit) {
        bail!("{width}x{height} pixels: both sides must be multiples of {unit}");
    }
    if width.max(height) > LONGEST_SIDE {
        bail!("{width}x{height} pixels: at most {LONGEST_SIDE} on each side");
    }
    Ok((width / base.vae.factor(), height / base.vae.factor()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_pictures_as_fit_go_together() {
        let gib = |count: u64| Some(count << 30);
        for (side, bytes, precision, pictures) in [
            (16, None, Precision::F32, 8),
            (64, None, Precision::F32, 1),
            (64, gib(80), Precision::Bf16, 8),
            (64, gib(8), Precision::Bf16, 5),
            (64, gib(8), Precision::F32, 4),
            (128, gib(24), Precision::Bf16, 2),
            (128, gib(24), Precision::Tf32, 1),
            (128, gib(80), Precision::F32, 2),
            (256, gib(8), Precision::F32, 1),
        ] {
            assert_eq!(fitting(side * side, bytes, precision), pictures, "{side} {bytes:?} {precision}");
        }
    }
}
