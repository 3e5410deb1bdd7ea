//! Masks that are made: where the subject is in photos that nobody has cut it out of.
//!
//! Two ways, both of them [`MaskMaker`]s: by colours and borders alone ([`PlainCut`]), and by what the base looks at when it
//! reads the class word ([`AttentionCut`]). What they find, or the user points at, Segment Anything may cut ([`anything()`]).

mod anything;
mod attention;
mod colour;
mod cut;
mod grid;
mod tidy;

use anyhow::Result;
use image::RgbImage;

pub use crate::subject::{Made, MaskMaker};
pub use anything::{anything, around};
pub use attention::{AttentionCut, Looking};
pub use cut::{Cutting, overlap};

/// Rows of values from 0 (surely not) to 1 (surely the subject), over the whole of a photo whatever its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    values: Vec<f64>,
    side: usize,
}

impl Map {
    /// A map of `side` x `side` values, brought to the range from 0 to 1.
    pub fn new(values: &[f32], side: usize) -> Self {
        let (least, most) = values.iter().fold((f32::MAX, f32::MIN), |(a, b), &value| (a.min(value), b.max(value)));
        let range = f64::from(most - least).max(f64::MIN_POSITIVE);
        Self { values: values.iter().map(|&value| f64::from(value - least) / range).collect(), side }
    }

    /// The value at a pixel of a photo, between the nearest four.
    fn at(&self, x: u32, y: u32, width: u32, height: u32) -> f64 {
        let place = |pixel: u32, pixels: u32| (f64::from(pixel) + 0.5) * self.side as f64 / f64::from(pixels) - 0.5;
        between(&self.values, self.side, place(x, width), place(y, height))
    }
}

/// The value at a place between the nearest four of a square; beyond its edge it is the edge's.
fn between<T: Copy + Into<f64>>(values: &[T], side: usize, x: f64, y: f64) -> f64 {
    let near = |place: f64| {
        let place = place.clamp(0., (side - 1) as f64);
        (place as usize, (place as usize + 1).min(side - 1), place.fract())
    };
    let ((left, right, across), (above, below, down)) = (near(x), near(y));
    let row = |y: usize| {
        let at = |x: usize| -> f64 { values[y * side + x].into() };
        at(left) * (1. - across) + at(right) * across
    };
    row(above) * (1. - down) + row(below) * down
}

/// Cuts by colours and borders alone: for subjects before plain backgrounds, or several photos with different ones.
pub struct PlainCut(pub Cutting);

impl MaskMaker for PlainCut {
    fn masks(&mut self, photos: &[&RgbImage], _: &str) -> Result<Vec<Made>> {
        Ok(self.0.cut(photos, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_lie_over_the_whole_photo() {
        let map = Map::new(&[1., 3., 1., 5.], 2);
        assert_eq!(map.values, [0., 0.5, 0., 1.]);
        assert_eq!([map.at(0, 0, 8, 4), map.at(7, 0, 8, 4), map.at(7, 3, 8, 4)], [0., 0.5, 1.]);
        assert!((map.at(1, 1, 3, 3) - 0.375).abs() < 1e-12);
    }
}
