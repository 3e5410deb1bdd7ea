//! 3x3 convolutions of stride 1 with a quarter of the multiplications.
//!
//! Winograd's minimal filtering F(4x4, 3x3) (Lavin and Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2016): tiles of 6x6 inputs and the kernels are mapped to 36 products each, a matrix product
//! over the channels at each of the 36 places, and the sums are mapped back to 4x4 outputs. The kernels
//! are mapped on the fly, since in mapped form they would need four times their memory.

// as in the module of products
#![allow(clippy::needless_range_loop)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use rayon::prelude::*;

use crate::ops::cpu::product::panels::{self, Line, Right, buffer, columns, grow, lanes};
use crate::ops::cpu::product::{Block, Finish, Shared, block, load_column, store_column};
use crate::ops::cpu::simd::{Kernel, Vector, run};
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use crate::ops::cpu::simd::{Level, amx, level};

/// A picture [batch, height, width, channels] that is convolved.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Its values; with `doubled`, those of the picture of half its size.
    pub values: &'a [f32],
    /// Samples.
    pub batch: usize,
    /// Size, doubled if `doubled`.
    pub height: usize,
    /// See `height`.
    pub width: usize,
    /// Values of a pixel.
    pub channels: usize,
    /// Whether each stored pixel stands for two by two.
    pub doubled: bool,
}

impl Picture<'_> {
    /// Offset of a pixel.
    #[inline(always)]
    pub fn at(&self, sample: usize, y: usize, x: usize) -> usize {
        let pixel = if self.doubled {
            (sample * self.height.div_ceil(2) + y / 2) * self.width.div_ceil(2) + x / 2
        } else {
            (sample * self.height + y) * self.width + x
        };
        pixel * self.channels
    }

    fn tiles(&self) -> (usize, usize) {
        (self.height.div_ceil(TILE), self.width.div_ceil(TILE))
    }
}

/// Side of the outputs of a tile.
const TILE: usize = 4;
/// Side of its inputs.
const SIDE: usize = 6;
/// Places at which channels are multiplied.
pub const PLACES: usize = SIDE * SIDE;
/// Bytes of mapped inputs at a time: they stay in the last cache.
const CHUNK_BYTES: usize = 16 << 20;
/// Tiles of a task, for which a panel of kernels is mapped once.
const TASK_TILES: usize = 128;
/// Channels whose kernels are mapped at a time: they stay in a core's cache.
const DEPTH: usize = 64;
/// Rows left free between the places of kernels and of sums, or all places would share one set of lines of the nearest
/// cache; an even number, for kernels in pairs.
pub const GAP: usize = 2;
/// The same for mapped inputs, in values.
const GAP_VALUES: usize = 16;
/// Fewer tiles than this are not worth mapping the kernels.
const FEWEST_TILES: usize = 4;

/// Whether this way serves `picture`.
pub fn serves(picture: &Picture) -> bool {
    let (rows, columns) = picture.tiles();
    picture.channels.is_multiple_of(lanes()) && picture.batch * rows * columns >= FEWEST_TILES
}

/// What multiplies mapped inputs with mapped kernels.
pub trait Multiplier: Sync {
    /// Takes a vector of a mapped input: that of channel `c` on, of tile `tile` of the chunk, at `place`.
    ///
    /// # Safety
    /// All must exist, and each place of a tile be written by one thread.
    unsafe fn put<V: Vector>(&self, place: usize, tile: usize, c: usize, value: V);

    /// sums [PLACES, tiles + GAP, width] = the products with `kernels` [PLACES, depth + GAP, width] of channels
    /// `c..c + depth` of the tiles `from..to`, added to what was there if `c` is not 0.
    fn multiply<V: Vector>(
        &self,
        sums: &mut [f32],
        kernels: &[f32],
        tiles: (usize, usize),
        channels: (usize, usize),
        scratch: &mut Vec<Line>,
    );
}

