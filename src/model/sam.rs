//! Segment Anything (Kirillov et al. 2023) and MobileSAM (Zhang et al. 2023): a mask from a photo and a prompt of points and
//! boxes.
//!
//! The two image encoders and the mask decoder are candle-transformers'. The prompt's encoder is ours: candle's puts the
//! corners of a box side by side instead of one after the other, which its decoder then cannot take.

use std::f64::consts::TAU;

use anyhow::{Context, Result, ensure};
use candle_core::{D, IndexOp, Module, Tensor};
use candle_transformers::models::segment_anything::image_encoder::ImageEncoderViT;
use candle_transformers::models::segment_anything::mask_decoder::MaskDecoder;
use candle_transformers::models::segment_anything::tiny_vit::tiny_vit_5m;
use image::RgbImage;
use image::imageops::{self, FilterType};

use crate::weights::Weights;

/// What is asked for in a photo, by places in its pixels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    /// Points, and whether each is the subject's.
    pub points: Vec<([f64; 2], bool)>,
    /// The left upper and the right lower corner of a box around the subject.
    pub corners: Option<[[f64; 2]; 2]>,
}

/// Masks of one photo, as the decoder gives them.
pub struct Masks {
    /// How much rather each place is the subject's: a quarter of the encoder's side squared, by mask.
    pub logits: Vec<Vec<f32>>,
    /// Their side.
    pub side: usize,
    /// What the model takes for each mask's intersection over union with the true one.
    pub shares: Vec<f32>,
    /// Places of `logits` for a pixel of the photo.
    pub scale: f64,
}

/// A photo that was looked at.
pub struct Looked {
    features: Tensor,
    /// Pixels of the encoder's picture for a pixel of the photo.
    scale: f64,
}

/// The network.
pub struct Sam {
    encoder: Box<dyn Module>,
    prompts: Prompts,
    decoder: MaskDecoder,
    /// Side of the square that photos are brought into.
    side: usize,
}

/// What stands for places and their meanings.
struct Prompts {
    /// Frequencies of the places' waves [2, d / 2].
    waves: Tensor,
    /// A vector for a point outside, one inside, and the two corners of a box [4, d].
    marks: Tensor,
    /// What follows points that come without a box [1, d].
    nothing: Tensor,
    /// What stands for the mask that is not given [1, d, 1, 1].
    no_mask: Tensor,
}

/// Side of MobileSAM's square.
const TINY: usize = 1024;

/// No square is larger.
const LARGEST: usize = 2048;

/// Nor has more places along its side. The memory that is taken to look at all of them grows with the fourth power of it.
const WIDEST: usize = 64;

/// Means and deviations of ImageNet's channels, of levels up to 255.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const DEVIATION: [f32; 3] = [58.395, 57.12, 57.375];

impl Sam {
    /// The network of a file with the published names. Its sizes are those of the tensors.
    ///
    /// # Errors
    /// If it is another network, or a tensor is missing or misshapen; the message names the file.
    pub fn load(weights: &Weights) -> Result<Self> {
        let image = weights.pp("image_encoder");
        ensure!(
            image.has("patch_embed") && weights.has("prompt_encoder") && weights.has("mask_decoder"),
            "{} is no Segment Anything model: it has no image_encoder, prompt_encoder and mask_decoder",
            weights.file()
        );
        let [_, width] = shape(weights, "prompt_encoder.no_mask_embed.weight")?;
        let [hidden, _] = shape(weights, "mask_decoder.iou_prediction_head.layers.0.weight")?;
        ensure!(width > 0 && width.is_multiple_of(16), "{} has features of {width} channels", weights.file());
        let (encoder, side): (Box<dyn Module>, usize) = if image.has("patch_embed.seq") {
            (Box::new(tiny_vit_5m(image.builder())?), TINY)
        } else {
            let (vit, side) = vit(&image, width)?;
            (Box::new(vit), side)
        };
        let prompts = Prompts::load(&weights.pp("prompt_encoder"), width)?;
        let decoder = MaskDecoder::new(width, 3, 3, hidden, weights.pp("mask_decoder").builder())?;
        Ok(Self { encoder, prompts, decoder, side })
    }

