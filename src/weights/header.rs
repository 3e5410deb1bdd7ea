//! What a safetensors file says of its tensors, checked before any of them is read.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::foreign;
use super::source::Source;

/// The format's own bound.
const MOST: u64 = 100_000_000;

/// A tensor in its file.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// How its values are stored.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Where in the file it begins.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: usize,
}

/// The tensors of a file by name.
///
/// # Errors
/// If the file is something else, is cut short, or says what cannot be true.
pub(super) fn read(source: &Source) -> Result<BTreeMap<String, Stored>> {
    let mut start = [0; 1 << 10];
    let start = &mut start[..source.len().min(1 << 10) as usize];
    source.read(start, 0)?;
    let length = start.first_chunk().map(|length| u64::from_le_bytes(*length));
    let rest = source.len().saturating_sub(8);
    let Some(length) = length.filter(|&length| length <= rest.min(MOST)) else {
        foreign::refuse(start)?;
        bail!("it is no safetensors file, or not a whole one (an incomplete copy?): its header does not fit its size");
    };
    let mut text = vec![0; length as usize];
    source.read(&mut text, 8)?;
    let Header(entries) = serde_json::from_slice(&text).context("its header does not fit: no safetensors file")?;
    checked(entries, 8 + length, source.len())
}

/// What a file says of itself beside its tensors: names and values, by name.
///
/// # Errors
/// If it is no safetensors file.
pub fn text(path: &Path) -> Result<Vec<(String, String)>> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        #[serde(default, rename = "__metadata__")]
        metadata: BTreeMap<String, String>,
    }
    let source = Source::open(path)?;
    let mut length = [0; 8];
    source.read(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    ensure!(length <= MOST.min(source.len()), "its header does not fit its size");
    let mut text = vec![0; length as usize];
    source.read(&mut text, 8)?;
    Ok(serde_json::from_slice::<Metadata>(&text)?.metadata.into_iter().collect())
}

/// The entries of a header, if their tensors lie one after the other from `first` to the end of the file.
fn checked(mut entries: Vec<(String, Entry)>, first: u64, end: u64) -> Result<BTreeMap<String, Stored>> {
    entries.sort_by_key(|(_, entry)| entry.data_offsets);
    let mut tensors = BTreeMap::new();
    let mut before = 0;
    for (name, Entry { dtype, shape, data_offsets: (start, stop) }) in entries {
        let elements = shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
        let bits = elements.and_then(|elements| elements.checked_mul(dtype.bitsize()));
        let Some(bits) = bits else { bail!("{name} of shape {shape:?} is larger than any memory") };
        ensure!(
            start == before && stop >= start && bits.is_multiple_of(8) && stop - start == bits as u64 / 8,
            "{name} of shape {shape:?} ({dtype:?}) cannot lie at bytes {start} to {stop} of its data"
        );
        before = stop;
        let stored = Stored { dtype, shape, start: first.saturating_add(start), bytes: bits / 8 };
        ensure!(tensors.insert(name.clone(), stored).is_none(), "two of its tensors are called {name}");
    }
    let (have, need) = (end - first, before);
    ensure!(have >= need, "it is cut short (an incomplete copy?): {need} bytes of data should follow, {have} do");
    ensure!(have == need, "{} bytes follow its last tensor: something was added to it", have - need);
    Ok(tensors)
}

/// A header as it is written. A map would forget which names come twice.
struct Header(Vec<(String, Entry)>);

#[derive(serde::Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a file with that header and so many bytes of data.
    fn said(header: &str, data: usize) -> String {
        let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; data]].concat();
        said_of(bytes)
    }

    fn said_of(bytes: Vec<u8>) -> String {
        match read(&Source::Embedded(bytes.leak())) {
            Ok(tensors) => format!("{:?}", tensors.into_keys().collect::<Vec<_>>()),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn headers_are_checked() {
        let one = |name: &str, shape: &str, from: u64, to: u64| {
            format!(r#""{name}": {{"dtype": "F32", "shape": {shape}, "data_offsets": [{from}, {to}]}}"#)
        };
        let of = |entries: &[String]| format!("{{{}}}", entries.join(","));
        let (a, b) = (one("a", "[2]", 0, 8), one("b", "[1, 3]", 8, 20));
        let metadata = r#""__metadata__": {"format": "pt"}"#.to_string();
        assert_eq!(said(&of(&[b.clone(), metadata, a.clone()]), 20), r#"["a", "b"]"#);
        assert_eq!(said("{}", 0), "[]");
        assert_eq!(said(&of(&[one("scalar", "[]", 0, 4), one("none", "[0, 7]", 4, 4)]), 4), r#"["none", "scalar"]"#);
        for (header, data, part) in [
            (of(&[a.clone(), b.clone()]), 19, "cut short"),
            (of(&[a.clone(), b]), 21, "1 bytes follow its last tensor"),
            (of(&[a.clone(), one("a", "[1]", 8, 12)]), 12, "two of its tensors are called a"),
            (of(&[a.clone(), one("b", "[1]", 4, 8)]), 8, "b of shape [1] (F32) cannot lie at bytes 4 to 8"),
            (of(&[one("c", "[2]", 0, 0)]), 0, "c of shape [2] (F32) cannot lie"),
            (of(&[one("c", "[0]", 0, 8)]), 8, "c of shape [0] (F32) cannot lie"),
            (of(&[one("c", "[2]", 8, 0)]), 8, "c of shape [2] (F32) cannot lie"),
            (of(&[one("c", "[2]", u64::MAX - 7, u64::MAX)]), 8, "cannot lie"),
            (of(&[one("c", "[4294967296, 4294967296]", 0, 0)]), 8, "larger than any memory"),
            (of(&[one("c", "[-1]", 0, 4)]), 4, "its header does not fit"),
            ("[]".into(), 0, "its header does not fit"),
        ] {
            let said = said(&header, data);
            assert!(said.contains(part), "{header}: {said}");
        }
        let terabyte = [&(1u64 << 40).to_le_bytes()[..], b"{}"].concat();
        for (bytes, part) in [
            (b"x\n".to_vec(), "its header does not fit its size"),
            (Vec::new(), "its header does not fit its size"),
            (terabyte, "its header does not fit its size"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), "git lfs pull"),
            (b"PK\x03\x04............".to_vec(), "pickle"),
            (b"\x80\x02}q\x00(X\x06\x00\x00\x00".to_vec(), "pickle"),
            (b"<!DOCTYPE html><html></html>".to_vec(), "web page"),
            (b"GGUF\x03\0\0\0............".to_vec(), "GGUF"),
        ] {
            let said = said_of(bytes);
            assert!(said.contains(part), "{said}");
        }
    }
}
