//! Right-hand matrices of products, laid out as the kernels read them.
//!
//! A [`Panels`] is a [k, n] matrix cut in panels of columns, each k rows of a few vectors. The weights of
//! a model are packed once, when it is loaded, and kept in this form alone.

use half::{bf16, f16};
use rayon::prelude::*;

use super::super::room::{Line, grown, room};
use super::super::simd::{Level, TILE_DEPTH, lanes, level, run, transpose};
use super::convert::{Halves, Unpair, Widen};
use super::right::{Right, Unpacked};
use crate::ops::weight::Precision;

/// Whether there are products of bf16 pairs for a matrix of `k` rows.
fn has_products_of_pairs(k: usize) -> bool {
    match level() {
        Level::Amx => k.is_multiple_of(TILE_DEPTH),
        Level::Avx512Bf16 => k.is_multiple_of(2),
        _ => false,
    }
}

/// Columns of a full panel: as many vectors as the sums of a few rows leave registers for.
pub(crate) fn panel_columns() -> usize {
    if lanes() == 16 { 3 * 16 } else { 2 * 8 }
}

/// A packed matrix [k, n].
#[derive(Clone, Debug)]
pub(crate) struct Panels {
    k: usize,
    n: usize,
    data: Data,
}

#[derive(Clone, Debug)]
enum Data {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    /// Two successive rows interleaved, as the dot product of pairs reads them.
    Bf16Pairs(Vec<Line>),
}

/// Where the element (row, column) of a matrix in plain memory is.
#[derive(Clone, Copy)]
pub(crate) struct Strides {
    /// From row to row.
    pub(crate) row: usize,
    /// From column to column.
    pub(crate) column: usize,
}

/// Columns of panel `panel` of a matrix of `n` columns: the first, those that count, and those stored.
pub(crate) fn columns(panel: usize, n: usize) -> (usize, usize, usize) {
    let full = panel_columns();
    let first = panel * full;
    let count = full.min(n - first);
    (first, count, count.next_multiple_of(lanes()))
}

impl Panels {
    /// Packs the f32 matrix [k, n] that lies in `data` with `strides`, one of which is 1.
    pub(crate) fn pack(data: &[f32], k: usize, n: usize, strides: Strides) -> Self {
        assert!(strides.row == 1 || strides.column == 1);
        // SAFETY: every row of every panel is written below, to its end
        let mut packed = unsafe { room(stored(k, n)) };
        packed.par_chunks_mut(panel_columns() * k).enumerate().for_each(|(panel, packed)| {
            let (first, count, width) = columns(panel, n);
            if strides.row == 1 {
                return transpose(&data[first * strides.column..], strides.column, packed, width, count);
            }
            for (row, packed) in packed.chunks_mut(width).enumerate() {
                let row = &data[row * strides.row + first..][..count];
                packed[..count].copy_from_slice(row);
                packed[count..].fill(0.);
            }
        });
        Self { k, n, data: Data::F32(packed) }
    }

    /// Packs the filters [n, c, taps] of a convolution as the matrix [taps * c, n].
    pub(crate) fn pack_filters(filters: &[f32], n: usize, c: usize, taps: usize) -> Self {
        let mut packed = vec![0.; stored(taps * c, n)];
        packed.par_chunks_mut(panel_columns() * taps * c).enumerate().for_each(|(panel, packed)| {
            let (first, count, width) = columns(panel, n);
            for j in 0..count {
                let column = &filters[(first + j) * c * taps..][..c * taps];
                for (i, taps) in column.chunks(taps).enumerate() {
                    for (tap, value) in taps.iter().enumerate() {
                        packed[(tap * c + i) * width + j] = *value;
                    }
                }
            }
        });
        Self { k: taps * c, n, data: Data::F32(packed) }
    }

    /// The same matrix kept in `precision`, for [`product`](super::product) alone: bf16 in pairs where the processor
    /// multiplies them.
    pub(crate) fn kept_for_products(self, precision: Precision) -> Self {
        self.kept_in(precision, true)
    }

    /// The same filters of `channels` channels kept in `precision`, for convolutions: bf16 in pairs, which are of values
    /// of one tap, only for tiles.
    pub(crate) fn kept_for_convolutions(self, precision: Precision, channels: usize) -> Self {
        self.kept_in(precision, level() == Level::Amx && channels.is_multiple_of(TILE_DEPTH))
    }

