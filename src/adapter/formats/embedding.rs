//! Textual inversion embeddings: a file with one tensor, whose name is the token.
//!
//! Diffusers takes the token from there; AUTOMATIC1111, Forge and ComfyUI take it from the file's name, and the only
//! tensor whatever it is called.

use std::collections::BTreeMap;

use anyhow::Result;
use candle_core::Tensor;

use crate::adapter::serialised;

/// The file of an embedding, `[d]` or `[n, d]`.
///
/// # Errors
/// If it cannot be copied from its device.
pub fn file(token: &str, embedding: &Tensor) -> Result<Vec<u8>> {
    let rows = embedding.reshape(((), embedding.dims().last().copied().unwrap_or(1)))?;
    named(token, rows)
}

/// What diffusers calls the product of Textual Inversion.
pub const LEARNED: &str = "learned_embeds.safetensors";

/// That file of a `vector`, `[d]`.
///
/// # Errors
/// As [`file()`].
pub fn learned(token: &str, vector: &Tensor) -> Result<Vec<u8>> {
    named(token, vector.clone())
}

fn named(token: &str, embedding: Tensor) -> Result<Vec<u8>> {
    let metadata = [
        ("format", "pt".to_string()),
        ("modelspec.sai_model_spec", "1.0.0".into()),
        ("modelspec.architecture", "stable-diffusion-v1/textual-inversion".into()),
        ("modelspec.title", token.into()),
    ];
    serialised(&BTreeMap::from([(token.to_string(), embedding)]), &metadata)
}
