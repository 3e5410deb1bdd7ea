//! The customised denoiser: the base's layers with the trained parts of Custom Diffusion and RRA.

use std::collections::{BTreeMap, HashMap};

use candle_core::{DType, Result, Tensor};

use super::fdte::ConceptEmbedding;
use super::rra::{ReferenceAttention, has_reference};
use crate::method::custom_diffusion::TunedCrossAttention;
use crate::method::{Dial, Recorder, Seen};
use crate::model::{Attention, AttentionProcessor, Plain, Unet};
use crate::ops::{Keep, Norm};

/// Everything that training changes, as the layers use it.
pub struct Customisation {
    /// S_LF and S_HF.
    pub concept: ConceptEmbedding,
    cross: HashMap<String, TunedCrossAttention>,
    reference: HashMap<String, ReferenceAttention>,
}

impl Customisation {
    /// What training starts from, under the names of the adapter's tensors: the concept embedding
    /// `init` `[d]` for each vector, the base's cross-attention keys and values, and fresh reference
    /// attention.
    ///
    /// # Errors
    /// If there is no room.
    pub fn initial(unet: &Unet, init: &Tensor, fdte: bool, rra: bool) -> Result<BTreeMap<String, Tensor>> {
        let mut tensors = BTreeMap::from([(ConceptEmbedding::LOW.to_string(), init.copy()?)]);
        if fdte {
            tensors.insert(ConceptEmbedding::HIGH.to_string(), init.copy()?);
        }
        for layer in unet.attentions() {
            if layer.name.ends_with("attn2") {
                tensors.extend(TunedCrossAttention::initial(layer)?);
            } else if rra && has_reference(&layer.name) {
                tensors.extend(ReferenceAttention::initial(layer)?);
            }
        }
        Ok(tensors)
    }

    /// The layers of an adapter's tensors. They share storage with `tensors`, so that an optimiser's
    /// updates of variables are seen here.
    ///
    /// # Errors
    /// If tensors are missing.
    pub fn from_tensors(unet: &Unet, tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let (mut cross, mut reference) = (HashMap::new(), HashMap::new());
        for layer in unet.attentions() {
            if let Some(tuned) = TunedCrossAttention::from_tensors(tensors, &layer.name) {
                cross.insert(layer.name.clone(), tuned);
            }
            if let Some(attention) = ReferenceAttention::from_tensors(tensors, &layer.name)? {
                reference.insert(layer.name.clone(), attention);
            }
        }
        Ok(Self { concept: ConceptEmbedding::from_tensors(tensors)?, cross, reference })
    }

    /// The same as strong as `dial` says.
    ///
    /// # Errors
    /// If the tensors cannot be computed with.
    pub fn turned(&self, dial: Dial) -> Result<Self> {
        let turned = |(layer, attention): (&String, &ReferenceAttention)| {
            (layer.clone(), attention.clone().with_strength(dial.reference))
        };
        Ok(Self {
            concept: self.concept.weighted(dial.low, dial.high)?,
            cross: self.cross.clone(),
            reference: self.reference.iter().map(turned).collect(),
        })
    }

    /// Whether there is reference attention, so that a reference pass is of use.
    pub fn has_reference(&self) -> bool {
        !self.reference.is_empty()
    }

    /// The reference attention of a layer, if it has one.
    pub(super) fn reference(&self, layer: &str) -> Option<&ReferenceAttention> {
        self.reference.get(layer)
    }
}

/// The frozen base on the reference; keeps what the layers with reference attention see of it.
pub struct ReferenceRecorder<'a> {
    weights: &'a Customisation,
    seen: Seen,
}

impl<'a> ReferenceRecorder<'a> {
    /// Nothing recorded yet.
    pub fn new(weights: &'a Customisation) -> Self {
        Self { weights, seen: Seen::default() }
    }

    /// Whether the last layer has been reached: what the pass computes from there on is of no use.
    fn is_done(&self) -> bool {
        self.seen.layers() == self.weights.reference.len()
    }
}

impl Recorder for ReferenceRecorder<'_> {
    fn seen(self: Box<Self>) -> Seen {
        self.seen
    }
}

impl AttentionProcessor for ReferenceRecorder<'_> {
    fn self_attention(&mut self, layer: &Attention, x: &Tensor) -> Result<Tensor> {
        if let Some(attention) = self.weights.reference.get(&layer.name) {
            let states = attention.states(&layer.parts.norm.forward(x)?)?;
            self.seen.insert(&layer.name, states.to_vec());
        }
        if self.is_done() { Ok(x.clone()) } else { layer.parts.forward(x, self.keep()) }
    }

    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        if self.is_done() { Ok(x.clone()) } else { Plain.cross_attention(layer, x, text) }
    }
}

