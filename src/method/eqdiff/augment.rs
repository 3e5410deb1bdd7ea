//! References as the released code augments them.

use image::{GrayImage, RgbImage, imageops};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// A reference as the released code augments it.
pub struct Augmented {
    /// The augmented photo.
    pub image: RgbImage,
    /// Where the subject is in it.
    pub mask: GrayImage,
    /// What is put before the prompt.
    pub caption: &'static str,
}

/// Two times in three the photo is shrunk and pasted on black, else it is enlarged and cropped.
pub fn augment(image: &RgbImage, mask: &GrayImage, rng: &mut ChaCha8Rng) -> Augmented {
    let side = image.width();
    let resized = |size: u32| {
        let image = imageops::resize(image, size, size, imageops::FilterType::CatmullRom);
        (image, imageops::resize(mask, size, size, imageops::FilterType::Nearest))
    };
    if rng.random::<f64>() < 0.66 {
        let size = rng.random_range(side.div_ceil(3)..=side);
        let (small, small_mask) = resized(size);
        let (mut image, mut mask) = (RgbImage::new(side, side), GrayImage::new(side, side));
        let (x, y) = (rng.random_range(0..=side - size) as i64, rng.random_range(0..=side - size) as i64);
        imageops::replace(&mut image, &small, x, y);
        imageops::replace(&mut mask, &small_mask, x, y);
        let tiny = (size as f64) < 0.6 * side as f64;
        let caption = if tiny { *["very small ", "a far away "].choose(rng).unwrap_or(&"") } else { "" };
        return Augmented { image, mask, caption };
    }
    let size = (side as f64 * rng.random_range(1.2..1.4)) as u32;
    let (large, large_mask) = resized(size);
    let (x, y) = (rng.random_range(0..=size - side), rng.random_range(0..=size - side));
    Augmented {
        image: imageops::crop_imm(&large, x, y, side, side).to_image(),
        mask: imageops::crop_imm(&large_mask, x, y, side, side).to_image(),
        caption: ["zoomed in ", "close up "].choose(rng).unwrap_or(&""),
    }
}
