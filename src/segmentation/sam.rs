//! Segment Anything (Kirillov et al. 2023) and MobileSAM, as candle-transformers has them.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::segment_anything::image_encoder::ImageEncoderViT;
use candle_transformers::models::segment_anything::mask_decoder::MaskDecoder;
use candle_transformers::models::segment_anything::prompt_encoder::PromptEncoder;
use candle_transformers::models::segment_anything::tiny_vit::{TinyViT, tiny_vit_5m};
use image::imageops::{self, FilterType};
use image::{GrayImage, Luma, RgbImage};

use super::{Made, MaskMaker};
use crate::weights::Weights;

/// Side of the square that the model sees, and of its patches.
const SIDE: usize = 1024;
const PATCH: usize = 16;

/// Width of prompts.
const WIDTH: usize = 256;

/// Means and deviations of the pictures that it was trained on.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const DEVIATION: [f32; 3] = [58.395, 57.12, 57.375];

/// A mask is as sure as it stays the same where logits are so much higher or lower: the paper's stability score.
const DOUBT: f32 = 1.;

/// The sizes of the three published encoders: width, layers, heads, and the layers that look at the whole picture.
const ENCODERS: [(usize, usize, usize, [usize; 4]); 3] =
    [(768, 12, 12, [2, 5, 8, 11]), (1024, 24, 16, [5, 11, 17, 23]), (1280, 32, 16, [7, 15, 23, 31])];

/// What the mask shall be of, in pixels of the photo.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Places that are the subject's, and (false) places that are not.
    pub points: Vec<(f64, f64, bool)>,
    /// Left, top, right and bottom of a box around it.
    pub frame: Option<[f64; 4]>,
}

impl Prompt {
    /// A box around a mask and the point that is farthest inside it; none if the mask is empty.
    pub fn around(mask: &GrayImage) -> Option<Self> {
        let inside = || mask.enumerate_pixels().filter(|(_, _, level)| level.0[0] > 127).map(|(x, y, _)| (x, y));
        let (left, top) = (inside().map(|p| p.0).min()?, inside().map(|p| p.1).min()?);
        let (right, bottom) = (inside().map(|p| p.0).max()?, inside().map(|p| p.1).max()?);
        let soft = imageops::blur(mask, (right - left).min(bottom - top).max(8) as f32 / 8.);
        let (x, y) = inside().max_by_key(|&(x, y)| soft.get_pixel(x, y).0[0])?;
        let frame = [left, top, right + 1, bottom + 1].map(f64::from);
        Some(Self { points: vec![(f64::from(x) + 0.5, f64::from(y) + 0.5, true)], frame: Some(frame) })
    }

    /// # Errors
    /// If there is nothing to go by, or it lies outside of a photo of that size.
    fn check(&self, (width, height): (u32, u32)) -> Result<()> {
        ensure!(!self.points.is_empty() || self.frame.is_some(), "give points or a box");
        let inside = |x: f64, y: f64| (0. ..=f64::from(width)).contains(&x) && (0. ..=f64::from(height)).contains(&y);
        for &(x, y, _) in &self.points {
            ensure!(inside(x, y), "the point {x},{y} is outside of the photo of {width}x{height} pixels");
        }
        if let Some([left, top, right, bottom]) = self.frame {
            let fits = inside(left, top) && inside(right, bottom) && left < right && top < bottom;
            ensure!(fits, "{left},{top},{right},{bottom} is no box in a photo of {width}x{height} pixels");
        }
        Ok(())
    }
}

enum Encoder {
    Original(ImageEncoderViT),
    Mobile(TinyViT),
}

/// The model.
pub struct Sam {
    encoder: Encoder,
    prompts: PromptEncoder,
    decoder: MaskDecoder,
    device: Device,
}