/// Multiplies as every processor can.
struct Plain {
    /// [PLACES, chunk, channels], `apart` values from place to place.
    mapped: Vec<f32>,
    /// Where `mapped` begins, for tasks that write tiles of their own.
    start: Shared,
    apart: usize,
    channels: usize,
}

impl Multiplier for Plain {
    #[inline(always)]
    unsafe fn put<V: Vector>(&self, place: usize, tile: usize, c: usize, value: V) {
        let at = place * self.apart + tile * self.channels + c;
        // SAFETY: the caller's
        unsafe { value.store(self.start.start().add(at)) };
    }

    #[inline(always)]
    fn multiply<V: Vector>(
        &self,
        sums: &mut [f32],
        kernels: &[f32],
        (from, to): (usize, usize),
        (c, depth): (usize, usize),
        _: &mut Vec<Line>,
    ) {
        let (tiles, width) = (to - from, kernels.len() / (PLACES * (depth + GAP)));
        for place in 0..PLACES {
            let kernels = &kernels[place * (depth + GAP) * width..][..depth * width];
            let sums = &mut sums[place * (tiles + GAP) * width..][..tiles * width];
            let values = &self.mapped[place * self.apart + from * self.channels + c..];
            let left = Block { values, stride: self.channels, rows: tiles };
            block::<V>(sums, width, left, kernels, (depth, width), c > 0);
        }
    }
}

/// out [batch, height, width, n]: `picture` convolved with `kernel` [9 * channels, n], padding 1.
pub fn convolve(out: &mut [f32], picture: Picture, kernel: Right, finish: Finish) {
    let channels = picture.channels;
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if level() == Level::Amx && channels.is_multiple_of(amx::DEPTH) {
        let with = |chunk| tiles::Tiled::new(chunk, channels, kernel.precision());
        return convolve_with(out, picture, kernel, finish, with);
    }
    let with = |chunk| {
        let apart = chunk * channels + GAP_VALUES;
        let mut mapped = buffer(PLACES * apart);
        let start = Shared(mapped.as_mut_ptr());
        Plain { mapped, start, apart, channels }
    };
    convolve_with(out, picture, kernel, finish, with);
}

fn convolve_with<M: Multiplier>(
    out: &mut [f32],
    picture: Picture,
    kernel: Right,
    finish: Finish,
    multiplier: impl Fn(usize) -> M,
) {
    let (rows, across) = picture.tiles();
    let (tiles, channels) = (picture.batch * rows * across, picture.channels);
    assert!(kernel.k() == 9 * channels && out.len() == picture.batch * picture.height * picture.width * kernel.n());
    let chunk = (CHUNK_BYTES / (4 * PLACES * channels)).next_multiple_of(8).min(tiles);
    let multiplier = multiplier(chunk);
    let out = Shared(out.as_mut_ptr());
    for first in (0..tiles).step_by(chunk) {
        let count = chunk.min(tiles - first);
        (0..count).into_par_iter().with_min_len(4).for_each(|tile| {
            run(MapInput { picture: &picture, multiplier: &multiplier, tile, of: first + tile });
        });
        let groups = count.div_ceil(TASK_TILES);
        (0..groups * kernel.count()).into_par_iter().with_max_len(1).for_each_init(
            Scratch::default,
            |scratch, task| {
                let (group, panel) = (task % groups, task / groups);
                let share = count.div_ceil(groups).next_multiple_of(8);
                let tiles = (group * share, count.min((group + 1) * share));
                if tiles.0 < tiles.1 {
                    run(Task {
                        out: &out,
                        picture: &picture,
                        multiplier: &multiplier,
                        kernel,
                        finish,
                        panel,
                        tiles,
                        first,
                        scratch,
                    });
                }
            },
        );
    }
}

/// Maps a tile of the input: B^T d B.
struct MapInput<'a, M> {
    picture: &'a Picture<'a>,
    multiplier: &'a M,
    /// Number in the chunk, and in the picture.
    tile: usize,
    of: usize,
}

