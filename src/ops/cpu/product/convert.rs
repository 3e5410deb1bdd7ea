//! 16-bit weights read as f32.

use half::{bf16, f16};

use super::super::simd::{Kernel, Vector};

/// 16-bit values.
pub(super) enum Halves<'a> {
    /// Of IEEE 754.
    F16(&'a [f16]),
    /// The upper halves of f32.
    Bf16(&'a [bf16]),
}

/// Values in f32; whole vectors.
pub(super) struct Widen<'a> {
    pub(super) from: Halves<'a>,
    pub(super) to: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let length = match self.from {
            Halves::F16(from) => from.len(),
            Halves::Bf16(from) => from.len(),
        };
        // panels are whole vectors
        assert!(length.is_multiple_of(V::LANES) && self.to.len() >= length);
        for i in (0..length).step_by(V::LANES) {
            // SAFETY: i + LANES <= length
            unsafe {
                let vector = match self.from {
                    Halves::F16(from) => V::load_f16(from.as_ptr().add(i)),
                    Halves::Bf16(from) => V::load_bf16(from.as_ptr().add(i)),
                };
                vector.store(self.to.as_mut_ptr().add(i));
            }
        }
    }
}

/// Rows of a panel from `first` on, of interleaved pairs of rows.
pub(super) struct Unpair<'a> {
    pub(super) pairs: &'a [bf16],
    pub(super) to: &'a mut [f32],
    pub(super) width: usize,
    pub(super) first: usize,
}

impl Kernel for Unpair<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        for (i, to) in self.to.chunks_exact_mut(self.width).enumerate() {
            let row = self.first + i;
            let pairs = &self.pairs[row / 2 * 2 * self.width..][..2 * self.width];
            for (to, pair) in to.iter_mut().zip(pairs.as_chunks::<2>().0) {
                *to = f32::from_bits((pair[row % 2].to_bits() as u32) << 16);
            }
        }
    }
}