impl Sam {
    /// Loads a safetensors file with the published names: MobileSAM, or Segment Anything's ViT-B, ViT-L or ViT-H.
    ///
    /// # Errors
    /// If it is damaged or another model; the message names it.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let weights = Weights::open(path, device)?;
        let names = weights.names();
        let context = || format!("{} is no Segment Anything", path.display());
        ensure!(names.iter().any(|name| name.starts_with("mask_decoder.")), "{}: it has no mask_decoder", context());
        let tensors = names.into_iter().map(|name| Ok((name.clone(), weights.any(&name)?)));
        let tensors: HashMap<String, Tensor> = tensors.collect::<Result<_>>()?;
        let width = weights.shape("image_encoder.pos_embed").and_then(|shape| shape.last().copied());
        Self::of(VarBuilder::from_tensors(tensors, DType::F32, device), width).with_context(context)
    }

    /// The model with an encoder of that width, or, without one, MobileSAM's.
    fn of(weights: VarBuilder, width: Option<usize>) -> Result<Self> {
        let inner = weights.pp("image_encoder");
        let encoder = match width {
            None => Encoder::Mobile(tiny_vit_5m(inner)?),
            Some(width) => {
                let known = ENCODERS.iter().find(|(known, ..)| *known == width);
                let (_, depth, heads, whole) =
                    known.with_context(|| format!("an encoder of width {width} is not known"))?;
                let sizes = (SIDE, PATCH, 3, WIDTH);
                Encoder::Original(ImageEncoderViT::new(
                    sizes.0, sizes.1, sizes.2, width, *depth, *heads, sizes.3, true, true, true, 14, whole, inner,
                )?)
            }
        };
        let side = SIDE / PATCH;
        Ok(Self {
            encoder,
            prompts: PromptEncoder::new(WIDTH, (side, side), (SIDE, SIDE), 16, weights.pp("prompt_encoder"))?,
            decoder: MaskDecoder::new(WIDTH, 3, 3, 256, weights.pp("mask_decoder"))?,
            device: weights.device().clone(),
        })
    }

    /// The mask that a prompt asks for in a photo.
    ///
    /// # Errors
    /// If the prompt does not fit the photo, or the model gives no finite mask.
    pub fn mask(&self, photo: &RgbImage, prompt: &Prompt) -> Result<Made> {
        let (width, height) = photo.dimensions();
        prompt.check((width, height))?;
        let scale = SIDE as f64 / f64::from(width.max(height));
        let small = |n: u32| ((f64::from(n) * scale).round() as u32).clamp(1, SIDE as u32);
        let reduced = imageops::resize(photo, small(width), small(height), FilterType::Triangle);
        let picture = self.picture(&reduced)?;
        let seen = match &self.encoder {
            Encoder::Original(encoder) => encoder.forward(&picture)?,
            Encoder::Mobile(encoder) => encoder.forward(&picture)?,
        };
        let points = match &prompt.points[..] {
            [] => None,
            points => {
                let places: Vec<f32> = points.iter().flat_map(|&(x, y, _)| [x, y]).map(|v| (v * scale) as f32).collect();
                let kinds: Vec<f32> = points.iter().map(|&(.., inside)| f32::from(u8::from(inside))).collect();
                let count = points.len();
                Some((
                    Tensor::from_vec(places, (1, count, 2), &self.device)?,
                    Tensor::from_vec(kinds, (1, count), &self.device)?,
                ))
            }
        };
        let frame = prompt.frame.map(|frame| frame.map(|value| (value * scale) as f32));
        let frame = frame.map(|frame| Tensor::from_vec(frame.to_vec(), (1, 4), &self.device)).transpose()?;
        let points = points.as_ref().map(|(places, kinds)| (places, kinds));
        let (sparse, dense) = self.prompts.forward(points, frame.as_ref(), None)?;
        // one point may mean a part or the whole: then the model proposes three masks, the surest of which is taken
        let several = prompt.points.len() == 1 && prompt.frame.is_none();
        let (logits, sure) = self.decoder.forward(&seen, &self.prompts.get_dense_pe()?, &sparse, &dense, several)?;
        let sure = sure.flatten_all()?.to_vec1::<f32>()?;
        let best = (0..sure.len()).max_by(|&a, &b| sure[a].total_cmp(&sure[b])).unwrap_or(0);
        let logits = logits.get(0)?.get(best)?;
        let side = logits.dim(0)?;
        let values = logits.flatten_all()?.to_vec1::<f32>()?;
        if values.iter().chain(&sure).any(|value| !value.is_finite()) {
            bail!("its mask is not finite: the weights are damaged");
        }
        // the part of the square that the photo fills
        let across = side as f64 * f64::from(reduced.width()) / SIDE as f64;
        let down = side as f64 * f64::from(reduced.height()) / SIDE as f64;
        let at = |x: u32, y: u32| {
            let (x, y) = ((f64::from(x) + 0.5) * across / f64::from(width), (f64::from(y) + 0.5) * down / f64::from(height));
            between(&values, side, x - 0.5, y - 0.5)
        };
        let mask = GrayImage::from_fn(width, height, |x, y| Luma([if at(x, y) > 0. { 255 } else { 0 }]));
        let count = |bound: f32| values.iter().filter(|&&value| value > bound).count() as f64;
        let stable = if count(-DOUBT) > 0. { count(DOUBT) / count(-DOUBT) } else { 0. };
        Ok(Made { mask, confidence: stable * f64::from(sure[best]).clamp(0., 1.) })
    }

    /// A photo in the upper left of the square, normalised [1, 3, 1024, 1024].
    fn picture(&self, photo: &RgbImage) -> Result<Tensor> {
        let mut values = vec![0f32; 3 * SIDE * SIDE];
        for (x, y, pixel) in photo.enumerate_pixels() {
            for (c, &level) in pixel.0.iter().enumerate() {
                values[(c * SIDE + y as usize) * SIDE + x as usize] = (f32::from(level) - MEAN[c]) / DEVIATION[c];
            }
        }
        Ok(Tensor::from_vec(values, (1, 3, SIDE, SIDE), &self.device)?)
    }
}

