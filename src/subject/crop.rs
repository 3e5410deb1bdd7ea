//! A square around the subject, where squeezing a photo would distort it.

use image::imageops;

use super::Photo;

/// Room around the subject, as a share of its longer side.
const MARGIN: f64 = 0.1;

/// Cuts the largest square out of the photo that has the subject near its middle. A subject longer than that
/// keeps its length, and the photo is squeezed by what remains.
pub(super) fn around(photo: &mut Photo) {
    let (width, height) = photo.image.dimensions();
    let inside = photo.mask.enumerate_pixels().filter(|(_, _, level)| level.0[0] > 0).map(|(x, y, _)| (x, y));
    let Some((left, top, right, bottom)) = inside.fold(None, |found: Option<(u32, u32, u32, u32)>, (x, y)| {
        let (left, top, right, bottom) = found.unwrap_or((x, y, x, y));
        Some((left.min(x), top.min(y), right.max(x), bottom.max(y)))
    }) else {
        return;
    };
    let (across, down) = (right - left + 1, bottom - top + 1);
    let room = (2. * MARGIN * across.max(down) as f64).round() as u32;
    let side = width.min(height);
    let length = |own: u32, whole: u32| if own <= side { side } else { (own + room).min(whole) };
    let (x, columns) = span(left + right, length(across, width), width);
    let (y, rows) = span(top + bottom, length(down, height), height);
    photo.image = imageops::crop_imm(&photo.image, x, y, columns, rows).to_image();
    photo.mask = imageops::crop_imm(&photo.mask, x, y, columns, rows).to_image();
}

/// The beginning and length of `length` pixels of `whole` around the middle of first and last, whose sum is given.
fn span(ends: u32, length: u32, whole: u32) -> (u32, u32) {
    ((ends + 1).saturating_sub(length).div_euclid(2).min(whole - length), length)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, RgbImage};

    use super::*;

    fn cropped(size: (u32, u32), subject: (u32, u32, u32, u32)) -> (u32, u32, f64) {
        let (left, top, right, bottom) = subject;
        let is_inside = |x, y| (left..right).contains(&x) && (top..bottom).contains(&y);
        let mask = GrayImage::from_fn(size.0, size.1, |x, y| Luma([if is_inside(x, y) { 255 } else { 0 }]));
        let image = RgbImage::new(size.0, size.1);
        let mut photo =
            Photo { path: "a".into(), image, mask, file_size: size, mask_source: String::new(), caption: None };
        let area = photo.coverage() * (size.0 * size.1) as f64;
        around(&mut photo);
        let (width, height) = photo.image.dimensions();
        assert_eq!(photo.mask.dimensions(), (width, height));
        (width, height, photo.coverage() * (width * height) as f64 / area)
    }

    #[test]
    fn the_whole_subject_is_in_the_largest_square() {
        for subject in [(300, 0, 330, 32), (0, 5, 20, 20), (620, 10, 640, 30), (100, 31, 110, 32)] {
            assert_eq!(cropped((640, 32), subject), (32, 32, 1.), "{subject:?}");
        }
        assert_eq!(cropped((30, 90), (5, 40, 25, 50)), (30, 30, 1.));
        // a subject that is longer keeps its length and some room
        assert_eq!(cropped((640, 32), (100, 4, 200, 28)), (120, 32, 1.));
        assert_eq!(cropped((640, 32), (0, 4, 640, 28)), (640, 32, 1.));
    }
}
