//! Vectors of f32 in the widths that processors have, chosen when the program starts.
//!
//! A kernel is written once, generic over [`Vector`], and compiled once for every [`Level`];
//! [`run`] takes the version that this processor serves best. The variable `EQDIFF_SIMD` (`amx`, `avx512bf16`,
//! `avx512`, `avx2`, `portable`) forces a narrower one, for tests and comparisons.
//!
//! Where a target lacks instructions, a file of the same names stands in for theirs and plays them on plain arrays.
//! No program gets there, since their levels are not detected; but everything is compiled on every target, and tests
//! try it there.

#[cfg_attr(any(eqdiff_portable, not(all(target_arch = "x86_64", target_os = "linux"))), path = "no_amx.rs")]
pub(crate) mod amx;
mod level;
mod portable;
mod vector;
#[cfg_attr(any(eqdiff_portable, not(target_arch = "x86_64")), path = "no_x86.rs")]
mod x86;

#[cfg(test)]
pub(crate) use level::testable_levels;
pub use level::{Level, check_level, level};
pub(crate) use vector::{Vector, map, set, total};
pub(crate) use x86::{Avx512, dot_pairs, to_bf16};

/// Rows of a product that the tiles of AMX compute together: two of them.
pub(crate) const TILE_ROWS: usize = 32;
/// Values of a row of a tile.
pub(crate) const TILE_DEPTH: usize = 32;
/// Parts in bf16 that an f32 is split in for them: its first 16 bits of mantissa.
pub(crate) const TILE_PARTS: usize = 2;

/// A kernel that every level has a version of. `run` and all that it calls must be `#[inline(always)]`,
/// or the compiler leaves it in the version for the oldest processors.
pub(crate) trait Kernel {
    /// What it gives.
    type Output;
    /// The kernel with vectors of type `V`.
    fn run<V: Vector>(self) -> Self::Output;
}

/// Runs `kernel` in the version for [`level()`].
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        // SAFETY: the level was detected on this processor
        Level::Amx | Level::Avx512Bf16 | Level::Avx512 => unsafe { x86::run_avx512(kernel) },
        // SAFETY: the level was detected on this processor
        Level::Avx2 => unsafe { x86::run_avx2(kernel) },
        Level::Portable => kernel.run::<portable::Lanes<8>>(),
    }
}

/// Runs a kernel of products of bf16 pairs: `run` is called with [`Avx512`].
///
/// # Panics
/// If the level in use has no such products.
pub(crate) fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    assert!(level() <= Level::Avx512Bf16);
    // SAFETY: the level was detected on this processor
    unsafe { x86::run_bf16(kernel) }
}

/// Lanes of the vectors in use.
pub(crate) fn lanes() -> usize {
    match level() {
        Level::Amx | Level::Avx512Bf16 | Level::Avx512 => 16,
        Level::Avx2 | Level::Portable => 8,
    }
}

/// `to` [columns, width_to] = the transposed first `rows` rows of `from`, `width_from` apart; what is beyond
/// `rows` in a row of `to` becomes 0.
pub(crate) fn transpose(from: &[f32], width_from: usize, to: &mut [f32], width_to: usize, rows: usize) {
    let columns = to.len() / width_to;
    let (whole_columns, whole_rows) = (columns / 8 * 8, rows / 8 * 8);
    for column in (0..columns).step_by(8) {
        for row in (0..rows).step_by(8) {
            if column < whole_columns && row < whole_rows {
                let (from, to) = (&from[row * width_from + column..], &mut to[column * width_to + row..]);
                transpose_square(from, width_from, to, width_to);
                continue;
            }
            for row in row..rows.min(row + 8) {
                for column in column..columns.min(column + 8) {
                    to[column * width_to + row] = from[row * width_from + column];
                }
            }
        }
    }
    if rows < width_to {
        for to in to.chunks_mut(width_to) {
            to[rows..].fill(0.);
        }
    }
}

/// Transposes the 8 x 8 values at the start of `from` to those of `to`, both with their stride from row
/// to row.
#[inline]
fn transpose_square(from: &[f32], stride_from: usize, to: &mut [f32], stride_to: usize) {
    assert!(from.len() >= 7 * stride_from + 8 && to.len() >= 7 * stride_to + 8);
    if level() != Level::Portable {
        // SAFETY: the level was detected on this processor, the lengths are checked
        return unsafe { x86::transpose_square(from.as_ptr(), stride_from, to.as_mut_ptr(), stride_to) };
    }
    for i in 0..8 {
        for j in 0..8 {
            to[j * stride_to + i] = from[i * stride_from + j];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::{Draw, at_every_level};
    use super::*;

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn run<V: Vector>(self) {
            map!(V; x in self.0 => x.exp());
        }
    }

    #[test]
    fn exp_is_accurate() {
        at_every_level(|| {
            let inputs: Vec<f32> = (-8003..8000).map(|i| i as f32 * 0.01).collect();
            let mut outputs = inputs.clone();
            run(Exp(&mut outputs));
            for (x, y) in inputs.iter().zip(&outputs) {
                let truth = (*x as f64).exp();
                assert!((*y as f64 - truth).abs() <= 4e-7 * truth, "exp({x})");
            }
            let mut tiny = [-1e9, f32::NEG_INFINITY];
            run(Exp(&mut tiny));
            assert!(tiny.iter().all(|&y| y < 1e-37));
            Ok(())
        });
    }

    #[test]
    fn a_transposed_matrix_is_filled_up_with_zeros() {
        at_every_level(|| {
            for (rows, columns, width) in [(8, 8, 8), (19, 21, 24), (7, 40, 16), (33, 5, 48)] {
                // rows lie apart in memory
                let apart = columns + 3;
                let from = Draw::new("transpose").values(rows * apart);
                let mut to = vec![f32::NAN; columns * width.max(rows)];
                let width = width.max(rows);
                transpose(&from, apart, &mut to, width, rows);
                for (i, &value) in to.iter().enumerate() {
                    let (column, row) = (i / width, i % width);
                    assert_eq!(value, if row < rows { from[row * apart + column] } else { 0. });
                }
            }
            Ok(())
        });
    }
}
