//! Whether the first frame of a GIF is there: decoders leave what is missing empty.

use std::io::{BufRead, Read, Seek, SeekFrom};

use anyhow::{Result, bail};

/// Walks over the blocks up to the end of the first frame.
///
/// # Errors
/// If the file ends before.
pub(super) fn check_first_frame(source: &mut (impl BufRead + Seek)) -> Result<()> {
    match walk(source) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("there is no picture in it"),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            bail!("it is cut short: a part of its first frame is missing (copy or download it again)")
        }
        Err(error) => Err(error.into()),
    }
}

fn walk(source: &mut (impl BufRead + Seek)) -> std::io::Result<bool> {
    let screen = bytes::<13>(source)?;
    skip(source, palette(screen[10]))?;
    loop {
        match bytes::<1>(source)?[0] {
            0x21 => {
                bytes::<1>(source)?;
                blocks(source)?;
            }
            0x2c => {
                let frame = bytes::<9>(source)?;
                skip(source, palette(frame[8]) + 1)?;
                blocks(source)?;
                return Ok(true);
            }
            _ => return Ok(false),
        }
    }
}

/// Bytes of the palette that these flags announce.
fn palette(flags: u8) -> u64 {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}

/// Blocks of a length and so many bytes, up to an empty one.
fn blocks(source: &mut (impl BufRead + Seek)) -> std::io::Result<()> {
    loop {
        match bytes::<1>(source)?[0] {
            0 => return Ok(()),
            length => skip(source, length as u64)?,
        }
    }
}

fn skip(source: &mut (impl BufRead + Seek), count: u64) -> std::io::Result<()> {
    source.seek(SeekFrom::Current(count as i64)).map(|_| ())
}

fn bytes<const N: usize>(source: &mut impl Read) -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes)?;
    Ok(bytes)
}