impl<M: Multiplier> Kernel for MapInput<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { picture, multiplier, tile, of } = self;
        let (rows, across) = picture.tiles();
        let (sample, y, x) = (of / (rows * across), of / across % rows * TILE, of % across * TILE);
        let channels = picture.channels;
        // pixels outside the picture are zeros
        let inside = |at: usize, step: usize, end: usize| (at + step).checked_sub(1).filter(|&at| at < end);
        let mut pixels = [None; PLACES];
        for (place, pixel) in pixels.iter_mut().enumerate() {
            let (i, j) = (place / SIDE, place % SIDE);
            if let (Some(y), Some(x)) = (inside(y, i, picture.height), inside(x, j, picture.width)) {
                *pixel = Some(picture.at(sample, y, x));
            }
        }
        for c in (0..channels).step_by(V::LANES) {
            let mut half = [[V::splat(0.); SIDE]; SIDE];
            for j in 0..SIDE {
                let mut column = [V::splat(0.); SIDE];
                for (i, value) in column.iter_mut().enumerate() {
                    if let Some(pixel) = pixels[i * SIDE + j] {
                        let from = &picture.values[pixel + c..][..V::LANES];
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
                    // SAFETY: the chunk has this tile, which is this kernel's alone
                    unsafe { multiplier.put(i * SIDE + j, tile, c, row[j]) };
                }
            }
        }
    }
}

#[derive(Default)]
struct Scratch {
    taps: [panels::Scratch; 9],
    kernels: Vec<f32>,
    sums: Vec<f32>,
    pairs: Vec<Line>,
}

/// Products of some tiles with a panel of kernels, mapped back.
struct Task<'a, M> {
    out: &'a Shared,
    picture: &'a Picture<'a>,
    multiplier: &'a M,
    kernel: Right<'a>,
    finish: Finish<'a>,
    panel: usize,
    /// The first tile in the chunk, and that after the last.
    tiles: (usize, usize),
    /// The number of the chunk's first tile in the picture.
    first: usize,
    scratch: &'a mut Scratch,
}

impl<M: Multiplier> Kernel for Task<'_, M> {
    type Output = ();

    #[inline(always)]
    fn run<V: Vector>(self) {
        let channels = self.picture.channels;
        let (from, to) = self.tiles;
        let tiles = to - from;
        let width = columns(self.panel, self.kernel.n()).2;
        let Scratch { taps: mut parts, mut kernels, mut sums, mut pairs } = std::mem::take(self.scratch);
        grow(&mut kernels, PLACES * (DEPTH + GAP) * width);
        grow(&mut sums, PLACES * (tiles + GAP) * width);
        for c in (0..channels).step_by(DEPTH) {
            let depth = DEPTH.min(channels - c);
            let mut taps: [&[f32]; 9] = [&[]; 9];
            for (tap, (rows, scratch)) in taps.iter_mut().zip(&mut parts).enumerate() {
                *rows = self.kernel.rows(self.panel, tap * channels + c, depth, scratch);
            }
            let kernels = &mut kernels[..PLACES * (depth + GAP) * width];
            map_kernels::<V>(taps, kernels, depth * width, (depth + GAP) * width);
            self.multiplier.multiply::<V>(&mut sums, kernels, self.tiles, (c, depth), &mut pairs);
        }
        for tile in 0..tiles {
            for j in 0..width / V::LANES {
                let sums = &sums[tile * width + j * V::LANES..];
                self.finish(self.first + from + tile, j, map_back::<V>(sums, (tiles + GAP) * width));
            }
        }
        *self.scratch = Scratch { taps: parts, kernels, sums, pairs };
    }
}

