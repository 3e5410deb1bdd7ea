//! Maps of numbers over pictures.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};

/// Rows of numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// Rows of `width` values.
    pub values: Vec<f32>,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl Map {
    /// The same divided by its largest value.
    pub fn normalised(&self) -> Self {
        let most = self.values.iter().copied().fold(f32::MIN_POSITIVE, f32::max);
        Self { values: self.values.iter().map(|value| value / most).collect(), ..*self }
    }

    /// The value at a share of width and height, between those around it.
    fn at(&self, x: f32, y: f32) -> f32 {
        let place = |share: f32, count: usize| {
            let at = (share * count as f32 - 0.5).clamp(0., (count - 1) as f32);
            let low = at.floor() as usize;
            (low, (low + 1).min(count - 1), at.fract())
        };
        let ((left, right, dx), (top, bottom, dy)) = (place(x, self.width), place(y, self.height));
        let value = |x: usize, y: usize| self.values[y * self.width + x];
        let row = |y: usize| value(left, y) * (1. - dx) + value(right, y) * dx;
        row(top) * (1. - dy) + row(bottom) * dy
    }

    fn over(&self, width: u32, height: u32, mut colour: impl FnMut(u32, u32, f32) -> Rgb<u8>) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let value = self.at((x as f32 + 0.5) / width as f32, (y as f32 + 0.5) / height as f32);
            colour(x, y, value.clamp(0., 1.))
        })
    }

    /// From black (0) to white (1), in a size.
    pub fn gray(&self, (width, height): (u32, u32)) -> RgbImage {
        self.over(width, height, |_, _, value| Rgb([(value * 255.).round() as u8; 3]))
    }

    /// As heat over a pale picture.
    pub fn heat(&self, picture: &RgbImage) -> RgbImage {
        let gray = imageops::grayscale(picture);
        self.over(picture.width(), picture.height(), |x, y, value| {
            let (below, share) = (f32::from(gray.get_pixel(x, y).0[0]), 0.25 + 0.6 * value);
            let heat = heat(value);
            Rgb(std::array::from_fn(|i| (below * (1. - share) + f32::from(heat[i]) * share).round() as u8))
        })
    }
}

/// Black, purple, orange, yellow: every step brighter than the one before.
fn heat(value: f32) -> [u8; 3] {
    const STOPS: [[f32; 3]; 5] =
        [[10., 8., 40.], [90., 20., 110.], [188., 55., 84.], [249., 142., 9.], [252., 255., 164.]];
    let at = value.clamp(0., 1.) * (STOPS.len() - 1) as f32;
    let low = (at.floor() as usize).min(STOPS.len() - 2);
    let share = at - low as f32;
    std::array::from_fn(|i| (STOPS[low][i] * (1. - share) + STOPS[low + 1][i] * share).round() as u8)
}

/// The picture with a ring around a place, given as shares of width and height.
pub fn ringed(picture: &RgbImage, (x, y): (f32, f32)) -> RgbImage {
    let (width, height) = (picture.width() as f32, picture.height() as f32);
    let radius = width.min(height) * 0.045 + 2.;
    let mut out = picture.clone();
    for (px, py, pixel) in out.enumerate_pixels_mut() {
        let distance = ((px as f32 + 0.5 - x * width).powi(2) + (py as f32 + 0.5 - y * height).powi(2)).sqrt();
        match (distance - radius).abs() {
            gap if gap < radius * 0.2 => *pixel = Rgb([255, 230, 0]),
            gap if gap < radius * 0.4 => *pixel = Rgb([0, 0, 0]),
            _ => {}
        }
    }
    out
}

/// A picture enlarged by a whole factor, so that small ones can be looked at and captions fit below them.
pub fn enlarged(picture: &RgbImage) -> RgbImage {
    let factor = (256 / picture.width().max(1)).max(1);
    imageops::resize(picture, picture.width() * factor, picture.height() * factor, FilterType::CatmullRom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_drawn_where_their_values_are() {
        let map = Map { values: vec![0., 2., 0., 0., 0., 4.], width: 3, height: 2 }.normalised();
        let gray = map.gray((30, 20));
        let level = |x, y| gray.get_pixel(x, y).0[0];
        assert_eq!((level(0, 0), level(29, 19)), (0, 255));
        assert!((115..=128).contains(&level(14, 0)) && level(0, 19) == 0);
        let picture = RgbImage::from_pixel(30, 20, Rgb([200; 3]));
        let brightness = |p: &Rgb<u8>| p.0.iter().map(|&v| u32::from(v)).sum::<u32>();
        let hot = map.heat(&picture);
        assert!(hot.get_pixel(29, 19).0[2] < hot.get_pixel(29, 19).0[0], "yellow");
        let heats: Vec<u32> = (0..=20).map(|i| brightness(&Rgb(heat(i as f32 / 20.)))).collect();
        assert!(heats.windows(2).all(|pair| pair[0] < pair[1]), "{heats:?}");
        assert_ne!(ringed(&picture, (0.5, 0.5)), picture);
    }
}
