//! Where a subject is in a picture.

use candle_core::{Device, Result, Tensor};
use image::GrayImage;

/// Rows of 0 (elsewhere) and 1 (the subject).
#[derive(Clone, Debug, PartialEq)]
pub struct Mask {
    /// Rows of `width` values.
    pub values: Vec<f32>,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

impl Mask {
    /// A mask that is the same everywhere.
    pub fn full(value: f32, height: usize, width: usize) -> Self {
        Self { values: vec![value; height * width], height, width }
    }

    /// The subject is where `image` is at least half white.
    pub fn from_gray(image: &GrayImage) -> Self {
        let values = image.as_raw().iter().map(|&level| (level >= 128) as u8 as f32).collect();
        Self { values, height: image.height() as usize, width: image.width() as usize }
    }

    /// Squeezed or stretched to a square, nearest: the value at floor(i * source / side).
    pub fn at(&self, side: usize) -> Self {
        let row = |y: usize| y * self.height / side * self.width;
        let places = (0..side).flat_map(|y| (0..side).map(move |x| row(y) + x * self.width / side));
        Self { values: places.map(|i| self.values[i]).collect(), height: side, width: side }
    }

    /// Dilated `times` by a 5x5 maximum, reflected at the border.
    pub fn dilated(&self, times: usize) -> Self {
        let (width, height) = (self.width, self.height);
        let mut values = self.values.clone();
        for _ in 0..times {
            // the maximum over a square is that over its rows, then its columns
            values = maximum(&values, |i| (i / width * width, 1, i % width, width));
            values = maximum(&values, |i| (i % width, width, i / width, height));
        }
        Self { values, height, width }
    }

    /// The mask as a tensor [1, 1, H, W].
    ///
    /// # Errors
    /// If the device has no room.
    pub fn tensor(&self, device: &Device) -> Result<Tensor> {
        Tensor::from_slice(&self.values, (1, 1, self.height, self.width), device)
    }

    /// Whether the subject is nowhere.
    pub fn is_empty(&self) -> bool {
        self.values.iter().all(|&value| value == 0.)
    }
}

/// The maximum over five neighbours of each value along the line (start, stride, place, length).
fn maximum(values: &[f32], line: impl Fn(usize) -> (usize, usize, usize, usize)) -> Vec<f32> {
    let at = |i: usize| {
        let (start, stride, place, length) = line(i);
        let reflect = |p: i64| {
            let last = length as i64 - 1;
            let p = p.abs();
            (if p > last { 2 * last - p } else { p }).clamp(0, last) as usize
        };
        (-2..=2).map(|d| values[start + stride * reflect(place as i64 + d)]).fold(f32::NEG_INFINITY, f32::max)
    };
    (0..values.len()).map(at).collect()
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    #[test]
    fn dilation_grows_by_two_and_reflects() {
        let mut mask = Mask::full(0., 8, 6);
        mask.values[3 * 6 + 5] = 1.;
        let grown = mask.dilated(1);
        let rows: Vec<String> =
            grown.values.chunks(6).map(|r| r.iter().map(|&x| if x > 0. { '#' } else { '.' }).collect()).collect();
        assert_eq!(rows, ["......", "...###", "...###", "...###", "...###", "...###", "......", "......"]);
        assert_eq!(mask.dilated(9), Mask::full(1., 8, 6));
        assert_eq!(mask.dilated(0), mask);
    }

    #[test]
    fn squares_take_the_nearest_value() -> Result<()> {
        let image = GrayImage::from_fn(7, 3, |x, y| Luma([if x == 5 && y > 0 { 128 } else { 127 }]));
        let mask = Mask::from_gray(&image);
        assert_eq!((mask.height, mask.width, mask.values.iter().sum::<f32>()), (3, 7, 2.));
        // rows 0, 0, 1, 2 and columns 0, 1, 3, 5
        let expected = [[0.; 4], [0.; 4], [0., 0., 0., 1.], [0., 0., 0., 1.]].concat();
        assert_eq!(mask.at(4).values, expected);
        assert_eq!(mask.at(4).tensor(&Device::Cpu)?.dims(), [1, 1, 4, 4]);
        assert!(!mask.is_empty() && mask.at(2).is_empty() && !mask.at(14).is_empty());
        Ok(())
    }
}