/// A value between the nearest four of a square.
fn between(values: &[f32], side: usize, x: f64, y: f64) -> f64 {
    let last = (side - 1) as f64;
    let (x, y) = (x.clamp(0., last), y.clamp(0., last));
    let (left, top) = (x as usize, y as usize);
    let (right, below) = ((left + 1).min(side - 1), (top + 1).min(side - 1));
    let at = |x: usize, y: usize| f64::from(values[y * side + x]);
    let row = |y: usize| at(left, y) * (1. - x.fract()) + at(right, y) * x.fract();
    row(top) * (1. - y.fract()) + row(below) * y.fract()
}

/// Where the prompts of [`SamCut`] come from.
pub enum Prompts<'a> {
    /// The user, for one photo.
    Given(Prompt),
    /// Around the masks of another maker.
    Around(&'a mut dyn MaskMaker),
}

/// Masks by Segment Anything.
pub struct SamCut<'a> {
    /// The model.
    pub sam: Sam,
    /// What it is asked for.
    pub prompts: Prompts<'a>,
}

impl MaskMaker for SamCut<'_> {
    fn masks(&mut self, photos: &[&RgbImage], class: &str) -> Result<Vec<Made>> {
        let prompts = match &mut self.prompts {
            Prompts::Given(prompt) => vec![Some(prompt.clone()); photos.len()],
            Prompts::Around(maker) => maker.masks(photos, class)?.iter().map(|made| Prompt::around(&made.mask)).collect(),
        };
        let nothing = |photo: &RgbImage| Made { mask: GrayImage::new(photo.width(), photo.height()), confidence: 0. };
        let mask = |(photo, prompt): (&&RgbImage, Option<Prompt>)| match prompt {
            Some(prompt) => self.sam.mask(photo, &prompt),
            None => Ok(nothing(photo)),
        };
        photos.iter().zip(prompts).map(mask).collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_nn::VarMap;

    use super::*;

    /// Random weights of MobileSAM's shapes, through the file and the whole path. Published ones were not at hand.
    #[test]
    fn the_whole_path_runs_on_random_weights() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (path, map) = (folder.path().join("mobile_sam.safetensors"), VarMap::new());
        Sam::of(VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu), None)?;
        map.save(&path)?;
        let sam = Sam::load(&path, &Device::Cpu)?;
        let photo = RgbImage::from_fn(90, 60, |x, y| image::Rgb([x as u8 * 2, y as u8 * 3, 40]));
        for prompt in [
            Prompt { points: vec![(30., 20., true)], frame: None },
            Prompt { points: vec![(30., 20., true), (80., 50., false)], frame: Some([10., 5., 60., 50.]) },
            Prompt { points: Vec::new(), frame: Some([10., 5., 60., 50.]) },
        ] {
            let made = sam.mask(&photo, &prompt)?;
            assert_eq!(made.mask.dimensions(), (90, 60));
            assert!((0. ..=1.).contains(&made.confidence));
        }
        for (prompt, part) in [
            (Prompt::default(), "points or a box"),
            (Prompt { points: vec![(95., 2., true)], frame: None }, "95,2"),
            (Prompt { points: Vec::new(), frame: Some([30., 5., 10., 50.]) }, "30,5,10,50"),
        ] {
            let said = sam.mask(&photo, &prompt).err().map(|e| format!("{e:#}")).unwrap_or_default();
            assert!(said.contains(part), "{said}");
        }
        let bytes = std::fs::read(&path)?;
        std::fs::write(&path, &bytes[..bytes.len() / 2])?;
        let said = Sam::load(&path, &Device::Cpu).err().map(|e| format!("{e:#}")).unwrap_or_default();
        assert!(said.contains("mobile_sam.safetensors"), "{said}");
        Ok(())
    }

    #[test]
    fn a_prompt_is_around_and_inside() {
        let mask = GrayImage::from_fn(40, 30, |x, y| Luma([if (8..24).contains(&x) && (6..20).contains(&y) { 255 } else { 0 }]));
        let prompt = Prompt::around(&mask).expect("a prompt");
        assert_eq!(prompt.frame, Some([8., 6., 24., 20.]));
        let (x, y, inside) = prompt.points[0];
        assert!(inside && (12. ..20.).contains(&x) && (9. ..17.).contains(&y), "{x} {y}");
        assert_eq!(Prompt::around(&GrayImage::new(3, 3)), None);
    }
}
