//! Pictures: reading files, and between pixels and tensors.

pub mod png;

use std::io::Cursor;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use candle_core::{DType, Device, Result, Tensor};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};

/// Bytes that one decoded picture may take; a photo of 12000 x 9000 pixels takes 324 MB. A damaged
/// header can ask for any amount, and memory that is not there ends the process.
const LARGEST: u64 = 1 << 30;

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

/// A decoded file.
pub struct Decoded {
    /// Upright.
    pub image: DynamicImage,
    /// How the file's pixels were turned.
    pub orientation: Orientation,
    /// Width and height of the file's pixels as they are stored.
    pub stored: (u32, u32),
}

/// Decodes a PNG or JPEG and turns it upright.
///
/// # Errors
/// If the content is damaged, of another format or larger than a gibibyte in memory.
pub fn decode(bytes: &[u8]) -> anyhow::Result<Decoded> {
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_decoder()?;
    let (width, height) = decoder.dimensions();
    if decoder.total_bytes() > LARGEST {
        bail!("{width}x{height} pixels are too many: they take more than 1 GiB");
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    Ok(Decoded { image, orientation, stored: (width, height) })
}

/// Reads a PNG or JPEG file, upright.
///
/// # Errors
/// As [`decode`], or if there is no such file; the message names it.
pub fn open(path: &Path) -> anyhow::Result<RgbImage> {
    let read = || anyhow::Ok(decode(&std::fs::read(path)?)?.image.to_rgb8());
    read().with_context(|| format!("cannot read the picture {}", path.display()))
}

/// Whether a file is a PNG or JPEG by its name.
pub fn is_picture(file: &Path) -> bool {
    file.extension().is_some_and(|e| ["png", "jpg", "jpeg"].iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// The pictures in a folder, by name.
///
/// # Errors
/// If the folder cannot be read or has none.
pub fn pictures_in(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| is_picture(path));
    paths.sort();
    if paths.is_empty() {
        bail!("there are no pictures (png, jpg) in {}", folder.display());
    }
    Ok(paths)
}

/// A picture as a tensor [1, 3, H, W] in [-1, 1].
pub fn to_tensor(image: &RgbImage, device: &Device) -> Result<Tensor> {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let values: Vec<f32> = image.as_raw().iter().map(|&v| v as f32 / 127.5 - 1.).collect();
    Tensor::from_vec(values, (1, height, width, 3), &Device::Cpu)?
        .permute((0, 3, 1, 2))?
        .contiguous()?
        .to_device(device)
}

/// A tensor [1, 3, H, W] in [-1, 1] as a picture; values outside are clamped.
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
    let values = image.as_raw().iter().map(|&v| v as f64 / 127.5 - 1.).collect();
    Picture { height: image.height() as usize, width: image.width() as usize, values }
}

/// A tensor [1, 3, H, W] of a picture as numbers.
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
        *byte = ((value + 1.) * 127.5).round().clamp(0., 255.) as u8;
    }
    image
}
