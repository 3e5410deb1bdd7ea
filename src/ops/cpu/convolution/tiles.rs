//! 3x3 convolutions of stride 1 with filters in bf16, on a unit that multiplies tiles of bf16.
//!
//! That unit is so much faster than all around it that Winograd's way would cost more than it saves. The input is
//! laid out with a column and lines of zeros, so that what a tap sees of successive pixels lies in successive rows: the
//! convolution is a product whose left side is the input itself, read from nine places.

use super::super::product::epilogue::Epilogue;
use super::super::product::right::Right;
use super::super::product::split::Split;
use super::super::product::tiles::{Left, multiply};
use super::super::shared::Shared;
use super::super::simd::{Level, TILE_DEPTH, TILE_ROWS, level};
use super::input::Input;

/// Bytes of an input that is laid out whole; larger ones go Winograd's way, in chunks.
const MOST_BYTES: usize = 96 << 20;

/// Whether this way serves `input`.
pub(super) fn serves(input: &Input, filters: Right) -> bool {
    let bytes = 4 * (input.height + 1) * (input.width + 1) * input.channels;
    level() == Level::Amx && filters.has_pairs() && input.channels.is_multiple_of(TILE_DEPTH) && bytes <= MOST_BYTES
}

/// out [batch, height, width, n]: `input` convolved with `filters` [9 * channels, n], padding 1.
pub(super) fn convolve(out: &mut [f32], input: Input, filters: Right, epilogue: Epilogue) {
    let Input { batch, height, width, channels, .. } = input;
    epilogue.check(batch * height * width, filters.n());
    // a line ends in the zero that is also left of the next; a sample begins with the line of zeros that ends the last
    let (line, sample) = (width + 1, (height + 1) * (width + 1));
    let together = (MOST_BYTES / (4 * sample * channels)).clamp(1, batch);
    let rows = together * sample + 2 * line + 2;
    let offsets = (0..9).map(|tap| tap / 3 * line + tap % 3).collect();
    // SAFETY: all rows but those beyond the last are filled in below; they reach no pixel
    let split = unsafe { Split::room(rows + TILE_ROWS, channels) };
    let mut left = Left { split, offsets, length: channels };
    let out = Shared::new(out);
    for first in (0..batch).step_by(together) {
        let count = together.min(batch - first);
        left.split.fill(count * sample + 2 * line + 2, |row, give| {
            // the first pixel lies in the second line, after the zero left of it
            let pixel = row.checked_sub(line + 1).map(|row| (row / sample, row % sample / line, row % line));
            if let Some((s, y, x)) = pixel
                && s < count
                && y < height
                && x < width
            {
                give(0, input.from(first + s, y, x, channels));
            }
        });
        multiply(&out, &left, count * sample, filters, epilogue, |row| {
            let (s, y, x) = (row / sample, row % sample / line, row % line);
            (y < height && x < width).then(|| ((first + s) * height + y) * width + x)
        });
    }
}
