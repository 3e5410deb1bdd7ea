//! Photos at random scales and places, and which of their latents are photo.

use anyhow::Result;
use candle_core::Tensor;
use image::RgbImage;
use image::imageops::{self, FilterType};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::base::Base;
use crate::images::{self, Mask};

/// Where a photo goes in a square of `side` pixels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Side of the square.
    pub side: usize,
    /// Side that the photo is resized to.
    pub resize: usize,
    /// First row and the one after the last: of the square's, that the small photo takes, or of the large photo's, that the
    /// square takes.
    pub rows: [usize; 2],
    /// Columns likewise.
    pub columns: [usize; 2],
    /// One of these is put before the prompt.
    pub captions: &'static [&'static str],
}

impl Placement {
    /// What a drawn scale does, with the centre (row, column) of the small photo, or of what is seen of the large one.
    pub fn new(side: usize, scale: usize, [row, column]: [usize; 2]) -> Self {
        let place = |half: usize, captions| {
            let around = |centre: usize| [centre - half, centre + half];
            Self { side, resize: scale, rows: around(row), columns: around(column), captions }
        };
        if (scale as f64) < 0.6 * side as f64 {
            place(scale / 2, &["a far away ", "very small "])
        } else if scale > side {
            place(side / 2, &["zoomed in ", "close up "])
        } else {
            Self { side, resize: side, rows: [0, side], columns: [0, side], captions: &[""] }
        }
    }

    /// Two times in three a third of the side to all of it, else 1.2 to 1.4 times the side; the centre anywhere.
    pub fn draw(side: usize, rng: &mut ChaCha8Rng) -> Self {
        let times = |factor: f64| (factor * side as f64) as usize;
        let scale = if rng.random::<f64>() < 2. / 3. {
            rng.random_range(side / 3..=side)
        } else {
            rng.random_range(times(1.2)..times(1.4))
        };
        let scale = scale.next_multiple_of(2);
        let (least, most) = if scale > side { (side / 2, scale - side / 2) } else { (scale / 2, side - scale / 2) };
        let centre = [rng.random_range(least..=most), rng.random_range(least..=most)];
        Self::new(side, scale, centre)
    }

    /// Whether the photo is only resized.
    pub fn is_plain(&self) -> bool {
        self.resize == self.side
    }

    /// Which latents are photo, with `factor` pixels each along a side: a small photo's without those at its border.
    pub fn valid(&self, factor: usize) -> Mask {
        let side = self.side / factor;
        if self.resize >= self.side {
            return Mask::full(1., side, side);
        }
        let inside = |at: usize, [first, end]: [usize; 2]| at > first / factor && at + 1 < end / factor;
        let values = (0..side).flat_map(|y| (0..side).map(move |x| (y, x)));
        let values = values.map(|(y, x)| (inside(y, self.rows) && inside(x, self.columns)) as u8 as f32);
        Mask { values: values.collect(), height: side, width: side }
    }

    /// The placed photo [1, 3, side, side] in [-1, 1]; around a small one is 0, mid-grey.
    ///
    /// # Errors
    /// If tensors cannot be made.
    pub fn picture(&self, base: &Base, photo: &RgbImage) -> Result<Tensor> {
        let size = self.resize as u32;
        let resized = imageops::resize(photo, size, size, FilterType::CatmullRom);
        let ([top, bottom], [left, right]) = (self.rows, self.columns);
        if self.resize > self.side {
            let side = self.side as u32;
            let seen = imageops::crop_imm(&resized, left as u32, top as u32, side, side).to_image();
            return Ok(images::to_tensor(&seen, &base.device)?);
        }
        let photo = images::to_tensor(&resized, &base.device)?;
        Ok(photo.pad_with_zeros(2, top, self.side - bottom)?.pad_with_zeros(3, left, self.side - right)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_places_lie_inside() {
        let kinds = (0..3000).map(|i| {
            let placement = Placement::draw(512, &mut crate::rng::stream(0, "placement", i));
            let frame = placement.resize.max(512);
            assert!(placement.rows[1] <= frame && placement.columns[1] <= frame, "{placement:?}");
            assert_eq!(placement.rows[1] - placement.rows[0], placement.resize.min(512));
            assert!(!placement.valid(8).is_empty());
            placement.resize.cmp(&512)
        });
        let mut counts = [0; 3];
        kinds.for_each(|kind| counts[(kind as i8 + 1) as usize] += 1);
        // as published: 27 % small, 40 % plain, 33 % zoomed
        for (count, share) in counts.into_iter().zip([0.27, 0.4, 0.33]) {
            assert!((count as f64 / 3000. - share).abs() < 0.03, "{counts:?}");
        }
    }
}
