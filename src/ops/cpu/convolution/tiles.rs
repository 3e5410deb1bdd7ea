//! 3x3 convolutions of stride 1 with kernels in bf16, on a unit that multiplies tiles of bf16.
//!
//! That unit is so much faster than all around it that Winograd's way would cost more than it saves. The picture is
//! laid out with a column and lines of zeros, so that what a tap sees of successive pixels lies in successive rows: the
//! convolution is a product whose left side is the picture itself, read from nine places.

use super::super::product::panels::Right;
use super::super::product::tiles::{Left, Parts, multiply, part_count};
use super::super::product::{Finish, Shared};
use super::super::simd::amx::{DEPTH, ROWS};
use super::winograd::Picture;

/// Bytes of a picture that is laid out whole; larger ones go Winograd's way, in chunks.
const MOST_BYTES: usize = 96 << 20;

/// Whether this way serves `picture`.
pub fn serves(picture: &Picture, kernel: Right) -> bool {
    let bytes = 4 * (picture.height + 1) * (picture.width + 1) * picture.channels;
    kernel.has_pairs() && picture.channels.is_multiple_of(DEPTH) && bytes <= MOST_BYTES
}

/// out [batch, height, width, n]: `picture` convolved with `kernel` [9 * channels, n], padding 1.
pub fn convolve(out: &mut [f32], picture: Picture, kernel: Right, finish: Finish) {
    let Picture { values, batch, height, width, channels, .. } = picture;
    // a line ends in the zero that is also left of the next; a sample begins with the line of zeros that ends the last
    let (line, sample) = (width + 1, (height + 1) * (width + 1));
    let together = (MOST_BYTES / (4 * sample * channels)).clamp(1, batch);
    let rows = together * sample + 2 * line + 2;
    let offsets = (0..9).map(|tap| tap / 3 * line + tap % 3).collect();
    let mut left = Left { parts: Parts::new(rows + ROWS, channels, part_count(kernel)), offsets, length: channels };
    let shared = Shared(out.as_mut_ptr());
    for first in (0..batch).step_by(together) {
        let count = together.min(batch - first);
        left.parts.fill(count * sample + 2 * line + 2, |row, piece| {
            // the first pixel lies in the second line, after the zero left of it
            let pixel = row.checked_sub(line + 1).map(|row| (row / sample, row % sample / line, row % line));
            match pixel {
                Some((s, y, x)) if s < count && y < height && x < width => {
                    piece(0, Some((values[picture.at(first + s, y, x)..].as_ptr(), channels)));
                }
                _ => piece(0, None),
            }
        });
        multiply(&shared, &left, count * sample, kernel, finish, |row| {
            let (s, y, x) = (row / sample, row % sample / line, row % line);
            (y < height && x < width).then(|| ((first + s) * height + y) * width + x)
        });
    }
}
