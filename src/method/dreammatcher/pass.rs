//! The attention of the passes: of the reference, whose values are taken down, and of pictures, which take them over.

use std::collections::HashMap;

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

use super::matching::{Match, Outputs, Places, descriptors};
use super::{DreamMatcher, kept};
use crate::method::eqdiff::customised::MeanMap;
use crate::method::{Guided, Pass, Recorder, Seen};
use crate::model::{Attention, AttentionProcessor};
use crate::ops::{Norm, attend, with_gradient_of};

/// What a pass leaves of a picture for its next: unit descriptors of the reference and of the picture [2 B, N, d].
pub const DESCRIPTORS: &str = "descriptors";
/// The attention that the subject's word got [B, n].
pub const FOREGROUND: &str = "foreground";

/// Loss and gradient of a guided pass.
pub const LOSS: &str = "loss";
/// See [`LOSS`].
pub const GRADIENT: &str = "gradient";

/// The up blocks whose outputs are matched.
const BLOCKS: [usize; 2] = [1, 2];

/// What the outputs of an up block are called.
fn block_name(index: usize) -> String {
    format!("up_blocks.{index}")
}

/// Whether values are replaced in this layer: self-attention of the up blocks 2 and 3.
fn is_matched(layer: &str) -> bool {
    layer.ends_with("attn1") && (layer.starts_with("up_blocks.2") || layer.starts_with("up_blocks.3"))
}

/// Entry `row` of the outputs that a pass left.
///
/// # Errors
/// If it left none.
pub fn outputs_of(seen: &Seen, row: usize) -> Result<Outputs> {
    let block = |index: usize| match seen.get(&block_name(index)) {
        Some([output]) => Places::of(&output.get(row)?),
        _ => bail!("a pass left no output of up block {index}"),
    };
    Ok(Outputs { second: block(BLOCKS[0])?, third: block(BLOCKS[1])? })
}

/// The match of a row at a side from the descriptors that a pass left, and how much it keeps.
fn match_of(left: &Seen, attention: &Tensor, row: usize, side: usize, threshold: f32) -> Result<(Match, Vec<f32>)> {
    let Some([references, pictures]) = left.get(DESCRIPTORS) else { bail!("the pass before left no descriptors") };
    let places = |all: &Tensor| -> Result<Places> {
        let of_row = all.get(row)?;
        let side = of_row.dim(0)?.isqrt();
        Places::of(&of_row.reshape((side, side, ()))?)
    };
    let (reference, picture) = (places(references)?, places(pictures)?);
    kept([&reference, &picture], &attention.get(row)?.to_vec1::<f32>()?, side, threshold)
}

/// The reference's pass.
pub(super) struct ReferenceValues<'a> {
    inner: Box<dyn Recorder + 'a>,
    seen: Seen,
}

impl<'a> ReferenceValues<'a> {
    pub(super) fn new(inner: Box<dyn Recorder + 'a>) -> Self {
        Self { inner, seen: Seen::default() }
    }
}

impl Recorder for ReferenceValues<'_> {
    fn seen(self: Box<Self>) -> Seen {
        self.seen
    }
}

impl AttentionProcessor for ReferenceValues<'_> {
    fn self_attention(&mut self, layer: &Attention, x: &Tensor) -> Result<Tensor> {
        if is_matched(&layer.name) {
            let value = layer.parts.to_v.forward(&layer.parts.norm.forward(x)?)?;
            self.seen.insert(&layer.name, vec![value]);
        }
        self.inner.self_attention(layer, x)
    }

    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        self.inner.cross_attention(layer, x, text)
    }

    fn up_block(&mut self, index: usize, output: &Tensor) -> Result<()> {
        if BLOCKS.contains(&index) {
            self.seen.insert(&block_name(index), vec![output.detach()]);
        }
        Ok(())
    }
}

/// A pass on B pictures, of 2 B samples: all without their prompts, then all with them.
pub(super) struct Matched<'a> {
    matcher: &'a DreamMatcher,
    inner: Box<dyn Recorder + 'a>,
    pass: Pass<'a>,
    on_word: MeanMap,
    /// By row and side.
    known: HashMap<(usize, usize), (Match, Vec<f32>)>,
    left: Seen,
}

