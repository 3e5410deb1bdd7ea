//! Pillow's antialiased bicubic resampling, level for level.
//!
//! CLIP and DINO were trained behind Pillow's `BICUBIC`, and published metrics are measured behind
//! it. Its rounding to 8 bits after each of the two passes moves features enough to be worth doing
//! the same way (source: Pillow's `src/libImaging/Resample.c`). The horizontal pass comes first, as in
//! all of Pillow's versions for pictures of usual shapes; recent ones turn the order round for those
//! several times taller than wide, which differs by the rounding between the passes only.

use image::RgbImage;

/// Fractional bits of Pillow's coefficients: 32 less 8 for the pixel and 2 against overflow.
const PRECISION: u32 = 32 - 8 - 2;

/// Half the width of the bicubic kernel, in source pixels at a scale of one.
const SUPPORT: f64 = 2.;

/// A part of the resampled picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

/// The `window` of `image` resized to `width` x `height`. Nothing outside the window is computed, so
/// that a very long picture costs no more than what is kept of it.
///
/// The window must lie inside the resized picture; where it does not, the edge repeats.
pub fn bicubic(image: &RgbImage, width: usize, height: usize, window: Window) -> RgbImage {
    let (from_width, from_height) = (image.width() as usize, image.height() as usize);
    let columns = taps(from_width, width, window.left, window.width);
    let rows = taps(from_height, height, window.top, window.height);

    // The horizontal pass fills only the source rows that the vertical pass reads.
    let first = rows.iter().map(|t| t.start).min().unwrap_or(0);
    let last = rows.iter().map(|t| t.start + t.weights.len()).max().unwrap_or(first);
    let source = image.as_raw();
    let mut middle = Vec::with_capacity((last - first) * columns.len() * 3);
    for y in first..last {
        let row = &source[y * from_width * 3..][..from_width * 3];
        for tap in &columns {
            for channel in 0..3 {
                let pixels = row[tap.start * 3 + channel..].iter().step_by(3);
                middle.push(tap.apply(pixels));
            }
        }
    }

    let stride = columns.len() * 3;
    let mut result = RgbImage::new(window.width as u32, window.height as u32);
    for (tap, row) in rows.iter().zip(result.chunks_exact_mut(stride.max(1))) {
        for (x, byte) in row.iter_mut().enumerate() {
            *byte = tap.apply(middle[(tap.start - first) * stride + x..].iter().step_by(stride));
        }
    }
    result
}

/// Where one output pixel reads, and how much of each source pixel it takes.
struct Tap {
    start: usize,
    weights: Vec<i64>,
}

impl Tap {
    /// The weighted sum, rounded and clipped to a level.
    fn apply<'a>(&self, pixels: impl Iterator<Item = &'a u8>) -> u8 {
        let half = 1 << (PRECISION - 1);
        let sum: i64 = self.weights.iter().zip(pixels).map(|(&w, &p)| w * i64::from(p)).sum();
        ((half + sum) >> PRECISION).clamp(0, 255) as u8
    }
}

/// The taps of `count` output pixels from `first` on, when `from` pixels become `to`.
fn taps(from: usize, to: usize, first: usize, count: usize) -> Vec<Tap> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.); // a smaller picture needs a wider kernel, a larger one does not
    let reach = SUPPORT * stretch;
    let tap = |x: usize| {
        let center = (x.min(to - 1) as f64 + 0.5) * scale;
        let start = (center - reach + 0.5).max(0.) as usize;
        let end = ((center + reach + 0.5) as usize).min(from);
        let weights: Vec<f64> = (start..end).map(|i| kernel((i as f64 - center + 0.5) / stretch)).collect();
        let total: f64 = weights.iter().sum();
        // Pillow rounds half away from zero, as `round` does.
        let fixed = |w: &f64| (w / total * f64::from(1 << PRECISION)).round() as i64;
        Tap { start, weights: weights.iter().map(fixed).collect() }
    };
    (first..first + count).map(tap).collect()
}

/// The cubic convolution kernel with a = -0.5.
fn kernel(x: f64) -> f64 {
    const A: f64 = -0.5;
    match x.abs() {
        x if x < 1. => ((A + 2.) * x - (A + 3.)) * x * x + 1.,
        x if x < 2. => (((x - 5.) * x + 8.) * x - 4.) * A,
        _ => 0.,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A picture that any language makes alike: smooth, with a sharp edge and all levels.
    pub(crate) fn pattern(width: usize, height: usize) -> RgbImage {
        RgbImage::from_fn(width as u32, height as u32, |x, y| {
            let step = if x > y { 90 } else { 0 };
            image::Rgb([(x * 37 + y * 11 + step) as u8, (x * y + 3 * step) as u8, ((x ^ y) * 9) as u8])
        })
    }

    fn whole(width: usize, height: usize) -> Window {
        Window { left: 0, top: 0, width, height }
    }

    /// What identifies a picture in a test: Adler-32 over its bytes.
    fn checksum(image: &RgbImage) -> u32 {
        let (a, b) = image.iter().fold((1u32, 0u32), |(a, b), &v| {
            let a = (a + u32::from(v)) % 65521;
            (a, (a + b) % 65521)
        });
        b << 16 | a
    }

    #[test]
    fn agrees_with_pillow_level_for_level() {
        // zlib.adler32(Image.fromarray(pattern).resize(to, Image.BICUBIC).tobytes()) (Pillow 13).
        let recorded = [
            ((300, 200), (336, 224), 0xa158aca3),
            ((90, 160), (224, 398), 0xf9373f96),
            ((512, 512), (224, 224), 0x6516edd5),
            ((64, 48), (7, 5), 0x1ade3194),
            ((300, 5), (30, 11), 0x74aec272),
            ((1, 1), (3, 2), 0x120001),
            ((33, 21), (33, 40), 0x447fd447),
        ];
        for ((w, h), (to_w, to_h), sum) in recorded {
            let resized = bicubic(&pattern(w, h), to_w, to_h, whole(to_w, to_h));
            assert_eq!(checksum(&resized), sum, "{w}x{h} to {to_w}x{to_h}");
        }
    }

    #[test]
    fn a_window_is_the_crop_of_the_whole() {
        let image = pattern(61, 83);
        let window = Window { left: 3, top: 11, width: 20, height: 25 };
        let all = bicubic(&image, 30, 40, whole(30, 40));
        let crop = image::imageops::crop_imm(&all, 3, 11, 20, 25).to_image();
        assert_eq!(bicubic(&image, 30, 40, window), crop);
    }

    #[test]
    fn the_same_size_and_a_single_colour_stay() {
        let image = pattern(17, 9);
        assert_eq!(bicubic(&image, 17, 9, whole(17, 9)), image);
        let plain = RgbImage::from_pixel(13, 7, image::Rgb([255, 0, 128]));
        assert!(bicubic(&plain, 40, 3, whole(40, 3)).pixels().all(|p| p.0 == [255, 0, 128]));
        assert_eq!(
            bicubic(&RgbImage::from_pixel(1, 1, image::Rgb([9, 8, 7])), 2, 2, whole(2, 2)).as_raw()[..3],
            [9, 8, 7]
        );
    }
}
