//! The losses as TensorBoard reads them: records of protocol buffers, each with checksums.
//!
//! The same losses give the same bytes, whose beginning does not change as a training goes on: what is new is added to a
//! file that TensorBoard may be watching.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::files::write_whole;

/// The file beside the adapter. TensorBoard looks for `tfevents` in names.
pub const FILE: &str = "events.out.tfevents.0.eqdiff";

/// The whole file of scalars: a step, and the names and values that it has.
pub fn file<'a, S>(steps: impl Iterator<Item = (usize, S)>) -> Vec<u8>
where
    S: Iterator<Item = (&'a str, f64)>,
{
    let mut file = record(&[time(0), field(3, b"brain.Event:2")].concat());
    for (step, scalars) in steps {
        let values: Vec<u8> = scalars.flat_map(|(name, value)| field(1, &scalar(name, value as f32))).collect();
        file.extend(record(&[time(step), [vec![2 << 3], varint(step as u64)].concat(), field(5, &values)].concat()));
    }
    file
}

/// Brings the file at `path` to `content`: by adding to it where it is the beginning of that.
///
/// # Errors
/// If it cannot be written; the message names it.
pub fn update(path: &Path, content: &[u8]) -> Result<()> {
    let begins = std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= content.len() as u64);
    let there = if begins { std::fs::read(path).unwrap_or_default() } else { Vec::new() };
    match content.strip_prefix(&there[..]) {
        Some(new) if !there.is_empty() => {
            let add = || File::options().append(true).open(path)?.write_all(new);
            add().with_context(|| format!("cannot write {}", path.display()))
        }
        _ => write_whole(path, content),
    }
}

/// `Event.wall_time`: steps for seconds, since clocks would make equal trainings different.
fn time(step: usize) -> Vec<u8> {
    [vec![1 << 3 | 1], (step as f64).to_le_bytes().to_vec()].concat()
}

/// `Summary.Value`: a tag and a simple value.
fn scalar(name: &str, value: f32) -> Vec<u8> {
    [field(1, name.as_bytes()), vec![2 << 3 | 5], value.to_le_bytes().to_vec()].concat()
}

/// A field of bytes of a protocol buffer.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [vec![number << 3 | 2], varint(bytes.len() as u64), bytes.to_vec()].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A record of a TFRecord file: length and content, each with its checksum.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let sum = |bytes: &[u8]| masked(crc32c(bytes)).to_le_bytes().to_vec();
    [length.to_vec(), sum(&length), content.to_vec(), sum(content)].concat()
}

/// Sums of data that holds sums itself are masked.
fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's cyclic redundancy check.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, &byte| (0..8).fold(sum ^ u32::from(byte), step))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check value of the polynomial's catalogue, and the first record that TensorFlow's writer makes of an event at
    /// time 0.
    #[test]
    fn records_are_tensorflows() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(varint(300), [0xac, 2]);
        let first = file(std::iter::empty::<(usize, std::iter::Empty<(&str, f64)>)>());
        assert_eq!(first.len(), 8 + 4 + 9 + 15 + 4);
        assert_eq!(first[..8], 24u64.to_le_bytes());
        assert_eq!(first[12..21], [9, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&first[21..36], b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn a_file_grows_without_changing() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(FILE);
        let steps = |count: usize| file((1..=count).map(|step| (step, [("loss/total", step as f64)].into_iter())));
        update(&path, &steps(2))?;
        update(&path, &steps(5))?;
        assert_eq!(std::fs::read(&path)?, steps(5));
        // a training that went back to an older checkpoint
        update(&path, &steps(3))?;
        assert_eq!(std::fs::read(&path)?, steps(3));
        std::fs::write(&path, "something else")?;
        update(&path, &steps(1))?;
        assert_eq!(std::fs::read(&path)?, steps(1));
        Ok(())
    }
}
