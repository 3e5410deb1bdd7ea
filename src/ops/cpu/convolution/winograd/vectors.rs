//! The products of Winograd's way as every processor can.

use super::super::super::product::block::{Block, block};
use super::super::super::room::{Line, room};
use super::super::super::shared::Shared;
use super::super::super::simd::Vector;
use super::{GAP, Multiplier, PLACES, Sink};

/// Values left free between the places of mapped inputs, as [`GAP`].
const GAP_VALUES: usize = 16;

/// Mapped inputs in f32.
pub(super) struct Vectors {
    /// [PLACES, chunk, channels], `apart` values from place to place.
    mapped: Vec<f32>,
    apart: usize,
    channels: usize,
}

impl Vectors {
    /// Room for `chunk` cells.
    ///
    /// # Safety
    /// Cells must be put in before they are multiplied.
    pub(super) unsafe fn new(chunk: usize, channels: usize) -> Self {
        let apart = chunk * channels + GAP_VALUES;
        // SAFETY: the caller's
        Self { mapped: unsafe { room(PLACES * apart) }, apart, channels }
    }
}

impl Multiplier for Vectors {
    fn sink(&mut self) -> impl Sink {
        VectorSink { mapped: Shared::new(&mut self.mapped), apart: self.apart, channels: self.channels }
    }

    #[inline(always)]
    fn multiply<V: Vector>(
        &self,
        sums: &mut [f32],
        filters: &[f32],
        (from, to): (usize, usize),
        (c, depth): (usize, usize),
        _: &mut Vec<Line>,
    ) {
        let (cells, width) = (to - from, filters.len() / (PLACES * (depth + GAP)));
        for place in 0..PLACES {
            let filters = &filters[place * (depth + GAP) * width..][..depth * width];
            let sums = &mut sums[place * (cells + GAP) * width..][..cells * width];
            let values = &self.mapped[place * self.apart + from * self.channels + c..];
            let left = Block { values, stride: self.channels, rows: cells };
            block::<V>(sums, width, left, filters, (depth, width), c > 0);
        }
    }
}

struct VectorSink<'a> {
    mapped: Shared<'a, f32>,
    apart: usize,
    channels: usize,
}

impl Sink for VectorSink<'_> {
    #[inline(always)]
    unsafe fn put<V: Vector>(&self, place: usize, cell: usize, c: usize, value: V) {
        // SAFETY: the caller's; the part has room for a vector
        unsafe {
            let to = self.mapped.part(place * self.apart + cell * self.channels + c, V::LANES);
            value.store(to.as_mut_ptr());
        }
    }
}
