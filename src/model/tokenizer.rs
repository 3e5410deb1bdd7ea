//! CLIP's tokenizer, and the placeholder's place among the tokens.

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

/// The string that stands for the subject in prompts.
pub const PLACEHOLDER: &str = "S*";

/// A prompt as the text encoder takes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tokens {
    /// Start token, text, end token, padding: as many as the text length.
    pub ids: Vec<u32>,
    /// Where the placeholder stands.
    pub placeholder: Vec<usize>,
    /// What did not fit.
    pub cut: Option<String>,
}

/// CLIP's byte-pair encoding.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    length: usize,
}

impl Tokenizer {
    /// From `tokenizer.json`; texts are cut and padded to `length` tokens.
    ///
    /// # Errors
    /// If it is not a CLIP tokenizer.
    pub fn from_json(json: &[u8], length: usize) -> Result<Self> {
        let inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| anyhow!("not a tokenizer.json: {e}"))?;
        let special = |token: &str| inner.token_to_id(token).with_context(|| format!("it has no {token} token"));
        Ok(Self { start: special("<|startoftext|>")?, end: special("<|endoftext|>")?, inner, length })
    }

    /// From `vocab.json` and `merges.txt`, the layout of Stable Diffusion 1.4.
    ///
    /// # Errors
    /// If they are not CLIP's.
    pub fn from_vocab(vocab: &str, merges: &str, length: usize) -> Result<Self> {
        let vocab: Value = serde_json::from_str(vocab).context("vocab.json is no JSON")?;
        let merges: Vec<&str> =
            merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
        let added = ["<|startoftext|>", "<|endoftext|>"].map(|token| {
            json!({"id": vocab[token], "content": token, "special": true, "normalized": false,
                   "single_word": false, "lstrip": false, "rstrip": false})
        });
        // CLIP's rules: NFC, single spaces, lower case; words, single digits and runs of other signs
        let words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
        let json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"}]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
                      "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false,
                      "ignore_merges": false, "vocab": vocab, "merges": merges},
        });
        Self::from_json(&serde_json::to_vec(&json)?, length)
    }

    /// Tokens of `prompt`. Each occurrence of `placeholder` takes exactly one place, whatever
    /// punctuation or letters it touches; the id there is arbitrary, since the embedding is replaced.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, prompt: &str, placeholder: &str) -> Result<Tokens> {
        let (mut text, mut places) = (Vec::new(), Vec::new());
        for (i, piece) in prompt.split(placeholder).enumerate() {
            if i > 0 {
                places.push(text.len() + 1);
                text.push(0);
            }
            text.extend(self.plain(piece)?);
        }
        let room = self.length - 2;
        let cut = if text.len() > room {
            let rest = text.split_off(room);
            Some(self.inner.decode(&rest, true).map_err(|e| anyhow!("{e}"))?)
        } else {
            None
        };
        places.retain(|&place| place <= room);
        let mut ids = vec![self.start];
        ids.extend(text);
        ids.resize(self.length, self.end);
        Ok(Tokens { ids, placeholder: places, cut })
    }

    /// Ids of a text without start and end tokens.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn plain(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode(text, false).map_err(|e| anyhow!("cannot encode {text:?}: {e}"))?;
        Ok(encoding.get_ids().to_vec())
    }
}
