//! Right-hand matrices of products, laid out as the kernels read them.
//!
//! A [`Panels`] is a [k, n] matrix cut in panels of columns, each k rows of a few vectors. The weights of
//! a model are packed once, when it is loaded, and kept in this form alone.

use half::{bf16, f16};
use rayon::prelude::*;

use super::super::simd::{Kernel, Level, Vector, level, run, transpose_square};

/// How weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 4 bytes a weight.
    #[default]
    F32,
    /// 2 bytes; computed in f32.
    F16,
    /// 2 bytes; products of bf16 summed in f32 where the processor has them, else computed in f32.
    Bf16,
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        })
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = [Precision::F32, Precision::F16, Precision::Bf16];
        let found = all.into_iter().find(|precision| precision.to_string() == name);
        found.ok_or_else(|| "one of f32, f16 and bf16".into())
    }
}

/// 64 bytes of bf16 values, the unit of caches: what begins at one is read fastest.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Line([bf16; Self::VALUES]);

impl Line {
    /// Values of a line.
    pub const VALUES: usize = 32;

    /// The values of successive lines.
    pub fn values(lines: &[Self]) -> &[bf16] {
        // SAFETY: a line is its values and nothing else
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), Self::VALUES * lines.len()) }
    }

    /// The same to write.
    pub fn values_mut(lines: &mut [Self]) -> &mut [bf16] {
        // SAFETY: as above
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), Self::VALUES * lines.len()) }
    }
}

/// Whether there are products of bf16 pairs for a matrix of `k` rows.
fn has_products_of_pairs(k: usize) -> bool {
    match level() {
        Level::Amx => k.is_multiple_of(32),
        Level::Avx512Bf16 => k.is_multiple_of(2),
        _ => false,
    }
}

/// Columns of a full panel: as many vectors as the sums of a tile leave registers for.
pub fn panel_columns() -> usize {
    if lanes() == 16 { 3 * 16 } else { 2 * 8 }
}

/// Lanes of the vectors in use.
pub fn lanes() -> usize {
    match level() {
        Level::Amx | Level::Avx512Bf16 | Level::Avx512 => 16,
        Level::Avx2 | Level::Portable => 8,
    }
}

/// A packed matrix [k, n].
#[derive(Clone, Debug)]
pub struct Panels {
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
pub struct Strides {
    /// From row to row.
    pub row: usize,
    /// From column to column.
    pub column: usize,
}

/// Columns of panel `panel` of a matrix of `n` columns: the first, those that count, and those stored.
pub fn columns(panel: usize, n: usize) -> (usize, usize, usize) {
    let full = panel_columns();
    let first = panel * full;
    let count = full.min(n - first);
    (first, count, count.next_multiple_of(lanes()))
}

impl Panels {
    /// Packs the f32 matrix [k, n] that lies in `data` with `strides`, one of which is 1.
    pub fn pack(data: &[f32], k: usize, n: usize, strides: Strides) -> Self {
        assert!(strides.row == 1 || strides.column == 1);
        let mut packed = buffer(stored(k, n));
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

    /// Packs the kernel [n, c, taps] of a convolution as the matrix [taps * c, n].
    pub fn pack_kernel(kernel: &[f32], n: usize, c: usize, taps: usize) -> Self {
        let mut packed = buffer(stored(taps * c, n));
        packed.par_chunks_mut(panel_columns() * taps * c).enumerate().for_each(|(panel, packed)| {
            let (first, count, width) = columns(panel, n);
            packed.fill(0.);
            for j in 0..count {
                let column = &kernel[(first + j) * c * taps..][..c * taps];
                for (i, taps) in column.chunks(taps).enumerate() {
                    for (tap, value) in taps.iter().enumerate() {
                        packed[(tap * c + i) * width + j] = *value;
                    }
                }
            }
        });
        Self { k: taps * c, n, data: Data::F32(packed) }
    }

    /// The same matrix kept in another precision. With `pairs` it may be laid out for products of bf16
    /// pairs, and serves [`product`](super::product) alone.
    pub fn kept_in(self, precision: Precision, pairs: bool) -> Self {
        let Data::F32(values) = &self.data else { return self };
        let data = match precision {
            Precision::F32 => return self,
            Precision::F16 => Data::F16(values.par_iter().map(|&x| f16::from_f32(x)).collect()),
            Precision::Bf16 if pairs && has_products_of_pairs(self.k) => {
                let (k, n) = (self.k, self.n);
                let mut paired = lines(values.len() / Line::VALUES);
                Line::values_mut(&mut paired).par_chunks_mut(panel_columns() * k).enumerate().for_each(
                    |(panel, paired)| {
                        let (first, _, width) = columns(panel, n);
                        let values = &values[first * k..];
                        for (row, values) in values.chunks(width).take(k).enumerate() {
                            for (j, value) in values.iter().enumerate() {
                                paired[(row / 2 * width + j) * 2 + row % 2] = bf16::from_f32(*value);
                            }
                        }
                    },
                );
                Data::Bf16Pairs(paired)
            }
            Precision::Bf16 => Data::Bf16(values.par_iter().map(|&x| bf16::from_f32(x)).collect()),
        };
        Self { data, ..self }
    }

    /// Rows of the matrix.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Columns of the matrix.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.n.div_ceil(panel_columns())
    }