impl<'a> Matched<'a> {
    pub(super) fn new(matcher: &'a DreamMatcher, inner: Box<dyn Recorder + 'a>, pass: Pass<'a>) -> Self {
        Self { matcher, inner, pass, on_word: MeanMap::default(), known: HashMap::new(), left: Seen::default() }
    }

    fn pictures(&self) -> usize {
        self.pass.words.len()
    }

    /// What was seen of the reference.
    fn reference(&self) -> Result<&'a Seen> {
        self.pass.seen.ok_or_else(|| candle_core::Error::msg("no reference was looked at"))
    }

    /// The attention that the subject's word got so far [2 B, n], where any thread can read it.
    fn attention_to_word(&self) -> Result<Tensor> {
        let Some(mean) = self.on_word.mean()? else {
            bail!("no layer has a quarter of the latents' side: nothing shows the subject")
        };
        mean.to_device(&Device::Cpu)
    }

    /// `value` [2 B, N, d] with the reference's values where they are kept.
    fn appearance(&mut self, layer: &str, before: &Seen, value: &Tensor) -> Result<Tensor> {
        let (rows, places, _) = value.dims3()?;
        let (side, pictures) = (places.isqrt(), self.pictures());
        let Some([reference]) = self.reference()?.get(layer) else {
            bail!("the reference pass left nothing of {layer}")
        };
        if !self.known.contains_key(&(0, side)) {
            let (attention, threshold) = (self.attention_to_word()?, self.matcher.options.threshold);
            let found = (0..rows).into_par_iter();
            let found = found.map(|row| Ok(((row, side), match_of(before, &attention, row, side, threshold)?)));
            self.known.extend(found.collect::<Result<Vec<_>>>()?);
        }
        let mut moved = Vec::with_capacity(rows);
        for row in 0..rows {
            let (found, keep) = &self.known[&(row, side)];
            let keep = Tensor::from_slice(keep, (places, 1), value.device())?.to_dtype(value.dtype())?;
            let indices = Tensor::from_slice(&found.to_reference, places, value.device())?;
            let (theirs, own) = (reference.get(row / pictures)?.index_select(&indices, 0)?, value.get(row)?);
            moved.push((own.broadcast_mul(&(1. - &keep)?)? + theirs.broadcast_mul(&keep)?)?);
        }
        Tensor::stack(&moved, 0)
    }

    /// 1 at each picture's word: [rows, L].
    fn words(&self, rows: usize, length: usize, like: &Tensor) -> Result<Tensor> {
        let mut column = vec![0f32; rows * length];
        (0..rows).for_each(|row| column[row * length + self.pass.words[row % self.pictures()]] = 1.);
        Tensor::from_vec(column, (rows, length), like.device())
    }
}

impl Recorder for Matched<'_> {
    fn seen(self: Box<Self>) -> Seen {
        self.left
    }

    fn guide(&mut self, guided: &Guided) -> Result<Option<Tensor>> {
        let Some(weight) = self.matcher.options.guidance else {
            return Ok(None);
        };
        let (rows, _, side, _) = guided.predicted.dims4()?;
        let Some([clean]) = guided.reference.map(std::slice::from_ref) else { bail!("there is no reference") };
        let places = clean.flatten_from(2)?.squeeze(0)?;
        let (attention, threshold) = (self.attention_to_word()?, self.matcher.options.threshold);
        let (mut warped, mut keeps) = (Vec::new(), Vec::new());
        for row in 0..rows {
            let (found, keep) = match_of(&self.left, &attention, row, side, threshold)?;
            let indices = Tensor::from_slice(&found.to_reference, side * side, clean.device())?;
            warped.push(places.contiguous()?.index_select(&indices, 1)?.reshape((4, side, side))?);
            keeps.push(Tensor::from_vec(keep, (1, side, side), clean.device())?);
        }
        let (warped, keep) = (Tensor::stack(&warped, 0)?, Tensor::stack(&keeps, 0)?);
        let level = guided.level;
        let noise = (guided.predicted * level.noise)?;
        let found = (guided.latents.broadcast_sub(&noise)? / level.signal)?;
        let area = 4. * keep.sum_all()?.to_scalar::<f32>()? as f64;
        let loss = ((warped - found)?.broadcast_mul(&keep)?.sqr()?.sum_all()? / if area > 0. { area } else { 1. })?;
        let grads = loss.backward()?;
        let Some(gradient) = grads.get(guided.inputs) else { bail!("the guidance has no gradient") };
        // as large latents have more places, each has less of the loss
        let weight = weight * (side * side) as f64 / 4096.;
        self.left.insert(LOSS, vec![loss.detach()]);
        self.left.insert(GRADIENT, vec![gradient.clone()]);
        Ok(Some((guided.predicted.detach() - (gradient * (weight * level.noise))?)?))
    }
}

