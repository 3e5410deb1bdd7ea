//! CLIP's tokenizer, and the placeholder's place among the tokens.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokenizers::{Encoding, ModelWrapper};

/// The string that stands for the subject in prompts.
pub const PLACEHOLDER: &str = "S*";

/// A prompt as the text encoder takes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tokens {
    /// Start token, text, end token, padding: as many as the text length.
    pub ids: Vec<u32>,
    /// Where the text ends: the place of the first end token.
    pub end: usize,
    /// Where the placeholder stands.
    pub placeholder: Vec<usize>,
    /// The end of the prompt that did not fit, as it was written.
    pub cut: Option<String>,
    /// Whether a placeholder is in what did not fit.
    pub placeholder_cut: bool,
    /// Words that the vocabulary lacks; one of word pieces lacks none.
    pub unknown: Vec<String>,
}

/// CLIP's byte-pair encoding.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    length: usize,
}

/// The last boundary between characters at or before a byte.
fn boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0)
}

impl Tokenizer {
    /// From `tokenizer.json`; texts are cut and padded to `length` tokens.
    ///
    /// # Errors
    /// If it is not a CLIP tokenizer.
    pub fn from_json(json: &[u8], length: usize) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|e| anyhow!("not a tokenizer.json: {e}"))?;
        // what is cut and padded here must be all there is
        inner.with_truncation(None).map_err(|e| anyhow!("{e}"))?.with_padding(None);
        let special = |token: &str| inner.token_to_id(token).with_context(|| format!("it has no {token} token"));
        let (start, end) = (special("<|startoftext|>")?, special("<|endoftext|>")?);
        if length < 3 {
            bail!("texts of {length} tokens have no room for a word between their start and their end");
        }
        Ok(Self { start, end, inner, length })
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

    /// From CLIP's `merges.txt` alone: its vocabulary is the bytes, the bytes that end a word, the merges in their
    /// order and the two special tokens.
    ///
    /// # Errors
    /// If they are not CLIP's.
    pub fn from_merges(merges: &str, length: usize) -> Result<Self> {
        // printable bytes stand for themselves, in front of those that are written as signs from 256 on
        let printable: Vec<u32> = ('!' as u32..='~' as u32).chain(0xa1..=0xac).chain(0xae..=0xff).collect();
        let others = (0..256).filter(|byte| !printable.contains(byte)).count() as u32;
        let bytes: Vec<String> =
            printable.into_iter().chain(256..256 + others).filter_map(char::from_u32).map(String::from).collect();
        let ends = bytes.iter().map(|byte| format!("{byte}</w>"));
        let joined = merges.lines().filter(|line| !line.starts_with("#version")).map(|line| line.replacen(' ', "", 1));
        let special = ["<|startoftext|>", "<|endoftext|>"].map(String::from);
        let entries = bytes.iter().cloned().chain(ends).chain(joined).chain(special).enumerate();
        let vocab: serde_json::Map<String, Value> = entries.map(|(id, entry)| (entry, id.into())).collect();
        Self::from_vocab(&Value::Object(vocab).to_string(), merges, length)
    }

    /// One more than the largest id.
    pub fn vocabulary(&self) -> usize {
        self.inner.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1)
    }

    /// Tokens of `prompt`. Each occurrence of `placeholder` takes exactly one place, whatever
    /// punctuation or letters it touches; the id there is arbitrary, since the embedding is replaced.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn encode(&self, prompt: &str, placeholder: &str) -> Result<Tokens> {
        // ids, and where in the prompt each begins
        let (mut text, mut begins, mut places, mut unknown) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut at = 0;
        for (i, piece) in prompt.split(placeholder).enumerate() {
            if i > 0 {
                places.push(text.len() + 1);
                text.push(0);
                begins.push(at);
                at += placeholder.len();
            }
            let encoding = self.encoded(piece)?;
            text.extend(encoding.get_ids());
            unknown.extend(self.unknown(piece, &encoding));
            begins.extend(encoding.get_offsets().iter().map(|(begin, _)| at + begin));
            at += piece.len();
        }
        let room = self.length - 2;
        // the tokenizer's normal forms may shift a place into a character
        let cut = begins.get(room).map(|&begin| prompt[boundary(prompt, begin)..].trim().to_string());
        text.truncate(room);
        let all = places.len();
        places.retain(|&place| place <= room);
        let mut ids = vec![self.start];
        ids.extend(text);
        let end = ids.len();
        ids.resize(self.length, self.end);
        Ok(Tokens { ids, end, placeholder_cut: places.len() < all, placeholder: places, cut, unknown })
    }

    /// All that decides how texts are encoded.
    ///
    /// # Errors
    /// Never; the library that writes it could.
    pub fn description(&self) -> Result<String> {
        self.inner.to_string(false).map_err(|e| anyhow!("{e}"))
    }

    /// Ids of a text without start and end tokens.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn plain(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self.encoded(text)?.get_ids().to_vec())
    }

    /// The token that `word` names: by its id, else as an entry of the vocabulary exactly as it is spelt there (`dog</w>`
    /// ends a word, "dog" does not), else the first of the text.
    ///
    /// # Errors
    /// If there is no such id, or the text has no token.
    pub fn entry(&self, word: &str) -> Result<u32> {
        if let Ok(id) = word.parse::<u64>() {
            let known = u32::try_from(id).ok().filter(|&id| self.inner.id_to_token(id).is_some());
            return known.with_context(|| format!("there is no token {id}: the vocabulary has {}", self.vocabulary()));
        }
        match self.inner.token_to_id(word) {
            Some(id) => Ok(id),
            None => self.plain(word)?.first().copied().with_context(|| format!("{word:?} has no token")),
        }
    }

    /// The words of `text` in whose place a vocabulary of whole words puts its token for all others.
    fn unknown(&self, text: &str, encoding: &Encoding) -> Vec<String> {
        let ModelWrapper::WordLevel(model) = self.inner.get_model() else { return Vec::new() };
        let tokens = encoding.get_tokens().iter().zip(encoding.get_offsets());
        let replaced = tokens.filter(|(token, _)| **token == model.unk_token);
        let words = replaced.filter_map(|(_, &(begin, end))| text.get(begin..end));
        words.filter(|word| word.to_lowercase() != model.unk_token).map(String::from).collect()
    }

    fn encoded(&self, text: &str) -> Result<Encoding> {
        self.inner.encode(text, false).map_err(|e| anyhow!("cannot encode {text:?}: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip() -> Result<Tokenizer> {
        Tokenizer::from_merges(include_str!("../../assets/clip/merges.txt"), 77)
    }

    /// Ids of transformers' `CLIPTokenizer` with openai/clip-vit-large-patch14's vocabulary.
    #[test]
    fn clips_own_vocabulary() -> Result<()> {
        let clip = clip()?;
        assert_eq!(clip.vocabulary(), 49408);
        assert_eq!(clip.plain("a photo of a dog")?, [320, 1125, 539, 320, 1929]);
        assert_eq!(clip.plain("ktn")?, [74, 7248]);
        assert_eq!((clip.start, clip.end), (49406, 49407));
        for (word, id) in
            [("ktn", 42170), ("pll", 47629), ("ucd</w>", 43514), ("dog</w>", 1929), ("7", 7), ("42170", 42170)]
        {
            assert_eq!(clip.entry(word)?, id, "{word}");
        }
        // no entry of that spelling: the first token of the text
        assert_eq!(clip.entry("photo of")?, 1125);
        for wrong in ["49408", "18446744073709551615", ""] {
            assert!(clip.entry(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn what_does_not_fit_is_told_as_written() -> Result<()> {
        let clip = clip()?;
        let short = clip.encode("a photo of a S* dog", PLACEHOLDER)?;
        assert_eq!((short.placeholder.as_slice(), &short.cut, short.placeholder_cut), (&[5][..], &None, false));
        // 75 tokens are all that fit
        let all = clip.encode(&"a ".repeat(75), PLACEHOLDER)?;
        assert_eq!((all.ids[75], all.ids[76], all.cut), (320, clip.end, None));
        for (end, cut) in [
            ("Über  \u{1b}[31m RED houses", "Über  \u{1b}[31m RED houses"),
            ("S* clock, on a Table", "S* clock, on a Table"),
            ("e\u{301}te\u{301} \0 é 家", "e\u{301}te\u{301} \0 é 家"),
        ] {
            let long = clip.encode(&format!("{}{end}", "a ".repeat(75)), PLACEHOLDER)?;
            assert_eq!(long.cut.as_deref(), Some(cut));
            assert_eq!((long.placeholder_cut, long.ids.len()), (end.contains(PLACEHOLDER), 77));
            assert!(long.placeholder.is_empty());
        }
        let both = clip.encode(&format!("S* {}S*", "a ".repeat(75)), PLACEHOLDER)?;
        assert_eq!(
            (both.placeholder.as_slice(), both.cut.as_deref(), both.placeholder_cut),
            (&[1][..], Some("a S*"), true)
        );
        Ok(())
    }
}
