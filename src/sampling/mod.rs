//! Drawing pictures from prompts.

pub mod ddim;

use anyhow::{Context, Result};
use candle_core::Tensor;
use image::RgbImage;

use crate::base::Base;
use crate::base::texts::Texts;
use crate::images;
use crate::method::rra::ReferenceNoise;
use crate::method::{Band, Customisation};
use crate::model::tokenizer::{PLACEHOLDER, Tokens};
use crate::rng;
use ddim::{Draft, Plan, Reference};

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
pub struct Style<'a> {
    /// What the pictures shall not show.
    pub negative: &'a str,
    /// DDIM steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// Width and height in pixels.
    pub size: (usize, usize),
    /// The photo that the denoiser looks at, a square of the training side, with the class word.
    pub reference: Option<(&'a RgbImage, &'a str)>,
    /// How the reference is fed.
    pub reference_noise: ReferenceNoise,
}

/// Draws `orders` with the customised base, or with the base alone.
///
/// # Errors
/// If the size does not suit the base, or the computation fails.
pub fn draw(
    base: &Base,
    customisation: Option<&Customisation>,
    style: &Style,
    orders: &[Order],
    mut progress: impl FnMut(usize) -> Result<()>,
) -> Result<Vec<RgbImage>> {
    let texts = Texts::new(base);
    let (width, height) = latent_size(base, style.size)?;
    let concept = customisation.map(|c| c.concept.of(Band::Original)).transpose()?;
    let negative = texts.plain(&plain(base, style.negative)?)?;
    let reference = style.reference.map(|(photo, class)| -> Result<Reference> {
        let posterior = base.vae.encode(&images::to_tensor(photo, &base.device)?)?;
        let latents = (&posterior.mean * base.vae.config.scaling_factor)?;
        let noise = match style.reference_noise {
            ReferenceNoise::Clean => None,
            ReferenceNoise::Matched => {
                Some(rng::normal(latents.shape(), &mut rng::stream(0, "reference", 0), &base.device)?)
            }
        };
        let class = texts.plain(&plain(base, &format!("photo of a {class}"))?)?;
        Ok(Reference { latents, noise, text: Tensor::cat(&[&negative, &class], 0)? })
    });
    let reference = reference.transpose().context("the reference photo")?;
    let mut drafts = Vec::with_capacity(orders.len());
    for order in orders {
        let text = match &concept {
            Some(concept) => texts.with_concept(&base.tokenizer.encode(&order.prompt, PLACEHOLDER)?, concept)?,
            None => texts.plain(&plain(base, &order.prompt)?)?,
        };
        let latents = match &order.init_latents {
            Some(latents) => latents.clone(),
            None => rng::normal((1, 4, height, width), &mut rng::stream(order.seed, "latents", 0), &base.device)?,
        };
        drafts.push(Draft { text, latents });
    }
    let plan = Plan {
        customisation,
        reference,
        negative,
        steps: style.steps,
        guidance: style.guidance,
        batch: together(width * height),
    };
    ddim::sample(base, &plan, &mut drafts, &mut progress)?;
    drafts.iter().map(|draft| Ok(images::from_tensor(&base.pictures(&draft.latents)?)?)).collect()
}

/// How many pictures with that many latent pixels go through the UNet together: small ones do, large ones fill the
/// machine alone.
pub fn together(pixels: usize) -> usize {
    (4096 / pixels).clamp(1, 8)
}

/// Width and height of the latents of a picture of that size.
///
/// # Errors
/// If the sides do not divide into the UNet's levels.
pub fn latent_size(base: &Base, (width, height): (usize, usize)) -> Result<(usize, usize)> {
    let unit = base.unit();
    if width == 0 || height == 0 || !width.is_multiple_of(unit) || !height.is_multiple_of(unit) {
        anyhow::bail!("{width}x{height} pixels: both sides must be multiples of {unit}");
    }
    Ok((width / base.vae.factor(), height / base.vae.factor()))
}

/// Tokens of a text in which the placeholder means nothing.
fn plain(base: &Base, text: &str) -> Result<Tokens> {
    base.tokenizer.encode(&text.replace(PLACEHOLDER, " "), PLACEHOLDER)
}