impl<M> Task<'_, M> {
    /// Writes the outputs of vector `j` of the panel.
    #[inline(always)]
    fn finish<V: Vector>(&self, tile: usize, j: usize, outputs: [[V; TILE]; TILE]) {
        let Self { picture, finish, .. } = self;
        let (rows, across) = picture.tiles();
        let (sample, y, x) = (tile / (rows * across), tile / across % rows * TILE, tile % across * TILE);
        let n = self.kernel.n();
        let (first, count, _) = columns(self.panel, n);
        let (first, count) = (first + j * V::LANES, (count - j * V::LANES).min(V::LANES));
        for i in 0..TILE.min(picture.height - y) {
            for k in 0..TILE.min(picture.width - x) {
                let pixel = (sample * picture.height + y + i) * picture.width + x + k;
                let at = pixel * n + first;
                let mut output = outputs[i][k];
                if !finish.bias.is_empty() {
                    let bias = &finish.bias[pixel / finish.rows_per_bias * n + first..][..count];
                    output = output.add(load_column(bias, 0));
                }
                if !finish.residual.is_empty() {
                    output = output.add(load_column(&finish.residual[at..][..count], 0));
                }
                // SAFETY: within the result, as `convolve` has checked, and this task's own
                let to = unsafe { std::slice::from_raw_parts_mut(self.out.0.add(at), count) };
                store_column(to, 0, output);
            }
        }
    }
}

/// B^T d. Its rows carry the factors that Winograd's G has, since kernels outnumber inputs where pictures are small.
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
fn map_kernel<V: Vector>(pair: usize, [g0, g1, g2]: [V; 3]) -> [V; 2] {
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

/// The rows of the pairs that [`map_kernel`] gives.
const PAIRS: [[usize; 2]; SIDE / 2] = [[0, 5], [1, 2], [3, 4]];

/// A^T m.
#[inline(always)]
fn map_output<V: Vector>(m: [V; SIDE]) -> [V; TILE] {
    let s = V::splat;
    let [m0, m1, m2, m3, m4, m5] = m;
    let (a, b, c, d) = (m1.add(m2), m1.sub(m2), m3.add(m4), m3.sub(m4));
    [m0.add(a).add(c), s(2.).fma(d, b), s(4.).fma(c, a), s(8.).fma(d, b).add(m5)]
}

/// A^T m A of the vectors at the start of `sums` and every `stride` values on.
#[inline(always)]
fn map_back<V: Vector>(sums: &[f32], stride: usize) -> [[V; TILE]; TILE] {
    let mut half = [[V::splat(0.); SIDE]; TILE];
    assert!(sums.len() >= (PLACES - 1) * stride + V::LANES);
    for j in 0..SIDE {
        let mut column = [V::splat(0.); SIDE];
        for (i, value) in column.iter_mut().enumerate() {
            // SAFETY: the length is checked above
            *value = unsafe { V::load(sums.as_ptr().add((i * SIDE + j) * stride)) };
        }
        let column = map_output(column);
        for i in 0..TILE {
            half[i][j] = column[i];
        }
    }
    let mut outputs = [[V::splat(0.); TILE]; TILE];
    for i in 0..TILE {
        outputs[i] = map_output(half[i]);
    }
    outputs
}

/// G g G^T of `count` kernels, whose taps lie in `taps`: mapped [PLACES, count], `apart` values from place to place.
#[inline(always)]
fn map_kernels<V: Vector>(taps: [&[f32]; 9], mapped: &mut [f32], count: usize, apart: usize) {
    assert!(taps.iter().all(|tap| tap.len() == count) && mapped.len() >= (PLACES - 1) * apart + count);
    for at in (0..count).step_by(V::LANES) {
        // two rows at a time, which registers have room for
        for pair in 0..PAIRS.len() {
            let mut half = [[V::splat(0.); 3]; 2];
            for j in 0..3 {
                // SAFETY: `count` is whole vectors, and every tap has that many values
                let tap = |i: usize| unsafe { V::load(taps[i * 3 + j].as_ptr().add(at)) };
                let [one, other] = map_kernel(pair, [tap(0), tap(1), tap(2)]);
                half[0][j] = one;
                half[1][j] = other;
            }
            for i in 0..2 {
                for columns in 0..PAIRS.len() {
                    let mapped_pair = map_kernel(columns, half[i]);
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
