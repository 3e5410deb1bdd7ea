//! The instructions of x86-64 played on plain arrays, for targets that lack them.

use half::bf16;

use super::portable::Lanes;
use super::{Kernel, Level};

/// 16 lanes.
pub(crate) type Avx512 = Lanes<16>;

/// Whether the instructions are played.
#[cfg(test)]
pub(super) const PLAYED: bool = true;

/// No other level than that of plain arrays.
pub(super) fn detect() -> Level {
    Level::Portable
}

/// # Safety
/// None to speak of.
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// # Safety
/// None to speak of.
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Lanes<8>>()
}

/// # Safety
/// None to speak of.
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// `sum + a[0] b[0] + a[1] b[1]` in each lane, where a lane holds two bf16 values; `a` is one pair.
///
/// # Safety
/// `a` and `b` must point to 2 and 32 values.
#[inline(always)]
pub(crate) unsafe fn dot_pairs(sum: Avx512, a: *const bf16, b: *const bf16) -> Avx512 {
    // SAFETY: the caller's
    let (a, b) = unsafe { (a.cast::<[bf16; 2]>().read(), b.cast::<[[bf16; 2]; 16]>().read()) };
    let mut sums = sum.0;
    for (sum, b) in sums.iter_mut().zip(b) {
        *sum += a[0].to_f32() * b[0].to_f32() + a[1].to_f32() * b[1].to_f32();
    }
    Lanes(sums)
}

/// Transposes 8 x 8 values.
///
/// # Safety
/// Both must have eight rows of eight values, that far apart.
pub(super) unsafe fn transpose_square(from: *const f32, stride_from: usize, to: *mut f32, stride_to: usize) {
    for i in 0..8 {
        for j in 0..8 {
            // SAFETY: the caller's
            unsafe { to.add(j * stride_to + i).write(from.add(i * stride_from + j).read()) };
        }
    }
}

/// Rounds `from` to bf16.
///
/// # Safety
/// None to speak of.
pub(crate) unsafe fn to_bf16(from: &[f32], to: &mut [bf16]) {
    for (to, from) in to[..from.len()].iter_mut().zip(from) {
        *to = bf16::from_f32(*from);
    }
}