    /// The pairs of panel `panel`, if they are kept as pairs.
    pub fn pairs(&self, panel: usize) -> Option<&[bf16]> {
        match &self.data {
            Data::Bf16Pairs(pairs) => {
                let (first, _, width) = columns(panel, self.n);
                Some(&Line::values(pairs)[first * self.k..][..width * self.k])
            }
            _ => None,
        }
    }

    /// Whether [`pairs`](Self::pairs) has any.
    pub fn has_pairs(&self) -> bool {
        matches!(self.data, Data::Bf16Pairs(_))
    }

    /// Rows `first..first + count` of panel `panel` in f32; converted in `scratch` if they are kept in
    /// half precision.
    pub fn rows<'a>(&'a self, panel: usize, first: usize, count: usize, scratch: &'a mut Vec<f32>) -> &'a [f32] {
        let (column, _, width) = columns(panel, self.n);
        let from = column * self.k + first * width;
        let length = count * width;
        if let Data::F32(values) = &self.data {
            return &values[from..from + length];
        }
        grow(scratch, length);
        match &self.data {
            Data::F32(_) => {}
            Data::F16(values) => run(Widen { from: Halves::F16(&values[from..from + length]), to: scratch }),
            Data::Bf16(values) => run(Widen { from: Halves::Bf16(&values[from..from + length]), to: scratch }),
            Data::Bf16Pairs(pairs) => {
                let pairs = &Line::values(pairs)[column * self.k..];
                run(Unpair { pairs, to: &mut scratch[..length], width, first });
            }
        }
        &scratch[..length]
    }

    /// The transposed matrix, packed: the right-hand side of the input gradient of a linear map.
    pub fn transposed(&self) -> Self {
        let (k, n) = (self.n, self.k);
        let mut turned = buffer(stored(k, n));
        turned.par_chunks_mut(panel_columns() * k).enumerate().for_each_init(
            Scratch::default,
            |scratch, (panel, turned)| {
                Right { panels: self, turned: Some(1) }.turned_rows(panel, (0, k), turned, scratch);
            },
        );
        Self { k, n, data: Data::F32(turned) }
    }

    /// The matrix transposed, [n, k], in plain memory.
    pub fn unpacked(&self) -> Vec<f32> {
        let mut out = vec![0.; self.n * self.k];
        let mut scratch = Vec::new();
        for panel in 0..self.count() {
            let (first, count, width) = columns(panel, self.n);
            let rows = self.rows(panel, 0, self.k, &mut scratch);
            for j in 0..count {
                for (i, out) in out[(first + j) * self.k..][..self.k].iter_mut().enumerate() {
                    *out = rows[i * width + j];
                }
            }
        }
        out
    }
}

/// The right-hand side of a product: a packed matrix as it is, or turned.
#[derive(Clone, Copy)]
pub struct Right<'a> {
    panels: &'a Panels,
    /// Number of blocks that the matrix is turned in.
    turned: Option<usize>,
}

/// Memory for what is read in another form than it is kept in.
#[derive(Default)]
pub struct Scratch {
    rows: Vec<f32>,
    block: Vec<f32>,
}

impl<'a> From<&'a Panels> for Right<'a> {
    fn from(panels: &'a Panels) -> Self {
        Self { panels, turned: None }
    }
}

impl<'a> Right<'a> {
    /// The matrix of `taps` blocks [c, n] with every block transposed and their order reversed: the
    /// right-hand side of the input gradient of a convolution. It is turned panel by panel while it is
    /// read.
    pub fn turned(panels: &'a Panels, taps: usize) -> Self {
        Self { panels, turned: Some(taps) }
    }

    /// Rows of the matrix.
    pub fn k(&self) -> usize {
        self.turned.map_or(self.panels.k, |taps| taps * self.panels.n)
    }

    /// Columns of the matrix.
    pub fn n(&self) -> usize {
        self.turned.map_or(self.panels.n, |taps| self.panels.k / taps)
    }

    /// How its values are kept.
    pub fn precision(&self) -> Precision {
        match self.panels.data {
            Data::F32(_) => Precision::F32,
            Data::F16(_) => Precision::F16,
            Data::Bf16(_) | Data::Bf16Pairs(_) => Precision::Bf16,
        }
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.n().div_ceil(panel_columns())
    }

