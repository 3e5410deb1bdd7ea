//! References as the released code augments them, and as the paper says.

use image::{GrayImage, ImageBuffer, Pixel, RgbImage, imageops};
use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::rra::Augmentation;

/// An augmented reference.
pub struct Augmented {
    /// The augmented photo.
    pub image: RgbImage,
    /// Where the subject is in it.
    pub mask: GrayImage,
    /// What is put before the prompt.
    pub caption: &'static str,
}

/// Two times in three the photo is shrunk and pasted on black, else it is enlarged and cropped; for the paper it is
/// turned and mirrored first.
pub fn augment(image: &RgbImage, mask: &GrayImage, how: Augmentation, rng: &mut ChaCha8Rng) -> Augmented {
    match how {
        Augmentation::Released => scaled(image, mask, rng),
        Augmentation::Paper => {
            let angle = rng.random_range(-TURN..TURN).to_radians();
            let (mut image, mut mask) = (turned(image, angle), turned(mask, angle));
            if rng.random() {
                imageops::flip_horizontal_in_place(&mut image);
                imageops::flip_horizontal_in_place(&mut mask);
            }
            scaled(&image, &mask, rng)
        }
    }
}

/// The paper does not say how far references are rotated: up to so many degrees.
const TURN: f64 = 30.;

/// A square picture turned about its centre, nearest; what comes in at the corners is black.
fn turned<P: Pixel<Subpixel = u8>>(image: &ImageBuffer<P, Vec<u8>>, angle: f64) -> ImageBuffer<P, Vec<u8>> {
    let mut out = ImageBuffer::new(image.width(), image.height());
    let centre = (image.width() as f64 / 2., image.height() as f64 / 2.);
    let (sin, cos) = angle.sin_cos();
    for (x, y, pixel) in out.enumerate_pixels_mut() {
        let (dx, dy) = (x as f64 + 0.5 - centre.0, y as f64 + 0.5 - centre.1);
        let (from_x, from_y) = (centre.0 + cos * dx + sin * dy, centre.1 - sin * dx + cos * dy);
        if from_x >= 0. && from_y >= 0. {
            // what lies beyond the far border is no pixel either
            image.get_pixel_checked(from_x as u32, from_y as u32).inspect(|from| *pixel = **from);
        }
    }
    out
}

fn scaled(image: &RgbImage, mask: &GrayImage, rng: &mut ChaCha8Rng) -> Augmented {
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

#[cfg(test)]
mod tests {
    use image::{Luma, Rgb};

    use super::*;

    #[test]
    fn a_turn_takes_the_mask_along() {
        let image = RgbImage::from_fn(64, 64, |x, y| if x < 20 && y < 30 { Rgb([200; 3]) } else { Rgb([10; 3]) });
        let mask = GrayImage::from_fn(64, 64, |x, y| Luma([if x < 20 && y < 30 { 255 } else { 0 }]));
        assert_eq!(turned(&image, 0.), image);
        let quarter = turned(&mask, std::f64::consts::FRAC_PI_2);
        assert_eq!((quarter.get_pixel(60, 3).0, quarter.get_pixel(3, 3).0), ([255], [0]));
        for index in 0..20 {
            let mut rng = crate::rng::stream(0, "test", index);
            let augmented = augment(&image, &mask, Augmentation::Paper, &mut rng);
            let bright = |pixel: &Rgb<u8>| pixel.0[0] > 120;
            let wrong =
                augmented.image.pixels().zip(augmented.mask.pixels()).filter(|(p, m)| bright(p) != (m.0[0] > 0));
            assert!(wrong.count() < 64 * 64 / 20, "{index}");
        }
    }
}
