//! Where the base looks when it reads the class word: its own cross-attention, as DAAM has it (Tang et al. 2023),
//! sharpened by its self-attention, which knows what belongs together.

use anyhow::{Result, ensure};
use candle_core::{D, Tensor};
use image::RgbImage;
use image::imageops::{self, FilterType};

use super::{Cutting, Made, Map, MaskMaker};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::images;
use crate::model::{Attention, AttentionProcessor};
use crate::ops::attention::Options;
use crate::ops::{Norm, attend};
use crate::rng;

/// How the base looks at a photo.
#[derive(Clone, Debug)]
pub struct Looking {
    /// The noise levels, as shares of the schedule's timesteps.
    pub times: Vec<f64>,
    /// How often what belongs together shares its values.
    pub sharpening: usize,
    /// Layers with more places than this are not looked at: what they attend to takes memory with the square.
    pub longest_map: usize,
}

impl Default for Looking {
    fn default() -> Self {
        Self { times: vec![0.1, 0.2, 0.3, 0.4, 0.5], sharpening: 2, longest_map: 1024 }
    }
}

/// Cuts where the base looks for the class word.
pub struct AttentionCut<'a> {
    /// The base.
    pub base: &'a Base,
    /// How it looks.
    pub looking: Looking,
    /// How is cut.
    pub cutting: Cutting,
    /// Told after each photo how many were looked at, of how many.
    pub tell: &'a mut dyn FnMut(usize, usize) -> Result<()>,
}

impl MaskMaker for AttentionCut<'_> {
    fn masks(&mut self, photos: &[&RgbImage], class: &str) -> Result<Vec<Made>> {
        let mut maps = Vec::with_capacity(photos.len());
        for photo in photos {
            maps.push(self.map(photo, class)?);
            (self.tell)(maps.len(), photos.len())?;
        }
        Ok(self.cutting.cut(photos, Some(&maps)))
    }
}

impl AttentionCut<'_> {
    /// Where the base sees the class in a photo.
    ///
    /// # Errors
    /// If the class word has no token, or the base cannot compute.
    pub fn map(&self, photo: &RgbImage, class: &str) -> Result<Map> {
        let (base, side) = (self.base, self.base.side() as u32);
        let square = imageops::resize(photo, side, side, FilterType::CatmullRom);
        let posterior = base.vae.encode(&images::to_tensor(&square, &base.device)?)?;
        let latents = (&posterior.mean * base.vae.config.scaling_factor)?;
        let before = "a photo of a";
        let first = 1 + base.tokenizer.plain(before)?.len();
        let count = base.tokenizer.plain(class)?.len();
        let tokens = base.tokenizer.encode(&format!("{before} {class}"), "\0")?;
        ensure!(
            count > 0 && first + count < tokens.ids.len(),
            "the class {class:?} is no word that the base could read"
        );
        let column: Vec<f32> =
            (0..tokens.ids.len()).map(|i| (first..first + count).contains(&i) as u8 as f32).collect();
        let times = self.looking.times.len();
        let last = base.scheduler.timesteps() - 1;
        let timesteps: Vec<usize> = self.looking.times.iter().map(|share| (share * last as f64) as usize).collect();
        let again = |x: &Tensor| crate::model::tiled(x, times);
        let noise = rng::normal(latents.shape(), &mut rng::stream(0, "masks", 0), &base.device)?;
        let noisy = base.scheduler.add_noise(&again(&latents)?, &again(&noise)?, &timesteps)?;
        let mut watch = Watch {
            column: again(&Tensor::from_vec(column, (1, tokens.ids.len()), &base.device)?)?,
            longest: self.looking.longest_map,
            looks: Vec::new(),
            ties: Vec::new(),
        };
        base.unet.forward(&noisy, &timesteps, &again(&Texts::new(base).plain(&tokens)?)?, &mut watch)?;
        watch.map(self.looking.sharpening)
    }
}

/// Takes down what attention shows.
struct Watch {
    /// 1 at the class word's tokens [B, L].
    column: Tensor,
    /// Maps of more places are not kept: they grow with the square.
    longest: usize,
    /// The share of each place's attention that the class word gets, by layer `[N]`.
    looks: Vec<Tensor>,
    /// How much places attend to each other, by layer [N, N].
    ties: Vec<Tensor>,
}

impl AttentionProcessor for Watch {
    fn self_attention(&mut self, layer: &Attention, x: &Tensor) -> candle_core::Result<Tensor> {
        let places = x.dim(1)?;
        if places <= self.longest {
            let parts = &layer.parts;
            let normed = parts.norm.forward(x)?;
            let (q, k) = (parts.to_q.forward(&normed)?, parts.to_k.forward(&normed)?);
            let (heads, width) = (parts.heads, q.dim(D::Minus1)? / parts.heads);
            let mut sum = Tensor::zeros((places, places), q.dtype(), q.device())?;
            for head in 0..heads {
                let part = |x: &Tensor| x.narrow(D::Minus1, head * width, width)?.contiguous();
                let scores = (part(&q)?.matmul(&part(&k)?.t()?.contiguous()?)? * (width as f64).powf(-0.5))?;
                sum = (sum + candle_nn::ops::softmax(&scores, D::Minus1)?.mean(0)?)?;
            }
            self.ties.push((sum / heads as f64)?);
        }
        layer.parts.forward(x, self.keep())
    }

    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> candle_core::Result<Tensor> {
        let parts = &layer.parts;
        let options = Options { column: Some(self.column.clone()), ..layer.options() };
        let (key, value) = (parts.to_k.forward(text)?, parts.to_v.forward(text)?);
        let seen = attend(&parts.to_q.after(&parts.norm, x)?, &key, &value, &options)?;
        let width = x.dim(D::Minus1)?;
        if x.dim(1)? <= self.longest {
            self.looks.push(seen.narrow(D::Minus1, width, 1)?.squeeze(2)?.mean(0)?);
        }
        parts.to_out.forward_plus(&seen.narrow(D::Minus1, 0, width)?, Some(x))
    }
}

impl Watch {
    /// The looks of all layers together, each in its own range, at the finest side, after `rounds` of sharing.
    fn map(&self, rounds: usize) -> Result<Map> {
        let places = |x: &Tensor| x.dims()[0];
        let finest = self.looks.iter().map(places).max().unwrap_or(0);
        ensure!(finest > 0, "no layer of this base attends to the text");
        let side = (finest as f64).sqrt() as usize;
        let mut sum = vec![0f32; finest];
        for look in self.looks.iter().filter(|look| places(look) * 16 >= finest) {
            let own = Map::new(&look.to_vec1::<f32>()?, (places(look) as f64).sqrt() as usize);
            for (place, sum) in sum.iter_mut().enumerate() {
                let at = |i: usize| i as u32;
                *sum += own.at(at(place % side), at(place / side), at(side), at(side)) as f32;
            }
        }
        let mut map = Tensor::from_vec(sum, (finest, 1), self.looks[0].device())?;
        let ties: Vec<&Tensor> = self.ties.iter().filter(|tie| places(tie) == finest).collect();
        if let Some(all) = ties.iter().try_fold(None, |sum: Option<Tensor>, tie| -> Result<_> {
            Ok(Some(match sum {
                Some(sum) => (sum + *tie)?,
                None => (*tie).clone(),
            }))
        })? {
            let mean = (all / ties.len() as f64)?;
            for _ in 0..rounds {
                map = mean.matmul(&map)?;
            }
        }
        Ok(Map::new(&map.flatten_all()?.to_vec1::<f32>()?, side))
    }
}
