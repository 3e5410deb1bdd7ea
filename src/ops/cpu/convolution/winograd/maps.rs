//! The three maps of Winograd's way.

// as in the module of products
#![allow(clippy::needless_range_loop)]

use super::super::super::simd::{Kernel, Vector};
use super::super::input::Input;
use super::{CELL, PLACES, SIDE, Sink, cells};

/// Maps a cell of the input: B^T d B.
pub(super) struct MapInput<'a, S> {
    pub(super) input: &'a Input<'a>,
    pub(super) sink: &'a S,
    /// Number in the chunk, and in the input.
    pub(super) cell: usize,
    pub(super) of: usize,
}

impl<S: Sink> Kernel for MapInput<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { input, sink, cell, of } = self;
        let (rows, across) = cells(input);
        let (sample, y, x) = (of / (rows * across), of / across % rows * CELL, of % across * CELL);
        let channels = input.channels;
        // pixels outside the input are zeros
        let inside = |at: usize, step: usize, end: usize| (at + step).checked_sub(1).filter(|&at| at < end);
        let mut pixels = [None; PLACES];
        for (place, pixel) in pixels.iter_mut().enumerate() {
            let (i, j) = (place / SIDE, place % SIDE);
            if let (Some(y), Some(x)) = (inside(y, i, input.height), inside(x, j, input.width)) {
                *pixel = Some(input.at(sample, y, x));
            }
        }
        for c in (0..channels).step_by(V::LANES) {
            let mut half = [[V::splat(0.); SIDE]; SIDE];
            for j in 0..SIDE {
                let mut column = [V::splat(0.); SIDE];
                for (i, value) in column.iter_mut().enumerate() {
                    if let Some(pixel) = pixels[i * SIDE + j] {
                        let from = &input.values[pixel + c..][..V::LANES];
                        // SAFETY: the length is checked
                        *value = unsafe { V::load(from.as_ptr()) };
                    }
                }
                let column = map_input(column);
                for i in 0..SIDE {
                    half[i][j] = column[i];
                }
            }
            for i in 0..SIDE {
                let row = map_input(half[i]);
                for j in 0..SIDE {
                    // SAFETY: the cell is this kernel's alone
                    unsafe { sink.put(i * SIDE + j, cell, c, row[j]) };
                }
            }
        }
    }
}

/// B^T d. Its rows carry the factors that Winograd's G has, since filters outnumber inputs where inputs are small.
#[inline(always)]
fn map_input<V: Vector>(d: [V; SIDE]) -> [V; SIDE] {
    let s = V::splat;
    let [d0, d1, d2, d3, d4, d5] = d;
    let a = s(-1. / 6.).fma(d4, s(2. / 3.).mul(d2));
    let b = s(-1. / 6.).fma(d3, s(2. / 3.).mul(d1));
    let c = s(1. / 24.).mul(d4.sub(d2));
    let e = s(1. / 12.).mul(d3.sub(d1));
    let first = s(-1.25).fma(d2, s(0.25).fma(d4, d0));
    [first, a.add(b), a.sub(b), c.add(e), c.sub(e), s(4.).fma(d1, s(-5.).fma(d3, d5))]
}

/// G g, in pairs of rows: the outer ones, those of 1 and -1, those of 2 and -2.
#[inline(always)]
fn map_filter<V: Vector>(pair: usize, [g0, g1, g2]: [V; 3]) -> [V; 2] {
    match pair {
        0 => [g0, g2],
        1 => {
            let outer = g0.add(g2);
            [outer.add(g1), outer.sub(g1)]
        }
        _ => {
            let (outer, inner) = (V::splat(4.).fma(g2, g0), g1.add(g1));
            [outer.add(inner), outer.sub(inner)]
        }
    }
}

/// The rows of the pairs that [`map_filter`] gives.
const PAIRS: [[usize; 2]; SIDE / 2] = [[0, 5], [1, 2], [3, 4]];

/// A^T m.
#[inline(always)]
fn map_output<V: Vector>(m: [V; SIDE]) -> [V; CELL] {
    let s = V::splat;
    let [m0, m1, m2, m3, m4, m5] = m;
    let (a, b, c, d) = (m1.add(m2), m1.sub(m2), m3.add(m4), m3.sub(m4));
    [m0.add(a).add(c), s(2.).fma(d, b), s(4.).fma(c, a), s(8.).fma(d, b).add(m5)]
}

/// A^T m A of the vectors at the start of `sums` and every `stride` values on.
#[inline(always)]
pub(super) fn map_back<V: Vector>(sums: &[f32], stride: usize) -> [[V; CELL]; CELL] {
    let mut half = [[V::splat(0.); SIDE]; CELL];
    assert!(sums.len() >= (PLACES - 1) * stride + V::LANES);
    for j in 0..SIDE {
        let mut column = [V::splat(0.); SIDE];
        for (i, value) in column.iter_mut().enumerate() {
            // SAFETY: the length is checked above
            *value = unsafe { V::load(sums.as_ptr().add((i * SIDE + j) * stride)) };
        }
        let column = map_output(column);
        for i in 0..CELL {
            half[i][j] = column[i];
        }
    }
    let mut outputs = [[V::splat(0.); CELL]; CELL];
    for i in 0..CELL {
        outputs[i] = map_output(half[i]);
    }
    outputs
}

/// G g G^T of `count` filters, whose taps lie in `taps`: mapped [PLACES, count], `apart` values from place to place.
#[inline(always)]
pub(super) fn map_filters<V: Vector>(taps: [&[f32]; 9], mapped: &mut [f32], count: usize, apart: usize) {
    assert!(taps.iter().all(|tap| tap.len() == count) && mapped.len() >= (PLACES - 1) * apart + count);
    for at in (0..count).step_by(V::LANES) {
        // two rows at a time, which registers have room for
        for pair in 0..PAIRS.len() {
            let mut half = [[V::splat(0.); 3]; 2];
            for j in 0..3 {
                // SAFETY: `count` is whole vectors, and every tap has that many values
                let tap = |i: usize| unsafe { V::load(taps[i * 3 + j].as_ptr().add(at)) };
                let [one, other] = map_filter(pair, [tap(0), tap(1), tap(2)]);
                half[0][j] = one;
                half[1][j] = other;
            }
            for i in 0..2 {
                for columns in 0..PAIRS.len() {
                    let mapped_pair = map_filter(columns, half[i]);
                    for j in 0..2 {
                        let place = PAIRS[pair][i] * SIDE + PAIRS[columns][j];
                        // SAFETY: the length is checked above
                        unsafe { mapped_pair[j].store(mapped.as_mut_ptr().add(place * apart + at)) };
                    }
                }
            }
        }
    }
}