impl AttentionProcessor for Matched<'_> {
    fn self_attention(&mut self, layer: &Attention, x: &Tensor) -> Result<Tensor> {
        let kept = x.detach();
        // drawing that starts from a picture may have no pass before one that would be matched
        let is_matched = is_matched(&layer.name) && self.matcher.is_matched(self.pass.step);
        let y = if let Some(before) = self.pass.before.filter(|_| is_matched) {
            let (norm, parts) = (&layer.parts.norm, &layer.parts);
            let value = self.appearance(&layer.name, before, &parts.to_v.after(norm, &kept)?)?;
            let (query, key) = (parts.to_q.after(norm, &kept)?, parts.to_k.after(norm, &kept)?);
            parts.to_out.forward_plus(&attend(&query, &key, &value, &layer.options())?, Some(&kept))?
        } else {
            self.inner.self_attention(layer, &kept)?
        };
        // guidance as released: its gradient passes by every attention
        with_gradient_of(x, y)
    }

    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        let kept = x.detach();
        let (rows, queries, _) = x.dims3()?;
        let shows = !layer.name.starts_with("mid_block") && queries == (self.pass.side / 4).pow(2);
        let column = if shows { Some(self.words(rows, text.dim(1)?, x)?) } else { None };
        let (y, seen) = self.inner.watched_cross_attention(layer, &kept, text, column.as_ref())?;
        if let Some(seen) = seen {
            // of both halves, where the word is with the prompt
            let with = seen.narrow(0, rows / 2, rows / 2)?;
            self.on_word.add(&Tensor::cat(&[&with, &with], 0)?, layer.parts.heads)?;
        }
        with_gradient_of(x, y)
    }

    fn up_block(&mut self, index: usize, output: &Tensor) -> Result<()> {
        if BLOCKS.contains(&index) {
            self.left.insert(&block_name(index), vec![output.detach()]);
        }
        if let Some(attention) = self.on_word.mean()? {
            self.left.insert(FOREGROUND, vec![attention.narrow(0, 0, self.pictures())?]);
        }
        // the first matched step looks at what the one before it left; guidance looks at its own pass
        let ((step, steps), options) = (self.pass.step, &self.matcher.options);
        let of_use = step + 1 < steps || options.guidance.is_some();
        if index != BLOCKS[1] || !of_use || !self.matcher.is_matched((step + 1, steps)) {
            return Ok(());
        }
        let (reference, rows, pictures) = (self.reference()?, output.dim(0)?, self.pictures());
        // a device's tensors are read by the thread that computes there: others do not wait for its kernels
        let read = |seen: &Seen, rows: usize| (0..rows).map(|row| outputs_of(seen, row)).collect::<Result<Vec<_>>>();
        let (references, own) = (read(reference, rows.div_ceil(pictures))?, read(&self.left, rows)?);
        let described = |(row, own)| descriptors(&references[row / pictures], own, options.dims);
        let all = own.par_iter().enumerate().map(described).collect::<Result<Vec<_>>>()?;
        let stacked =
            |i: usize| Tensor::stack(&all.iter().map(|pair| pair[i].tensor()).collect::<Result<Vec<_>>>()?, 0);
        self.left.insert(DESCRIPTORS, vec![stacked(0)?, stacked(1)?]);
        Ok(())
    }
}
