//! Masks laid over their photos.

use image::{GrayImage, Rgb, RgbImage};

/// What the border is drawn in.
const BORDER: [u8; 3] = [255, 0, 160];

/// The photo with everything but the subject dimmed, and a line around the subject. The mask is as large as the photo.
pub fn overlay(photo: &RgbImage, mask: &GrayImage) -> RgbImage {
    let (width, height) = photo.dimensions();
    let inside = |x: u32, y: u32| mask.get_pixel(x.min(width - 1), y.min(height - 1)).0[0] > 127;
    let thick = (width.max(height) / 256).max(1);
    RgbImage::from_fn(width, height, |x, y| {
        let own = inside(x, y);
        let beside = [(x + thick, y), (x, y + thick), (x.saturating_sub(thick), y), (x, y.saturating_sub(thick))];
        if own && beside.into_iter().any(|(x, y)| !inside(x, y)) {
            return Rgb(BORDER);
        }
        let pixel = photo.get_pixel(x, y).0;
        Rgb(if own { pixel } else { pixel.map(|level| level / 3 + 24) })
    })
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    #[test]
    fn the_subject_stays_and_the_rest_is_dimmed() {
        let photo = RgbImage::from_pixel(20, 10, Rgb([90, 120, 150]));
        let mask = GrayImage::from_fn(20, 10, |x, _| Luma([if x < 10 { 255 } else { 0 }]));
        let laid = overlay(&photo, &mask);
        assert_eq!(laid.get_pixel(3, 5).0, [90, 120, 150]);
        assert_eq!(laid.get_pixel(9, 5).0, BORDER);
        assert_eq!(laid.get_pixel(15, 5).0, [54, 64, 74]);
    }
}