    fn kept_in(self, precision: Precision, pairs: bool) -> Self {
        let Data::F32(values) = &self.data else { return self };
        let data = match precision {
            Precision::F32 | Precision::Tf32 => return self,
            Precision::F16 => Data::F16(values.par_iter().map(|&x| f16::from_f32(x)).collect()),
            Precision::Bf16 if pairs && has_products_of_pairs(self.k) => {
                let (k, n) = (self.k, self.n);
                // SAFETY: both of each pair of rows are written below, in every panel
                let mut paired: Vec<Line> = unsafe { room(values.len() / Line::VALUES) };
                let panels = Line::values_mut(&mut paired).par_chunks_mut(panel_columns() * k);
                panels.enumerate().for_each(|(panel, paired)| {
                    let (first, _, width) = columns(panel, n);
                    for (row, values) in values[first * k..].chunks(width).take(k).enumerate() {
                        for (j, value) in values.iter().enumerate() {
                            paired[(row / 2 * width + j) * 2 + row % 2] = bf16::from_f32(*value);
                        }
                    }
                });
                Data::Bf16Pairs(paired)
            }
            Precision::Bf16 => Data::Bf16(values.par_iter().map(|&x| bf16::from_f32(x)).collect()),
        };
        Self { data, ..self }
    }

    /// How its values are kept.
    pub(crate) fn precision(&self) -> Precision {
        match self.data {
            Data::F32(_) => Precision::F32,
            Data::F16(_) => Precision::F16,
            Data::Bf16(_) | Data::Bf16Pairs(_) => Precision::Bf16,
        }
    }

    /// Rows of the matrix.
    pub(crate) fn k(&self) -> usize {
        self.k
    }

    /// Columns of the matrix.
    pub(crate) fn n(&self) -> usize {
        self.n
    }

    /// Number of panels.
    pub(crate) fn count(&self) -> usize {
        self.n.div_ceil(panel_columns())
    }

    /// The pairs of panel `panel`, if they are kept as pairs.
    pub(crate) fn pairs(&self, panel: usize) -> Option<&[bf16]> {
        match &self.data {
            Data::Bf16Pairs(pairs) => {
                let (first, _, width) = columns(panel, self.n);
                Some(&Line::values(pairs)[first * self.k..][..width * self.k])
            }
            _ => None,
        }
    }

    /// Whether [`pairs`](Self::pairs) has any.
    pub(crate) fn has_pairs(&self) -> bool {
        matches!(self.data, Data::Bf16Pairs(_))
    }

    /// Rows `first..first + count` of panel `panel` in f32; converted in `unpacked` if they are kept in
    /// half precision.
    pub(crate) fn rows<'a>(
        &'a self,
        panel: usize,
        first: usize,
        count: usize,
        unpacked: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let (column, _, width) = columns(panel, self.n);
        let from = column * self.k + first * width;
        let length = count * width;
        if let Data::F32(values) = &self.data {
            return &values[from..from + length];
        }
        // SAFETY: the conversions write all of it
        let to = unsafe { grown(unpacked, length) };
        match &self.data {
            Data::F32(_) => {}
            Data::F16(values) => run(Widen { from: Halves::F16(&values[from..from + length]), to }),
            Data::Bf16(values) => run(Widen { from: Halves::Bf16(&values[from..from + length]), to }),
            Data::Bf16Pairs(pairs) => run(Unpair { pairs: &Line::values(pairs)[column * self.k..], to, width, first }),
        }
        to
    }

    /// The transposed matrix, packed: the right-hand side of the input gradient of a linear map.
    pub(crate) fn transposed(&self) -> Self {
        let (k, n) = (self.n, self.k);
        // SAFETY: every row of every panel is written below, to its end
        let mut turned = unsafe { room(stored(k, n)) };
        let right = Right::turned(self, 1);
        turned
            .par_chunks_mut(panel_columns() * k)
            .enumerate()
            .for_each_init(Unpacked::default, |unpacked, (panel, turned)| {
                right.fill_turned(panel, (0, k), turned, unpacked)
            });
        Self { k, n, data: Data::F32(turned) }
    }

    /// The matrix transposed, [n, k], in plain memory.
    pub(crate) fn unpacked(&self) -> Vec<f32> {
        let mut out = vec![0.; self.n * self.k];
        let mut unpacked = Vec::new();
        for panel in 0..self.count() {
            let (first, count, width) = columns(panel, self.n);
            let rows = self.rows(panel, 0, self.k, &mut unpacked);
            for j in 0..count {
                for (i, out) in out[(first + j) * self.k..][..self.k].iter_mut().enumerate() {
                    *out = rows[i * width + j];
                }
            }
        }
        out
    }
}

/// Elements of a packed [k, n].
fn stored(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(lanes())
}
