//! AMX: products of tiles of bf16 pairs, summed in f32, as Intel's processors have them since 2023.
//!
//! A tile is 16 rows of 64 bytes. One instruction multiplies 16 rows of 32 values with 32 rows of 16 columns, whose
//! rows lie interleaved in pairs. The eight tiles of a thread are no variables: what the functions here share is in
//! the processor, between [`Tiles::take`] and the drop of what it gave.

use std::arch::asm;
use std::arch::x86_64::*;
use std::marker::PhantomData;

use half::bf16;

use super::{TILE_DEPTH, TILE_PARTS};

/// Whether the processor has the tiles, and the system lets this program use them.
pub(super) fn detect() -> bool {
    // the system keeps room for the tiles of a thread only if it is asked to
    const REQUEST: libc::c_long = 0x1023;
    const TILES: libc::c_long = 18;
    let leaf = __cpuid_count(7, 0);
    let (with_bf16, with_tiles) = (leaf.edx >> 22 & 1 == 1, leaf.edx >> 24 & 1 == 1);
    // SAFETY: the call has no effect but the permission
    with_bf16 && with_tiles && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILES) } == 0
}

/// What `$what` makes of every tile of sums, its row and its column.
macro_rules! each_sum {
    ($c:ident, $what:ident) => {{
        $what!("0", 0, 0);
        $what!("3", 1, 0);
        if $c > 1 {
            $what!("1", 0, 1);
            $what!("4", 1, 1);
        }
        if $c > 2 {
            $what!("2", 0, 2);
            $what!("5", 1, 2);
        }
    }};
}

