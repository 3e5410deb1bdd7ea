//! A look at what a customised denoiser does while it draws: the views of the paper's figure 5.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

use super::customised::MeanMap;
use super::{Band, Customisation, Customised, Watch};
use crate::base::Base;
use crate::base::texts::Texts;
use crate::method::{Learned, Pass, Recorder, Seen};
use crate::model::tokenizer::PLACEHOLDER;
use crate::model::{Attention, AttentionProcessor};
use crate::ops::Keep;

/// The subject with one embedding alone: what that embedding holds.
pub struct OfBand<'a>(pub &'a Customisation, pub Band);

impl Learned for OfBand<'_> {
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor> {
        let tokens = base.tokenizer.encode(prompt, PLACEHOLDER)?;
        Ok(texts.with_concept(&tokens, &self.0.concept.of(self.1)?)?)
    }

    fn attention<'a>(&'a self, pass: Pass<'a>) -> Box<dyn Recorder + 'a> {
        self.0.attention(pass)
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        self.0.recorder()
    }
}

/// What was learnt, and what each pass with a reference shows of it.
pub struct Watched<'a> {
    learned: &'a Customisation,
    watch: Watch,
    /// Queries of the layers whose map of the reference is taken.
    looks: usize,
    views: RefCell<Vec<View>>,
}

/// What a pass showed. B samples; the last is the one with the prompt.
pub struct View {
    /// Fusion masks M^f [B, N, 1] by layer.
    pub fusion_masks: BTreeMap<String, Tensor>,
    /// How much of the reference attention falls on the reference's subject [B, queries].
    pub on_subject: MeanMap,
    /// The attention that `S*` gets [B, queries].
    pub of_concept: MeanMap,
    /// Where each query looks in the reference [B, N, M].
    pub looks: MeanMap,
}

impl<'a> Watched<'a> {
    /// Watches `learned`; maps of the reference are taken where a layer has `looks` queries.
    pub fn new(learned: &'a Customisation, watch: Watch, looks: usize) -> Self {
        Self { learned, watch, looks, views: RefCell::default() }
    }

    /// What the passes showed so far, in their order.
    pub fn views(self) -> Vec<View> {
        self.views.into_inner()
    }
}

impl Learned for Watched<'_> {
    fn text(&self, base: &Base, texts: &Texts, prompt: &str) -> anyhow::Result<Tensor> {
        self.learned.text(base, texts, prompt)
    }

    fn attention<'a>(&'a self, pass: Pass<'a>) -> Box<dyn Recorder + 'a> {
        let watch = self.watch.clone();
        let inner = Customised::new(self.learned, pass.seen, Some(watch));
        Box::new(Watching { watched: self, seen: pass.seen, inner, looks: MeanMap::default() })
    }

    fn recorder(&self) -> Option<Box<dyn Recorder + '_>> {
        self.learned.recorder()
    }
}

/// One pass; when it is over, its view is there.
struct Watching<'a> {
    watched: &'a Watched<'a>,
    seen: Option<&'a Seen>,
    inner: Customised<'a>,
    looks: MeanMap,
}

impl AttentionProcessor for Watching<'_> {
    fn self_attention(&mut self, layer: &Attention, x: &Tensor) -> Result<Tensor> {
        let reference =
            self.watched.learned.reference(&layer.name).filter(|_| x.dim(1).ok() == Some(self.watched.looks));
        if let (Some(reference), Some([key, _])) = (reference, self.seen.and_then(|seen| seen.get(&layer.name))) {
            self.looks.add(&reference.map(layer, x, key)?, layer.parts.heads)?;
        }
        self.inner.self_attention(layer, x)
    }

    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        self.inner.cross_attention(layer, x, text)
    }

    fn keep(&self) -> Keep {
        self.inner.keep()
    }
}

impl Recorder for Watching<'_> {}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let Customised { fusion_masks, on_subject, of_concept, .. } = &mut self.inner;
        self.watched.views.borrow_mut().push(View {
            fusion_masks: std::mem::take(fusion_masks),
            on_subject: std::mem::take(on_subject),
            of_concept: std::mem::take(of_concept),
            looks: std::mem::take(&mut self.looks),
        });
    }
}
