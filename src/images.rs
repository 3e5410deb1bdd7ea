//! Between pictures and tensors.

use candle_core::{DType, Device, Result, Tensor};
use image::RgbImage;

use crate::method::fdte::Picture;

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