/// The tiles of this thread, ready for use.
pub(crate) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    /// Makes all tiles 16 rows of 64 bytes.
    ///
    /// # Safety
    /// [`detect`] must have said yes.
    pub(crate) unsafe fn take() -> Self {
        #[repr(C, align(64))]
        struct Layout {
            palette: u8,
            start: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut layout = Layout { palette: 1, start: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        layout.row_bytes[..8].fill(64);
        layout.rows[..8].fill(16);
        // SAFETY: the layout is valid for palette 1
        unsafe { asm!("ldtilecfg [{}]", in(reg) &layout, options(nostack, readonly)) };
        Self(PhantomData)
    }

    /// Sets the sums to 0.
    #[inline(always)]
    pub(crate) fn clear(&self) {
        // SAFETY: touches tiles alone
        unsafe {
            asm!(
                "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", "tilezero tmm4", "tilezero tmm5",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                options(nostack, nomem)
            );
        }
    }

    /// Adds to the sums [32, 16 C] the product of 32 rows of `left`, `stride` values apart, and `right`, rows of C
    /// times 16 pairs: `depth` values deep, a multiple of 32. Fastest where both begin at multiples of 64 bytes.
    ///
    /// # Safety
    /// The pointers must be to that many values.
    #[inline(always)]
    pub(crate) unsafe fn multiply<const C: usize>(
        &self,
        left: *const bf16,
        stride: usize,
        right: *const bf16,
        depth: usize,
    ) {
        let below = left.wrapping_add(16 * stride);
        // two rows of tiles times C tiles; where a tile serves twice, it is still in the nearest cache
        macro_rules! steps {
            ($($line:literal),*) => {
                asm!(
                    "2:",
                    $($line,)*
                    "add {left}, 64",
                    "add {below}, 64",
                    "add {right}, {step}",
                    "dec {count}",
                    "jnz 2b",
                    left = inout(reg) left => _,
                    below = inout(reg) below => _,
                    right = inout(reg) right => _,
                    count = inout(reg) depth / TILE_DEPTH => _,
                    stride = in(reg) 2 * stride,
                    row = in(reg) 64 * C,
                    step = in(reg) 1024 * C,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack, readonly)
                )
            };
        }
        debug_assert!(depth > 0 && depth.is_multiple_of(TILE_DEPTH));
        // SAFETY: the caller's
        unsafe {
            match C {
                1 => steps!(
                    "tileloadd tmm6, [{left} + {stride}]",
                    "tileloadd tmm7, [{right} + {row}]",
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tileloadd tmm6, [{below} + {stride}]",
                    "tdpbf16ps tmm3, tmm6, tmm7"
                ),
                2 => steps!(
                    "tileloadd tmm6, [{left} + {stride}]",
                    "tileloadd tmm7, [{right} + {row}]",
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tileloadd tmm2, [{right} + {row} + 64]",
                    "tdpbf16ps tmm1, tmm6, tmm2",
                    "tileloadd tmm5, [{below} + {stride}]",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    "tdpbf16ps tmm4, tmm5, tmm2"
                ),
                3 => steps!(
                    "tileloadd tmm6, [{left} + {stride}]",
                    "tileloadd tmm7, [{right} + {row}]",
                    "tdpbf16ps tmm0, tmm6, tmm7",
                    "tileloadd tmm7, [{right} + {row} + 64]",
                    "tdpbf16ps tmm1, tmm6, tmm7",
                    "tileloadd tmm7, [{right} + {row} + 128]",
                    "tdpbf16ps tmm2, tmm6, tmm7",
                    "tileloadd tmm6, [{below} + {stride}]",
                    "tdpbf16ps tmm5, tmm6, tmm7",
                    "tileloadd tmm7, [{right} + {row} + 64]",
                    "tdpbf16ps tmm4, tmm6, tmm7",
                    "tileloadd tmm7, [{right} + {row}]",
                    "tdpbf16ps tmm3, tmm6, tmm7"
                ),
                _ => unreachable!("panels have one to three vectors"),
            }
        }
    }

    /// Sets the sums to those at `from` [32, 16 C].
    ///
    /// # Safety
    /// They must be there, `stride` values from row to row.
    #[inline(always)]
    pub(crate) unsafe fn load<const C: usize>(&self, from: *const f32, stride: usize) {
        macro_rules! load {
            ($tile:literal, $row:expr, $column:expr) => {
                asm!(
                    concat!("tileloadd tmm", $tile, ", [{from} + {stride}]"),
                    from = in(reg) from.wrapping_add(16 * $row * stride + 16 * $column),
                    stride = in(reg) 4 * stride,
                    options(nostack, readonly)
                )
            };
        }
        // SAFETY: the caller's
        unsafe { each_sum!(C, load) };
    }

    /// Writes the sums to `to` [32, 16 C].
    ///
    /// # Safety
    /// `to` must have room for them, `stride` values from row to row.
    #[inline(always)]
    pub(crate) unsafe fn store<const C: usize>(&self, to: *mut f32, stride: usize) {
        macro_rules! store {
            ($tile:literal, $row:expr, $column:expr) => {
                asm!(
                    concat!("tilestored [{to} + {stride}], tmm", $tile),
                    to = in(reg) to.wrapping_add(16 * $row * stride + 16 * $column),
                    stride = in(reg) 4 * stride,
                    options(nostack)
                )
            };
        }
        // SAFETY: the caller's
        unsafe { each_sum!(C, store) };
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: touches tiles alone
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Takes the upper halves of `x` off: 8 bits of the mantissa, in the upper halves of the result.
#[target_feature(enable = "avx512f")]
#[inline]
fn upper(x: &mut __m512) -> __m512i {
    let bits = _mm512_and_si512(_mm512_castps_si512(*x), _mm512_set1_epi32(0xffff_0000_u32 as i32));
    *x = _mm512_sub_ps(*x, _mm512_castsi512_ps(bits));
    bits
}

/// The parts of `count` values at `from`, of 8 bits of mantissa each: part i from `to + i * apart` on.
///
/// # Safety
/// The processor must have AVX-512; the values must be there, and room for every part.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn split(from: *const f32, count: usize, to: *mut bf16, apart: usize) {
    for i in (0..count).step_by(16) {
        let lanes = first_lanes(count - i);
        // SAFETY: the caller's; lanes beyond the last value are left alone
        unsafe {
            let mut x = _mm512_maskz_loadu_ps(lanes, from.add(i));
            for part in 0..TILE_PARTS {
                let halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(upper(&mut x)));
                _mm256_mask_storeu_epi16(to.add(part * apart + i).cast(), lanes, halves);
            }
        }
    }
}

/// The parts of two rows of `count` values, interleaved.
///
/// # Safety
/// As for [`split`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn split_pairs(even: *const f32, odd: *const f32, count: usize, to: *mut bf16, apart: usize) {
    for i in (0..count).step_by(16) {
        let lanes = first_lanes(count - i);
        // SAFETY: as above
        unsafe {
            let mut x = _mm512_maskz_loadu_ps(lanes, even.add(i));
            let mut y = _mm512_maskz_loadu_ps(lanes, odd.add(i));
            for part in 0..TILE_PARTS {
                let pairs = _mm512_or_si512(_mm512_srli_epi32::<16>(upper(&mut x)), upper(&mut y));
                _mm512_mask_storeu_epi32(to.add(part * apart + 2 * i).cast(), lanes, pairs);
            }
        }
    }
}

/// The first lanes of a vector, at most `count`.
fn first_lanes(count: usize) -> __mmask16 {
    if count >= 16 { !0 } else { (1 << count) - 1 }
}