/// Which attention maps the losses look at.
#[derive(Clone)]
pub struct Watch {
    /// Number of queries of the layers whose maps count: those with a quarter of the latents' side.
    pub queries: usize,
    /// The reference's mask at that side [B, queries].
    pub reference_mask: Tensor,
    /// 1 at the placeholder's positions [B, L].
    pub placeholder: Tensor,
}

/// The mean of maps [B, ...] over layers and heads.
#[derive(Default)]
pub struct MeanMap {
    sum: Option<Tensor>,
    heads: usize,
}

impl MeanMap {
    /// Adds a layer's map, which is the mean over its heads.
    ///
    /// # Errors
    /// If it has another shape than those before.
    pub fn add(&mut self, map: &Tensor, heads: usize) -> Result<()> {
        let map = (map.to_dtype(DType::F32)? * heads as f64)?;
        self.sum = Some(match self.sum.take() {
            Some(sum) => (sum + map)?,
            None => map,
        });
        self.heads += heads;
        Ok(())
    }

    /// The mean, if any layer was seen.
    ///
    /// # Errors
    /// If there is no room.
    pub fn mean(&self) -> Result<Option<Tensor>> {
        self.sum.as_ref().map(|sum| sum / self.heads as f64).transpose()
    }
}

/// The customised attention of one UNet pass, and what it leaves behind.
pub struct Customised<'a> {
    weights: &'a Customisation,
    references: Option<&'a Seen>,
    watch: Option<Watch>,
    keep: Keep,
    /// Reference attention that falls on the reference's subject.
    pub on_subject: MeanMap,
    /// Cross-attention that `S*` gets.
    pub of_concept: MeanMap,
    /// Fusion masks M^f [B, N, 1] by layer.
    pub fusion_masks: BTreeMap<String, Tensor>,
}

impl<'a> Customised<'a> {
    /// Without `references` the self-attention is the base's own.
    pub fn new(weights: &'a Customisation, references: Option<&'a Seen>, watch: Option<Watch>) -> Self {
        Self {
            weights,
            references,
            watch,
            keep: Keep::ALL,
            on_subject: MeanMap::default(),
            of_concept: MeanMap::default(),
            fusion_masks: BTreeMap::new(),
        }
    }

    /// The same, keeping only that much for the gradient.
    pub fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }
}

impl AttentionProcessor for Customised<'_> {
    fn self_attention(&mut self, layer: &Attention, x: &Tensor) -> Result<Tensor> {
        let (Some(attention), Some(references)) = (self.weights.reference.get(&layer.name), self.references) else {
            return layer.parts.forward(x, self.keep);
        };
        let Some([key, value]) = references.get(&layer.name) else {
            candle_core::bail!("the reference pass left nothing of {}", layer.name);
        };
        let watched = self.watch.as_ref().filter(|w| x.dim(1).is_ok_and(|n| n == w.queries));
        let fused = attention.forward(layer, x, [key, value], watched.map(|w| &w.reference_mask))?;
        if let Some(on_subject) = &fused.on_subject {
            self.on_subject.add(on_subject, layer.parts.heads)?;
        }
        self.fusion_masks.insert(layer.name.clone(), fused.fusion_mask);
        Ok(fused.output)
    }

    fn keep(&self) -> Keep {
        self.keep
    }

    fn cross_attention(&mut self, layer: &Attention, x: &Tensor, text: &Tensor) -> Result<Tensor> {
        let in_middle = layer.name.starts_with("mid_block");
        let queries = x.dim(1)?;
        let watched = self.watch.as_ref().filter(|w| !in_middle && queries == w.queries);
        let placeholder = watched.map(|w| w.placeholder.clone());
        let (output, of_concept) = self.watched_cross_attention(layer, x, text, placeholder.as_ref())?;
        if let Some(of_concept) = &of_concept {
            self.of_concept.add(of_concept, layer.parts.heads)?;
        }
        Ok(output)
    }

    fn watched_cross_attention(
        &mut self,
        layer: &Attention,
        x: &Tensor,
        text: &Tensor,
        column: Option<&Tensor>,
    ) -> Result<(Tensor, Option<Tensor>)> {
        match self.weights.cross.get(&layer.name) {
            Some(tuned) => tuned.forward(layer, x, text, column),
            None => Plain.watched_cross_attention(layer, x, text, column),
        }
    }
}

impl Recorder for Customised<'_> {}
