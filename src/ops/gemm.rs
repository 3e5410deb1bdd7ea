//! Matrix products on the CPU.

use rayon::prelude::*;

/// A row-major matrix inside a larger one, e.g. the columns of one attention head.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` x `columns` values, `stride` apart from row to row.
    pub fn new(data: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        assert!(rows == 0 || data.len() >= (rows - 1) * stride + columns);
        Self { data, rows, columns, stride }
    }
}

/// out = keep * out + scale * a b on all threads, which share out the rows of the result: what is computed does not depend on
/// their number.
pub fn multiply_parallel(
    (out, stride): (&mut [f32], usize),
    keep: f32,
    scale: f32,
    (a, transpose_a): (Matrix, bool),
    b: (Matrix, bool),
) {
    let rows = if transpose_a { a.columns } else { a.rows };
    let share = rows.div_ceil(rayon::current_num_threads()).clamp(SMALLEST_SHARE, LARGEST_SHARE);
    out.par_chunks_mut(share * stride).enumerate().for_each(|(i, out)| {
        let (first, count) = (i * share, share.min(rows - i * share));
        let part = if transpose_a {
            Matrix { data: &a.data[first..], columns: count, ..a }
        } else {
            Matrix { data: &a.data[first * a.stride..], rows: count, ..a }
        };
        multiply((out, stride), keep, scale, (part, transpose_a), b);
    });
}

/// Rows of the result that a thread takes at a time: enough to be worth reading `b` again for.
const SMALLEST_SHARE: usize = 32;
/// See [`SMALLEST_SHARE`].
const LARGEST_SHARE: usize = 512;

/// out = keep * out + scale * a b on the calling thread. `out` comes with its row stride; a matrix
/// with `true` beside it is read transposed.
pub fn multiply(
    (out, stride): (&mut [f32], usize),
    keep: f32,
    scale: f32,
    (a, transpose_a): (Matrix, bool),
    (b, transpose_b): (Matrix, bool),
) {
    let (m, k) = if transpose_a { (a.columns, a.rows) } else { (a.rows, a.columns) };
    let (inner, n) = if transpose_b { (b.columns, b.rows) } else { (b.rows, b.columns) };
    assert!(inner == k && (m == 0 || out.len() >= (m - 1) * stride + n));
    let strides = |matrix: Matrix, transposed: bool| {
        let (row, column) = (matrix.stride as isize, 1);
        if transposed { (row, column) } else { (column, row) }
    };
    let ((a_cs, a_rs), (b_cs, b_rs)) = (strides(a, transpose_a), strides(b, transpose_b));
    // SAFETY: `Matrix::new` and the assertion above hold every index inside its slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride as isize,
            keep != 0.,
            a.data.as_ptr(),
            a_cs,
            a_rs,
            b.data.as_ptr(),
            b_cs,
            b_rs,
            keep,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
