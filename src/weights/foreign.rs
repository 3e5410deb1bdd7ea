//! Files that are not what they are taken for, and what to do about each.

use std::path::Path;

use anyhow::{Result, bail};

const PICKLE: &str = "a Python pickle, which may run code when it is opened: convert it to safetensors first, e.g. with \
    python -c \"import sys, torch, safetensors.torch as s; w = torch.load(sys.argv[1], weights_only=True, \
    map_location='cpu'); w = w.get('state_dict', w); s.save_file({k: v.contiguous().clone() for k, v in w.items() if \
    hasattr(v, 'dtype')}, sys.argv[2])\" FILE FILE.safetensors";

/// How files of other kinds begin.
const BEGINNINGS: [(&[u8], &str); 8] = [
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: run `git lfs pull` in its folder"),
    (b"PK\x03\x04", PICKLE),
    (b"\x80\x02", PICKLE),
    (b"\x80\x04", PICKLE),
    (b"GGUF", "a GGUF file, whose quantised weights cannot be customised: take the model's safetensors file"),
    (b"<!DOCTYPE", "a web page, not the file: was it saved from a page that asks for a log-in?"),
    (b"<!doctype", "a web page, not the file: was it saved from a page that asks for a log-in?"),
    (b"<html", "a web page, not the file: was it saved from a page that asks for a log-in?"),
];

/// Endings of names, and what such files are.
const ENDINGS: [(&str, &str); 11] = [
    ("bin", PICKLE),
    ("ckpt", PICKLE),
    ("pt", PICKLE),
    ("pth", PICKLE),
    ("pkl", PICKLE),
    ("pickle", PICKLE),
    ("gguf", "a GGUF file, whose quantised weights cannot be customised: take the model's safetensors file"),
    ("msgpack", "a file of Flax, which is not read: take the model's safetensors file"),
    ("onnx", "an ONNX file, which is not read: take the model's safetensors file"),
    ("h5", "a file of TensorFlow, which is not read: take the model's safetensors file"),
    ("zip", "an archive: unpack it first"),
];

/// Refuses what begins like a file of another kind.
///
/// # Errors
/// With what it is and what to do.
pub(super) fn refuse(start: &[u8]) -> Result<()> {
    match BEGINNINGS.iter().find(|(beginning, _)| start.starts_with(beginning)) {
        Some((_, what)) => bail!("it is {what}"),
        None => Ok(()),
    }
}

/// What a file of that name is, and what to do, if weights of that kind are not read.
pub fn by_name(path: &Path) -> Option<&'static str> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    ENDINGS.iter().find(|(other, _)| *other == ending).map(|(_, what)| *what)
}
