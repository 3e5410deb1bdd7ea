//! Products, small products, packing and conversions against sums in f64, over sizes that fill nothing.

use half::{bf16, f16};

use super::super::room::Line;
use super::super::simd::{Kernel, Level, TILE_PARTS, Vector, level, run, run_bf16, to_bf16};
use super::block::{Block, block};
use super::convert::{Halves, Widen};
use super::epilogue::Epilogue;
use super::panels::{Panels, Strides, columns};
use super::product;
use super::right::{Right, Unpacked};
use super::rows::{Beside, Matrix, Rows};
use super::split::{Split, interleaved};
use crate::ops::testing::{Draw, at_every_level, gap};
use crate::ops::weight::Precision;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::F16, Precision::Bf16];

/// left [rows, k] times the transposed matrix [n, k].
fn reference(left: &[f32], transposed: &[f32], k: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>() as f32;
    left.chunks(k).flat_map(|row| transposed.chunks(k).map(move |column| dot(row, column))).collect()
}

/// How exact a product is whose right side is kept in `precision`, apart from what keeping it lost.
fn bound(precision: Precision, pairs: bool) -> f32 {
    match (precision, level()) {
        // the left side is rounded to 8 bits
        (Precision::Bf16, Level::Avx512Bf16) if pairs => 1e-2,
        // the left side is cut to 16 bits
        (Precision::Bf16, Level::Amx) if pairs => 1e-4,
        _ => 3e-6,
    }
}

#[test]
fn products_equal_sums_in_f64() {
    at_every_level(|| {
        let draw = Draw::new("product");
        for (rows, k, n) in [(1, 1, 1), (5, 7, 3), (31, 64, 47), (130, 1100, 50), (25, 2050, 17), (300, 96, 113)] {
            let (left, right) = (draw.values(rows * k), draw.values(k * n));
            let (bias, residual) = (draw.values(n), draw.values(rows * n));
            for precision in PRECISIONS {
                let panels = Panels::pack(&right, k, n, Strides { row: n, column: 1 }).kept_for_products(precision);
                let expected = reference(&left, &panels.unpacked(), k);
                let mut out = vec![f32::NAN; rows * n];
                product(&mut out, &Matrix::new(&left, k), &panels, Epilogue::default());
                let gap_of = |out: &[f32], expected: &[f32]| {
                    let gap = gap(out, expected);
                    assert!(gap < bound(precision, panels.has_pairs()), "{rows} x {k} x {n}, {precision}: {gap}");
                };
                gap_of(&out, &expected);
                let epilogue = Epilogue { bias: &bias, residual: &residual, ..Epilogue::default() };
                product(&mut out, &Matrix::new(&left, k), &panels, epilogue);
                let finished: Vec<f32> =
                    expected.iter().enumerate().map(|(i, y)| y + bias[i % n] + residual[i]).collect();
                gap_of(&out, &finished);
            }
        }
        Ok(())
    });
}

#[test]
fn rows_may_lie_in_pieces_and_have_biases_of_their_own() {
    at_every_level(|| {
        let draw = Draw::new("pieces");
        // pieces longer than the depth that is taken at a time, and shorter
        for (rows, width, n) in [(9, 1200, 20), (34, 32, 65), (23, 5, 9)] {
            let parts = [draw.values(rows * width), draw.values(rows * width), draw.values(rows * width)];
            let left = Beside { parts: [&parts[0], &parts[1], &parts[2]], width };
            let pieces = (0..3 * rows).map(|i| &parts[i % 3][i / 3 * width..][..width]);
            let whole: Vec<f32> = pieces.flatten().copied().collect();
            let right = draw.values(3 * width * n);
            let panels = Panels::pack(&right, 3 * width, n, Strides { row: 1, column: 3 * width });
            let rows_per_bias = 4;
            let biases = draw.values(rows.div_ceil(rows_per_bias) * n);
            let mut out = vec![f32::NAN; rows * n];
            product(&mut out, &left, &panels, Epilogue { bias: &biases, rows_per_bias, residual: &[] });
            let sums = reference(&whole, &right, 3 * width);
            let expected: Vec<f32> =
                sums.iter().enumerate().map(|(i, y)| y + biases[i / n / rows_per_bias * n + i % n]).collect();
            let gap = gap(&out, &expected);
            assert!(gap < 3e-6, "{rows} x 3 x {width} x {n}: {gap}");
            assert_eq!(left.piece(1, 2), &parts[2][width..2 * width]);
        }
        Ok(())
    });
}