    /// Looks at a photo, which is reduced or enlarged to the encoder's side.
    ///
    /// # Errors
    /// If it cannot compute.
    pub fn look(&self, photo: &RgbImage) -> Result<Looked> {
        let scale = self.side as f64 / f64::from(photo.width().max(photo.height()));
        let scaled = |pixels: u32| ((f64::from(pixels) * scale + 0.5) as u32).clamp(1, self.side as u32);
        let reduced = imageops::resize(photo, scaled(photo.width()), scaled(photo.height()), FilterType::Triangle);
        // what the photo leaves of the square is zero
        let plane = self.side * self.side;
        let mut values = vec![0f32; 3 * plane];
        for (x, y, pixel) in reduced.enumerate_pixels() {
            for (channel, level) in pixel.0.into_iter().enumerate() {
                let at = channel * plane + y as usize * self.side + x as usize;
                values[at] = (f32::from(level) - MEAN[channel]) / DEVIATION[channel];
            }
        }
        let device = self.prompts.waves.device();
        let pixels = Tensor::from_vec(values, (1, 3, self.side, self.side), device)?;
        let features = self.encoder.forward(&pixels)?;
        Ok(Looked { features, scale })
    }

    /// The masks of what is asked for: one, or, of a single point, which may mean a thing or a part of it, three.
    ///
    /// # Errors
    /// If nothing is asked for, or it cannot compute.
    pub fn masks(&self, looked: &Looked, prompt: &Prompt) -> Result<Masks> {
        let sparse = self.prompts.sparse(prompt, |at| ((at * looked.scale + 0.5) / self.side as f64) as f32)?;
        let dense = self.prompts.no_mask.broadcast_as(looked.features.shape())?;
        let places = self.prompts.places(looked.features.dim(2)?)?;
        let several = prompt.corners.is_none() && prompt.points.len() == 1;
        let (logits, shares) = self.decoder.forward(&looked.features, &places, &sparse, &dense, several)?;
        let (logits, side) = (logits.i(0)?, logits.dim(3)?);
        Ok(Masks {
            logits: logits.flatten_from(1)?.to_vec2()?,
            side,
            shares: shares.i(0)?.to_vec1()?,
            scale: looked.scale * side as f64 / self.side as f64,
        })
    }
}

/// A plain ViT of whatever size, as ViT-B, -L and -H are, for features of `width` channels, and the side of its square.
fn vit(image: &Weights, width: usize) -> Result<(ImageEncoderViT, usize)> {
    let [inner, _, patch, _] = shape(image, "patch_embed.proj.weight")?;
    let [_, side, _, _] = shape(image, "pos_embed")?;
    let [_, head] = shape(image, "blocks.0.attn.rel_pos_h")?;
    let pixels = side.saturating_mul(patch);
    ensure!(
        (1..=LARGEST).contains(&pixels) && head > 0 && inner.is_multiple_of(head),
        "{} looks at squares of {pixels} pixels by heads of {head} of {inner} channels, which cannot be",
        image.file()
    );
    ensure!(side <= WIDEST, "{} has {side} places along the side of a square: {WIDEST} can be", image.file());
    // a block's distances tell whether it looks at the whole square or at windows of it
    let distances = |block: usize| image.shape(&format!("blocks.{block}.attn.rel_pos_h"))?.first().copied();
    let blocks: Vec<usize> = (0..).map_while(distances).collect();
    let whole = 2 * side - 1;
    let global: Vec<usize> = (0..blocks.len()).filter(|&block| blocks[block] == whole).collect();
    let window = blocks.iter().find(|&&distances| distances != whole).map_or(0, |distances| distances.div_ceil(2));
    for (block, &distances) in blocks.iter().enumerate() {
        ensure!(
            distances == whole || (1..=side).contains(&window) && distances == 2 * window - 1,
            "{}: image_encoder.blocks.{block}.attn.rel_pos_h has {distances} distances, neither those of {side} places nor \
             those of the windows",
            image.file()
        );
    }
    let (depth, heads, builder) = (blocks.len(), inner / head, image.builder());
    let vit =
        ImageEncoderViT::new(pixels, patch, 3, inner, depth, heads, width, true, true, true, window, &global, builder)?;
    Ok((vit, pixels))
}

/// The sizes of a tensor that tells the network's.
fn shape<const N: usize>(weights: &Weights, name: &str) -> Result<[usize; N]> {
    let shape = weights.shape(name).unwrap_or_default();
    shape.try_into().ok().with_context(|| {
        format!(
            "{} is a Segment Anything model of a kind that is not known here: the shape of {name} is {shape:?}",
            weights.file()
        )
    })
}