    /// The pairs of panel `panel`, if they are kept as pairs.
    pub fn pairs(&self, panel: usize) -> Option<&'a [bf16]> {
        self.panels.pairs(panel).filter(|_| self.turned.is_none())
    }

    /// Whether [`pairs`](Self::pairs) has any.
    pub fn has_pairs(&self) -> bool {
        self.panels.has_pairs() && self.turned.is_none()
    }

    /// Rows `first..first + count` of panel `panel` in f32.
    pub fn rows<'b>(&self, panel: usize, first: usize, count: usize, scratch: &'b mut Scratch) -> &'b [f32]
    where
        'a: 'b,
    {
        if self.turned.is_none() {
            return self.panels.rows(panel, first, count, &mut scratch.rows);
        }
        let length = count * columns(panel, self.n()).2;
        let mut rows = std::mem::take(&mut scratch.rows);
        grow(&mut rows, length);
        self.turned_rows(panel, (first, count), &mut rows[..length], scratch);
        scratch.rows = rows;
        &scratch.rows[..length]
    }

    /// Fills `out` with rows of the turned matrix, which may be of several blocks.
    fn turned_rows(&self, panel: usize, (first, count): (usize, usize), out: &mut [f32], scratch: &mut Scratch) {
        let Self { panels, turned } = self;
        let taps = turned.unwrap_or(1);
        let (c, n) = (panels.k / taps, panels.n);
        let (row, rows, width) = columns(panel, c);
        let mut at = first;
        while at < first + count {
            let (tap, column) = (at / n, at % n);
            let from = column / panel_columns();
            let (start, columns_there, width_from) = columns(from, n);
            let end = (at - column + start + columns_there).min(first + count);
            let block = panels.rows(from, (taps - 1 - tap) * c + row, rows, &mut scratch.block);
            let out = &mut out[(at - first) * width..(end - first) * width];
            transpose(&block[column - start..], width_from, out, width, rows);
            at = end;
        }
    }
}

/// Elements of a packed [k, n].
fn stored(k: usize, n: usize) -> usize {
    k * n.next_multiple_of(lanes())
}

/// `to` [columns, width_to] = the transposed first `rows` rows of `from`, `width_from` apart; what is beyond
/// `rows` in a row of `to` becomes 0.
pub fn transpose(from: &[f32], width_from: usize, to: &mut [f32], width_to: usize, rows: usize) {
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

/// Room for `length` values that the caller writes before it reads any.
#[allow(clippy::uninit_vec)]
pub fn buffer(length: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(length);
    // SAFETY: every bit pattern is an f32, and kernels write all of it before anyone reads; clearing it
    // first would cost as much as many of them
    unsafe { values.set_len(length) };
    values
}

/// Room for `count` lines, as [`buffer`].
#[allow(clippy::uninit_vec)]
pub fn lines(count: usize) -> Vec<Line> {
    let mut lines = Vec::with_capacity(count);
    // SAFETY: every bit pattern is a line
    unsafe { lines.set_len(count) };
    lines
}

/// Makes room for `length` values at least, as [`buffer`] does; what was there is lost if there was less.
pub fn grow(values: &mut Vec<f32>, length: usize) {
    if values.len() < length {
        *values = buffer(length);
    }
}

enum Halves<'a> {
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

struct Widen<'a> {
    from: Halves<'a>,
    to: &'a mut [f32],
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
struct Unpair<'a> {
    pairs: &'a [bf16],
    to: &'a mut [f32],
    width: usize,
    first: usize,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_reversible_and_transposes() {
        for (k, n) in [(6, 5), (34, 130), (10, 48)] {
            let plain: Vec<f32> = (0..k * n).map(|i| (i % 101) as f32).collect();
            let packed = Panels::pack(&plain, k, n, Strides { row: 1, column: k });
            assert_eq!(packed.unpacked(), plain);
            for (precision, pairs) in
                [(Precision::F16, false), (Precision::Bf16, false), (Precision::Bf16, true), (Precision::F32, true)]
            {
                let half = packed.clone().kept_in(precision, pairs);
                assert_eq!(half.unpacked(), plain, "{precision:?}");
                let turned = half.transposed();
                for (i, row) in turned.unpacked().chunks(n).enumerate() {
                    assert!(row.iter().enumerate().all(|(j, &x)| x == plain[j * k + i]));
                }
            }
        }
        let kernel: Vec<f32> = (0..3 * 4 * 9).map(|i| i as f32).collect();
        let packed = Panels::pack_kernel(&kernel, 3, 4, 9);
        let turned = Right::turned(&packed, 9);
        assert_eq!((turned.k(), turned.n(), turned.count()), (27, 4, 1));
        // [o, c, tap] becomes rows (tap reversed, o) of columns c
        for (first, count) in [(0, 27), (4, 7), (26, 1)] {
            let mut scratch = Scratch::default();
            let rows = turned.rows(0, first, count, &mut scratch);
            for (i, row) in rows.chunks(lanes()).enumerate() {
                let (tap, o) = (8 - (first + i) / 3, (first + i) % 3);
                let expected = (0..lanes()).map(|c| if c < 4 { kernel[(o * 4 + c) * 9 + tap] } else { 0. });
                assert!(row.iter().copied().eq(expected));
            }
        }
    }
}