#[test]
fn packing_is_reversible_and_transposes() {
    at_every_level(|| {
        for (k, n) in [(6, 5), (34, 130), (10, 48), (64, 97)] {
            let plain: Vec<f32> = (0..k * n).map(|i| (i % 101) as f32).collect();
            let packed = Panels::pack(&plain, k, n, Strides { row: 1, column: k });
            assert_eq!(packed.unpacked(), plain);
            let turned: Vec<f32> = (0..k * n).map(|i| plain[i % n * k + i / n]).collect();
            assert_eq!(Panels::pack(&turned, k, n, Strides { row: n, column: 1 }).unpacked(), plain);
            for precision in PRECISIONS {
                for half in
                    [packed.clone().kept_for_products(precision), packed.clone().kept_for_convolutions(precision, k)]
                {
                    assert_eq!(half.unpacked(), plain, "{precision:?}");
                    assert_eq!(half.transposed().unpacked(), turned, "{precision:?}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn filters_turn_tap_by_tap() {
    at_every_level(|| {
        for (n, c, taps) in [(3, 4, 9), (50, 64, 9), (19, 33, 4)] {
            let filters: Vec<f32> = (0..n * c * taps).map(|i| (i % 251) as f32).collect();
            for precision in PRECISIONS {
                let packed = Panels::pack_filters(&filters, n, c, taps).kept_for_convolutions(precision, c);
                let turned = Right::turned(&packed, taps);
                assert_eq!((turned.k(), turned.n()), (taps * n, c));
                // [o, c, tap] becomes rows (tap reversed, o) of columns c
                for panel in 0..turned.count() {
                    let (column, count, width) = columns(panel, c);
                    for (first, rows) in [(0, taps * n), (4, 7), (taps * n - 1, 1)] {
                        let mut unpacked = Unpacked::default();
                        for (i, row) in turned.rows(panel, first, rows, &mut unpacked).chunks(width).enumerate() {
                            let (tap, o) = (taps - 1 - (first + i) / n, (first + i) % n);
                            for (j, &value) in row.iter().enumerate() {
                                let of = |column: usize| filters[(o * c + column) * taps + tap];
                                assert_eq!(value, if j < count { of(column + j) } else { 0. });
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    });
}

/// Takes [`block`] within a kernel.
struct Small<'a> {
    out: &'a mut [f32],
    left: Block<'a>,
    panels: &'a Panels,
    k: usize,
    add: bool,
}

impl Kernel for Small<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        let width = columns(0, self.panels.n()).2;
        let mut none = Vec::new();
        let right = self.panels.rows(0, 0, self.k, &mut none);
        block::<V>(self.out, width, self.left, right, (self.k, width), self.add);
    }
}

#[test]
fn small_products_equal_sums_in_f64() {
    at_every_level(|| {
        let draw = Draw::new("block");
        for (rows, k, n) in [(1, 3, 1), (13, 40, 16), (7, 41, 9), (6, 5, 2), (20, 33, 31)] {
            let (stride, right) = (k + 3, draw.values(k * n));
            let values = draw.values(rows * stride);
            let left: Vec<f32> = values.chunks(stride).flat_map(|row| row[..k].to_vec()).collect();
            let panels = Panels::pack(&right, k, n, Strides { row: 1, column: k });
            // one panel: the columns of the others are other blocks
            let (_, count, width) = columns(0, n);
            let expected = reference(&left, &right[..count * k], k);
            let mut out = vec![f32::NAN; rows * width];
            for (add, times) in [(false, 1.), (true, 2.)] {
                run(Small { out: &mut out, left: Block { values: &values, stride, rows }, panels: &panels, k, add });
                let got: Vec<f32> = out.chunks(width).flat_map(|row| row[..count].to_vec()).collect();
                let expected: Vec<f32> = expected.iter().map(|x| x * times).collect();
                assert!(gap(&got, &expected) < 3e-6, "{rows} x {k} x {n}, add {add}");
            }
        }
        Ok(())
    });
}

#[test]
fn every_half_is_widened_exactly() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let (f16s, bf16s): (Vec<_>, Vec<_>) = all.iter().map(|&bits| (f16::from_bits(bits), bf16::from_bits(bits))).unzip();
    let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    at_every_level(|| {
        let mut to = vec![f32::NAN; all.len()];
        run(Widen { from: Halves::F16(&f16s), to: &mut to });
        assert!(to.iter().zip(&f16s).all(|(a, b)| same(*a, b.to_f32())));
        run(Widen { from: Halves::Bf16(&bf16s), to: &mut to });
        assert!(to.iter().zip(&bf16s).all(|(a, b)| same(*a, b.to_f32())));
        Ok(())
    });
}

/// Takes [`to_bf16`] within a kernel of pairs.
struct Round<'a>(&'a [f32], &'a mut [bf16]);

impl Kernel for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn run<V: Vector>(self) {
        // SAFETY: this runs where there are products of pairs
        unsafe { to_bf16(self.0, self.1) };
    }
}

#[test]
fn values_are_rounded_to_the_nearest_bf16() {
    at_every_level(|| {
        if level() > Level::Avx512Bf16 {
            return Ok(());
        }
        let ties =
            [1f32, -3.5, 1e20].map(|x| [0x7fff, 0x8000, 0x8001, 0x1_8000].map(|low| f32::from_bits(x.to_bits() + low)));
        let values: Vec<f32> = Draw::new("round").values(45).into_iter().chain(ties.into_iter().flatten()).collect();
        let mut rounded = vec![bf16::NAN; values.len()];
        run_bf16(Round(&values, &mut rounded));
        assert!(values.iter().zip(&rounded).all(|(x, y)| bf16::from_f32(*x) == *y));
        Ok(())
    });
}

#[test]
fn parts_add_up_to_the_value() {
    at_every_level(|| {
        if level() > Level::Amx {
            return Ok(());
        }
        let (rows, length) = (5, 45);
        let values = Draw::new("parts").values(rows * length);
        // each part cuts off what is below 8 bits
        let bound = 1f32 / 32768.;
        // SAFETY: the rows that are read are filled in
        let mut split = unsafe { Split::room(rows, length) };
        split.fill(rows, |row, give| {
            if row != 2 {
                // in two pieces
                give(0, &values[row * length..][..20]);
                give(20, &values[row * length + 20..][..25]);
            }
        });
        for (i, value) in values.iter().enumerate() {
            let sum: f32 = (0..TILE_PARTS).map(|part| split.at(part, i / length, i % length)[0].to_f32()).sum();
            let expected = if i / length == 2 { 0. } else { *value };
            assert!((sum - expected).abs() <= bound * value.abs(), "parts of {value}: {sum}");
        }
        let (width, mut room) = (16, Vec::<Line>::new());
        let matrix = &values[..4 * width];
        // SAFETY: this is the level of tiles
        let pairs = unsafe { interleaved(matrix, width, &mut room) };
        for (i, value) in matrix.iter().enumerate() {
            let (row, column) = (i / width, i % width);
            let at = (row / 2 * width + column) * 2 + row % 2;
            let sum: f32 = (0..TILE_PARTS).map(|part| pairs[part * matrix.len() + at].to_f32()).sum();
            assert!((sum - value).abs() <= bound * value.abs(), "parts of {value}: {sum}");
        }
        Ok(())
    });
}