impl Prompts {
    fn load(weights: &Weights, width: usize) -> Result<Self> {
        let vector = |name: &str| weights.get(&[1, width], &format!("{name}.weight"));
        let marks = (0..4).map(|mark| vector(&format!("point_embeddings.{mark}")));
        Ok(Self {
            waves: weights.get(&[2, width / 2], "pe_layer.positional_encoding_gaussian_matrix")?,
            marks: Tensor::cat(&marks.collect::<candle_core::Result<Vec<_>>>()?, 0)?,
            nothing: vector("not_a_point_embed")?,
            no_mask: vector("no_mask_embed")?.reshape((1, width, 1, 1))?,
        })
    }

    /// Waves [n, d] of places [n, 2] from 0 to 1.
    fn waves(&self, places: &Tensor) -> candle_core::Result<Tensor> {
        let phases = (places.affine(2., -1.)?.matmul(&self.waves)? * TAU)?;
        Tensor::cat(&[phases.sin()?, phases.cos()?], D::Minus1)
    }

    /// Those of all features [1, d, side, side].
    fn places(&self, side: usize) -> candle_core::Result<Tensor> {
        let middle = |i: usize| (i as f32 + 0.5) / side as f32;
        let places: Vec<f32> = (0..side * side).flat_map(|i| [middle(i % side), middle(i / side)]).collect();
        let waves = self.waves(&Tensor::from_vec(places, (side * side, 2), self.waves.device())?)?;
        waves.t()?.contiguous()?.reshape((1, (), side, side))
    }

    /// What stands for a prompt [1, n, d]; `place` brings pixels of the photo to the range from 0 to 1.
    fn sparse(&self, prompt: &Prompt, place: impl Fn(f64) -> f32) -> Result<Tensor> {
        let points = prompt.points.iter().map(|(at, inside)| (*at, u32::from(*inside)));
        let corners = prompt.corners.into_iter().flat_map(|[first, last]| [(first, 2), (last, 3)]);
        let (places, marks): (Vec<[f64; 2]>, Vec<u32>) = points.chain(corners).unzip();
        ensure!(!places.is_empty(), "nothing is marked in the photo");
        let device = self.waves.device();
        let waves = places.iter().flatten().map(|&at| place(at)).collect();
        let waves = self.waves(&Tensor::from_vec(waves, (places.len(), 2), device)?)?;
        let vectors = (waves + self.marks.index_select(&Tensor::new(marks, device)?, 0)?)?;
        Ok(match prompt.corners {
            Some(_) => vectors,
            None => Tensor::cat(&[&vectors, &self.nothing], 0)?,
        }
        .unsqueeze(0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};

    use super::*;

    /// What is said of an encoder of these sizes, none of whose other tensors are there.
    fn said(side: usize, patch: usize, distances: &[usize]) -> Result<String> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("sam.safetensors");
        let mut shapes = vec![("patch_embed.proj.weight".to_string(), vec![4, 3, patch, patch])];
        shapes.push(("pos_embed".to_string(), vec![1, side, side, 4]));
        let blocks = distances.iter().enumerate();
        shapes.extend(blocks.map(|(block, &n)| (format!("blocks.{block}.attn.rel_pos_h"), vec![n, 2])));
        let zeros = |(name, shape): (String, Vec<usize>)| Ok((name, Tensor::zeros(shape, DType::F32, &Device::Cpu)?));
        let tensors = shapes.into_iter().map(zeros).collect::<Result<HashMap<_, _>>>()?;
        candle_core::safetensors::save(&tensors, &path)?;
        let read = vit(&Weights::open(&path, &Device::Cpu)?, 16);
        Ok(read.err().map(|error| format!("{error:#}")).unwrap_or_default())
    }

    #[test]
    fn sizes_that_no_memory_holds_are_refused() -> Result<()> {
        for (side, patch, distances, part) in [
            (64, 16, &[27, 127, 27][..], "missing"), // ViT-B's, of which the rest is
            (256, 8, &[511], "256 places"),
            (65, 16, &[129], "65 places"),
            (4, 16, &[9], "blocks.0.attn.rel_pos_h has 9"),
            (4, 16, &[5, 7, 3], "blocks.2.attn.rel_pos_h has 3"),
            (4, 16, &[7, 4], "blocks.1.attn.rel_pos_h has 4"),
        ] {
            let said = said(side, patch, distances)?;
            assert!(said.contains(part) && said.contains("sam.safetensors"), "{side} {distances:?}: {said}");
        }
        Ok(())
    }
}
