//! Custom Diffusion (Kumari et al. 2023) as its authors trained it: photos at random scales, prior preservation, one vector
//! that starts from a token that nobody uses.

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::{Result, Tensor};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::Placement;
use crate::base::Base;
use crate::base::texts::Texts;
use crate::method::denoising::{self, Batch};
use crate::method::eqdiff::Customisation;
use crate::method::pictures::{Pictures, Shown, View};
use crate::method::{Losses, Method};
use crate::model::tokenizer::{PLACEHOLDER, Tokens};
use crate::ops::Keep;
use crate::rng;
use crate::subject::Photo;

/// The method on a base and a subject.
pub struct CustomDiffusion<'a> {
    base: &'a Base,
    photos: &'a [Photo],
    pictures: Pictures<'a>,
    texts: Texts<'a>,
    /// The prompts after each caption.
    prompts: BTreeMap<&'static str, Tokens>,
    class_prompt: Tokens,
    /// What the vector starts from, `[d]`.
    init: Tensor,
    options: Options,
}

/// What it depends on beside the pictures.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The token that the vector starts from.
    pub init: u32,
    /// Weight of the class images' loss.
    pub prior_weight: f64,
    /// Photos in a step; as many class images come with them, if there are any.
    pub batch_size: usize,
    /// What samples are drawn from.
    pub seed: u64,
    /// What a step keeps of its forward pass.
    pub keep: Keep,
}

impl<'a> CustomDiffusion<'a> {
    /// `pictures` has the `photos` as squares of the training's side; `class` is the class word, and class images are
    /// captioned with `class_prompt`.
    ///
    /// # Errors
    /// If a prompt cannot be encoded.
    pub fn new(
        base: &'a Base,
        photos: &'a [Photo],
        pictures: Pictures<'a>,
        [class, class_prompt]: [&str; 2],
        options: Options,
    ) -> anyhow::Result<Self> {
        let captions = ["", "a far away ", "very small ", "zoomed in ", "close up "];
        let prompt = |caption| {
            let text = format!("{caption}photo of a {PLACEHOLDER} {class}");
            Ok((caption, base.tokenizer.encode(&text, PLACEHOLDER)?))
        };
        Ok(Self {
            base,
            photos,
            pictures,
            texts: Texts::new(base),
            prompts: captions.into_iter().map(prompt).collect::<anyhow::Result<_>>()?,
            class_prompt: base.tokenizer.encode(class_prompt, PLACEHOLDER)?,
            init: base.text.token_embedding(options.init)?,
            options,
        })
    }

    fn batch(&self, step: usize) -> anyhow::Result<Batch> {
        let mut rng = rng::stream(self.options.seed, "step", step as u64);
        let mut samples = Vec::new();
        for _ in 0..self.options.batch_size {
            samples.push(self.photo(&mut rng)?);
        }
        self.pictures.batch_with_class_images(samples, &self.class_prompt, &mut rng)
    }

    /// A photo, perhaps mirrored, at a random scale.
    fn photo(&self, rng: &mut ChaCha8Rng) -> anyhow::Result<Shown> {
        let (chosen, mirrored) = (rng.random_range(0..self.pictures.photos.len()), rng.random());
        let placement = Placement::draw(self.pictures.photos[chosen].width() as usize, rng);
        let posterior = if placement.is_plain() {
            self.pictures.of_view(View::Photo(chosen, mirrored))?
        } else {
            self.pictures.of_photo(chosen, &self.placed(chosen, mirrored, &placement)?)?
        };
        let caption = placement.captions.choose(rng).copied().unwrap_or_default();
        let prompt = self.prompts.get(caption).with_context(|| format!("no prompt for {caption:?}"))?.clone();
        let valid = Some(placement.valid(self.base.vae.factor()));
        Ok(Shown { posterior, prompt, is_prior: false, valid })
    }

    /// A placed photo [1, 3, side, side], made of the photo itself: its square has lost what an enlarged view shows.
    fn placed(&self, chosen: usize, mirrored: bool, placement: &Placement) -> anyhow::Result<Tensor> {
        let photo = &self.photos[chosen].image;
        let flipped = mirrored.then(|| image::imageops::flip_horizontal(photo));
        placement.picture(self.base, flipped.as_ref().unwrap_or(photo))
    }
}

impl Method for CustomDiffusion<'_> {
    type Learned = Customisation;

    const TERMS: &'static [&'static str] = &denoising::TERMS;

    fn initial(&self) -> Result<BTreeMap<String, Tensor>> {
        Customisation::initial(&self.base.unet, &self.init, false, false)
    }

    fn learned(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Customisation> {
        Customisation::from_tensors(&self.base.unet, tensors)
    }

    fn losses(&self, learned: &Customisation, step: usize) -> anyhow::Result<Losses> {
        let batch = self.batch(step)?;
        Ok(denoising::with_concept(
            self.base,
            &self.texts,
            learned,
            &batch,
            self.options.prior_weight,
            self.options.keep,
        )?
        .losses)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use image::imageops::flip_horizontal;
    use image::{GrayImage, Rgb, RgbImage};

    use super::*;
    use crate::base::MINI;
    use crate::ops::Precision;
    use crate::subject::Subject;

    #[test]
    fn photos_are_placed_from_their_own_pixels() -> anyhow::Result<()> {
        let base = Base::load(MINI, true, &Device::Cpu, Precision::F32)?;
        let side = base.side() as u32;
        let photo = |width, height| Photo {
            path: "a".into(),
            image: RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, (y % 3) as u8 * 90, (x * y) as u8])),
            mask: GrayImage::new(width, height),
            file_size: (width, height),
            mask_source: String::new(),
            caption: None,
        };
        let photos = vec![photo(2 * side, 3 * side), photo(side, side)];
        let subject = Subject { name: "a".into(), class: "dog".into(), photos, warnings: Vec::new() };
        let pictures = Pictures::new(&base, &subject, Vec::new(), |photo| photo.square(side));
        let init = base.tokenizer.entry("dog")?;
        let options = Options { init, prior_weight: 1., batch_size: 1, seed: 0, keep: Keep::INPUTS };
        let method = CustomDiffusion::new(&base, &subject.photos, pictures, ["dog", "dog"], options)?;
        let values = |picture: Tensor| picture.flatten_all()?.to_vec1::<f32>();
        let side = side as usize;
        let small = Placement::new(side, side / 2, [side / 2; 2]);
        let enlarged = Placement::new(side, side + 40, [side / 2 + 20; 2]);
        for placement in [small, enlarged] {
            for (chosen, mirrored) in [(0, false), (0, true), (1, false), (1, true)] {
                let from = |image: &RgbImage| {
                    let image = if mirrored { flip_horizontal(image) } else { image.clone() };
                    anyhow::Ok(values(placement.picture(&base, &image)?)?)
                };
                let placed = values(method.placed(chosen, mirrored, &placement)?)?;
                assert!(placed == from(&subject.photos[chosen].image)?);
                // of a photo of the training's side the square is the photo
                assert_eq!(placed == from(&method.pictures.photos[chosen])?, chosen == 1, "{placement:?}");
            }
        }
        Ok(())
    }
}
