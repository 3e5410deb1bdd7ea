//! AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::{Kernel, Level, Vector};

/// Whether the instructions are played.
#[cfg(test)]
pub(super) const PLAYED: bool = false;

/// The best level of this processor, tiles aside.
pub(super) fn detect() -> Level {
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
    {
        if is_x86_feature_detected!("avx512bf16") { Level::Avx512Bf16 } else { Level::Avx512 }
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") {
        Level::Avx2
    } else {
        Level::Portable
    }
}

/// # Safety
/// The processor must have AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// # Safety
/// The processor must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx2>()
}

/// # Safety
/// The processor must have AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_bf16<K: Kernel>(kernel: K) -> K::Output {
    kernel.run::<Avx512>()
}

/// `sum + a[0] b[0] + a[1] b[1]` in each lane, where a lane holds two bf16 values; `a` is one pair.
///
/// # Safety
/// Only within [`run_bf16`]; `a` and `b` must point to 2 and 32 values.
#[inline(always)]
pub(crate) unsafe fn dot_pairs(sum: Avx512, a: *const half::bf16, b: *const half::bf16) -> Avx512 {
    // SAFETY: the caller's
    unsafe {
        let a = _mm512_set1_epi32(a.cast::<i32>().read_unaligned());
        let b = _mm512_loadu_si512(b.cast());
        Avx512(_mm512_dpbf16_ps(
            sum.0,
            std::mem::transmute::<__m512i, __m512bh>(a),
            std::mem::transmute::<__m512i, __m512bh>(b),
        ))
    }
}

/// Transposes 8 x 8 values.
///
/// # Safety
/// The processor must have AVX; both must have eight rows of eight values, that far apart.
#[target_feature(enable = "avx")]
pub(super) unsafe fn transpose_square(from: *const f32, stride_from: usize, to: *mut f32, stride_to: usize) {
    // SAFETY: the caller's
    unsafe {
        let row = |i: usize| _mm256_loadu_ps(from.add(i * stride_from));
        let pair = |i: usize| (_mm256_unpacklo_ps(row(i), row(i + 1)), _mm256_unpackhi_ps(row(i), row(i + 1)));
        let four = |i: usize| {
            let ((a, b), (c, d)) = (pair(i), pair(i + 2));
            [
                _mm256_shuffle_ps::<0x44>(a, c),
                _mm256_shuffle_ps::<0xEE>(a, c),
                _mm256_shuffle_ps::<0x44>(b, d),
                _mm256_shuffle_ps::<0xEE>(b, d),
            ]
        };
        for (j, (upper, lower)) in four(0).into_iter().zip(four(4)).enumerate() {
            _mm256_storeu_ps(to.add(j * stride_to), _mm256_permute2f128_ps::<0x20>(upper, lower));
            _mm256_storeu_ps(to.add((j + 4) * stride_to), _mm256_permute2f128_ps::<0x31>(upper, lower));
        }
    }
}

/// Rounds `from` to bf16.
///
/// # Safety
/// Only within [`run_bf16`].
#[inline(always)]
pub(crate) unsafe fn to_bf16(from: &[f32], to: &mut [half::bf16]) {
    let whole = from.len() / 16 * 16;
    assert!(to.len() >= from.len());
    for i in (0..whole).step_by(16) {
        // SAFETY: i + 16 is within both; the rest is the caller's
        unsafe {
            let half = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr().add(i)));
            to.as_mut_ptr().add(i).cast::<__m256bh>().write_unaligned(half);
        }
    }
    for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
        *to = half::bf16::from_f32(*from);
    }
}

/// 16 lanes. Values exist only within [`run_avx512`] and [`run_bf16`].
#[derive(Clone, Copy)]
pub(crate) struct Avx512(__m512);

/// 8 lanes. Values exist only within [`run_avx2`].
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

macro_rules! lane_by_lane {
    ($($method:ident => $instruction:ident),*) => {$(
        #[inline(always)]
        fn $method(self, other: Self) -> Self {
            // SAFETY: vectors exist only where the processor has their registers
            Self(unsafe { $instruction(self.0, other.0) })
        }
    )*};
}

impl Vector for Avx512 {
    const LANES: usize = 16;

    lane_by_lane!(add => _mm512_add_ps, sub => _mm512_sub_ps, mul => _mm512_mul_ps, div => _mm512_div_ps, max => _mm512_max_ps, min => _mm512_min_ps);

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        Self(unsafe { _mm512_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's
        Self(unsafe { _mm512_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's
        unsafe { _mm512_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        // SAFETY: the caller's
        Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: the caller's
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        Self(unsafe { _mm512_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(self.0));
            Self(_mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(1f32.to_bits() as i32))))
        }
    }
    #[inline(always)]
    fn select(self, positive: Self, negative: Self) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        unsafe {
            let mask = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, _mm512_setzero_ps());
            Self(_mm512_mask_blend_ps(mask, negative.0, positive.0))
        }
    }
}

impl Vector for Avx2 {
    const LANES: usize = 8;

    lane_by_lane!(add => _mm256_add_ps, sub => _mm256_sub_ps, mul => _mm256_mul_ps, div => _mm256_div_ps, max => _mm256_max_ps, min => _mm256_min_ps);

    #[inline(always)]
    fn splat(x: f32) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        Self(unsafe { _mm256_set1_ps(x) })
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's
        Self(unsafe { _mm256_loadu_ps(from) })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's
        unsafe { _mm256_storeu_ps(to, self.0) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        // SAFETY: the caller's
        Self(unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.cast())) })
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: the caller's
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide)))
        }
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        Self(unsafe { _mm256_fmadd_ps(self.0, b.0, c.0) })
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        unsafe {
            let shifted = _mm256_slli_epi32::<23>(_mm256_castps_si256(self.0));
            Self(_mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(1f32.to_bits() as i32))))
        }
    }
    #[inline(always)]
    fn select(self, positive: Self, negative: Self) -> Self {
        // SAFETY: vectors exist only where the processor has their registers
        unsafe {
            let mask = _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, _mm256_setzero_ps());
            Self(_mm256_blendv_ps(negative.0, positive.0, mask))
        }
    }
}
