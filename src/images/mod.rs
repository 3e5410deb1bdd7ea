//! Pictures: the one way of reading files, and between pixels and tensors.
//!
//! A file is what its content says (`format`); `decode` gives its pixels in its own form within a bound of
//! memory, [`read`](read()) makes an upright sRGB picture on white of them, `levels` a mask. `listing` finds a
//! folder's pictures.

mod decode;
mod exif;
mod format;
mod gif;
mod icc;
mod jpeg;
mod jpeg_scan;
mod levels;
mod listing;
mod mask;
mod parameters;
pub mod png;
mod read;
mod stored;

use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};
use image::imageops::{self, FilterType};
use image::{GrayImage, RgbImage};

pub use levels::{Levels, read_mask};
pub use listing::{Listing, by_number, list, pictures_in};
pub(crate) use listing::{head, is_hidden, mask_stems, none_in};
pub use mask::Mask;
pub use parameters::Written;
pub use read::{Read, open, read, read_bytes};

/// A path for messages: on one line, without characters that steer a terminal.
pub fn shown(path: &Path) -> String {
    printable(&path.display().to_string())
}

/// A path as it is typed in a command that a message suggests: in quotes where a shell would make something else of it.
pub fn typed(path: impl AsRef<Path>) -> String {
    let text = shown(path.as_ref());
    let plain = |c: char| c.is_alphanumeric() || "/._-+,:=@%".contains(c) || (cfg!(windows) && c == '\\');
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// Text for messages, as [`shown`].
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if steers(c) { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Whether a character does something to a terminal instead of being shown; those that turn the direction of
/// writing can hide what a name ends in.
pub fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// An image of any range as rows of RGB values.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
    /// Rows of pixels of three values: height * width * 3.
    pub values: Vec<f64>,
}

/// A picture at another size. The largest are averaged over their pixels, as a better filter takes 16 bytes for
/// each pixel of its intermediate rows.
pub(crate) fn resized(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.width() as u64 * height as u64 * 16 > stored::LARGEST / 2 {
        return imageops::thumbnail(image, width, height);
    }
    imageops::resize(image, width, height, FilterType::CatmullRom)
}

/// A mask at another size, nearest, within the same bound.
pub(crate) fn resized_mask(mask: &GrayImage, width: u32, height: u32) -> GrayImage {
    if mask.width() as u64 * height as u64 * 16 > stored::LARGEST / 2 {
        let place = |i: u32, from: u32, to: u32| (i as u64 * from as u64 / to as u64) as u32;
        let value = |x, y| *mask.get_pixel(place(x, mask.width(), width), place(y, mask.height(), height));
        return GrayImage::from_fn(width, height, value);
    }
    imageops::resize(mask, width, height, FilterType::Nearest)
}

/// A picture as a tensor [1, 3, H, W] in [-1, 1].
///
/// # Errors
/// If the device has no room.
pub fn to_tensor(image: &RgbImage, device: &Device) -> Result<Tensor> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let values: Vec<f32> = image.as_raw().iter().map(|&v| v as f32 / 127.5 - 1.).collect();
    Tensor::from_vec(values, (1, height, width, 3), &Device::Cpu)?
        .permute((0, 3, 1, 2))?
        .contiguous()?
        .to_device(device)
}

/// A tensor [1, 3, H, W] in [-1, 1] as a picture; values outside are clamped.
///
/// # Errors
/// If it has another shape.
pub fn from_tensor(tensor: &Tensor) -> Result<RgbImage> {
    let (_, _, height, width) = tensor.dims4()?;
    let values: Vec<f32> = tensor
        .to_device(&Device::Cpu)?
        .squeeze(0)?
        .permute((1, 2, 0))?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1()?;
    Ok(from_values(width, height, values.into_iter()))
}

/// A picture as numbers in [-1, 1], as the frequency split takes it.
pub fn to_picture(image: &RgbImage) -> Picture {
    let values = image.as_raw().iter().map(|&v| value_of(v)).collect();
    Picture { height: image.height() as usize, width: image.width() as usize, values }
}

/// A tensor [1, 3, H, W] of a picture as numbers.
///
/// # Errors
/// If the device has no room.
pub fn picture_tensor(picture: &Picture, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = picture.values.iter().map(|&v| v as f32).collect();
    let rows = Tensor::from_vec(values, (1, picture.height, picture.width, 3), &Device::Cpu)?;
    rows.permute((0, 3, 1, 2))?.contiguous()?.to_device(device)
}

/// Numbers in [-1, 1] as a picture; values outside are clamped.
pub fn from_picture(picture: &Picture) -> RgbImage {
    from_values(picture.width, picture.height, picture.values.iter().map(|&v| v as f32))
}

fn from_values(width: usize, height: usize, values: impl Iterator<Item = f32>) -> RgbImage {
    let mut image = RgbImage::new(width as u32, height as u32);
    for (byte, value) in image.iter_mut().zip(values) {
        *byte = byte_of(value);
    }
    image
}

/// A channel's byte as a number in [-1, 1].
pub(crate) fn value_of(byte: u8) -> f64 {
    byte as f64 / 127.5 - 1.
}

/// A number in [-1, 1] as a channel's byte; numbers outside are clamped.
pub(crate) fn byte_of(value: f32) -> u8 {
    ((value + 1.) * 127.5).round().clamp(0., 255.) as u8
}

#[cfg(test)]
mod tests;
