//! Prompts as the UNet takes them: states of the frozen text encoder.

use std::collections::HashMap;
use std::sync::Mutex;

use candle_core::{Device, Result, Tensor};

use super::{Base, ids_tensor};
use crate::model::clip::Injection;
use crate::model::tokenizer::Tokens;

/// The frozen text encoder with a memory of prompts that do not change.
pub struct Texts<'a> {
    base: &'a Base,
    known: Mutex<HashMap<Vec<u32>, Tensor>>,
}

impl<'a> Texts<'a> {
    /// An empty memory.
    pub fn new(base: &'a Base) -> Self {
        Self { base, known: Mutex::default() }
    }

    /// States [1, L, d] of a prompt without placeholder.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn plain(&self, tokens: &Tokens) -> Result<Tensor> {
        if let Ok(known) = self.known.lock()
            && let Some(states) = known.get(&tokens.ids)
        {
            return Ok(states.clone());
        }
        let states = self.base.text.forward(&ids_tensor(&[&tokens.ids], &self.base.device)?, None)?;
        if let Ok(mut known) = self.known.lock() {
            known.insert(tokens.ids.clone(), states.clone());
        }
        Ok(states)
    }

    /// States [B, L, d] of prompts without placeholder.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn plain_batch(&self, prompts: &[Tokens]) -> Result<Tensor> {
        let states = prompts.iter().map(|tokens| self.plain(tokens)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&states, 0)
    }

    /// States [B, L, d] of prompts whose placeholders stand for `embeddings`, `[d]` each. A device with memory of its own
    /// is asked once for all of them; the processor has as much to do for each in a batch as alone.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn with_concepts(&self, prompts: &[Tokens], embeddings: &[Tensor]) -> Result<Tensor> {
        let (with, without): (Vec<usize>, Vec<usize>) =
            (0..prompts.len()).partition(|&i| !prompts[i].placeholder.is_empty());
        if self.base.device.is_cpu() || with.len() < 2 {
            let states = prompts.iter().zip(embeddings).map(|(tokens, embedding)| self.with_concept(tokens, embedding));
            return Tensor::cat(&states.collect::<Result<Vec<_>>>()?, 0);
        }
        let tokens: Vec<Tokens> = with.iter().map(|&i| prompts[i].clone()).collect();
        let ids: Vec<&[u32]> = tokens.iter().map(|tokens| tokens.ids.as_slice()).collect();
        let positions = placeholder_columns(&tokens, &self.base.device)?;
        let chosen: Vec<&Tensor> = with.iter().map(|&i| &embeddings[i]).collect();
        let injection = Injection { positions: &positions, embeddings: &Tensor::stack(&chosen, 0)? };
        let mut states = vec![self.base.text.forward(&ids_tensor(&ids, &self.base.device)?, Some(injection))?];
        for &i in &without {
            states.push(self.plain(&prompts[i])?);
        }
        let states = Tensor::cat(&states, 0)?;
        let mut place = vec![0u32; prompts.len()];
        with.iter().chain(&without).zip(0..).for_each(|(&i, at)| place[i] = at);
        if place.is_sorted() { Ok(states) } else { states.index_select(&Tensor::new(place, states.device())?, 0) }
    }

    /// States [1, L, d] of a prompt whose placeholder stands for `embedding`, `[d]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn with_concept(&self, tokens: &Tokens, embedding: &Tensor) -> Result<Tensor> {
        if tokens.placeholder.is_empty() {
            return self.plain(tokens);
        }
        let positions = placeholder_columns(std::slice::from_ref(tokens), &self.base.device)?;
        let injection = Injection { positions: &positions, embeddings: &embedding.unsqueeze(0)? };
        self.base.text.forward(&ids_tensor(&[&tokens.ids], &self.base.device)?, Some(injection))
    }

    /// States [1, L, d] of a prompt whose placeholders, in order, stand for `embeddings` `[d]`; there may be fewer places,
    /// where the prompt was cut off.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn with_several(&self, tokens: &Tokens, embeddings: &[Tensor]) -> Result<Tensor> {
        if tokens.placeholder.is_empty() {
            return self.plain(tokens);
        }
        let device = &self.base.device;
        let positions = placeholder_columns(std::slice::from_ref(tokens), device)?;
        let nothing = self.base.text.token_embedding(0)?.zeros_like()?;
        let mut rows = vec![nothing; tokens.ids.len()];
        for (&place, embedding) in tokens.placeholder.iter().zip(embeddings) {
            rows[place] = embedding.clone();
        }
        let injection = Injection { positions: &positions, embeddings: &Tensor::stack(&rows, 0)?.unsqueeze(0)? };
        self.base.text.forward(&ids_tensor(&[&tokens.ids], device)?, Some(injection))
    }
}

/// 1 at the placeholder's positions: [B, L].
///
/// # Errors
/// If the prompts differ in length.
pub fn placeholder_columns(prompts: &[Tokens], device: &Device) -> Result<Tensor> {
    let rows: Vec<f32> = prompts
        .iter()
        .flat_map(|tokens| (0..tokens.ids.len()).map(|i| tokens.placeholder.contains(&i) as u8 as f32))
        .collect();
    Tensor::from_vec(rows, (prompts.len(), prompts.first().map_or(0, |t| t.ids.len())), device)
}
