//! Arrays that compilers turn into the vectors of their target.

use half::slice::HalfFloatSliceExt;

use super::Vector;

/// N lanes. Eight are two registers of NEON or SSE2.
#[derive(Clone, Copy)]
pub(crate) struct Lanes<const N: usize>(pub(super) [f32; N]);

impl<const N: usize> Lanes<N> {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = self.0;
        for (x, y) in out.iter_mut().zip(other.0) {
            *x = f(*x, y);
        }
        Self(out)
    }
}

impl<const N: usize> Vector for Lanes<N> {
    const LANES: usize = N;

    #[inline(always)]
    fn splat(x: f32) -> Self {
        Self([x; N])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's
        Self(unsafe { from.cast::<[f32; N]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's
        unsafe { to.cast::<[f32; N]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const half::f16) -> Self {
        let mut out = [0f32; N];
        // SAFETY: the caller's
        unsafe { from.cast::<[half::f16; N]>().read_unaligned() }.convert_to_f32_slice(&mut out);
        Self(out)
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const half::bf16) -> Self {
        // SAFETY: the caller's
        let halves = unsafe { from.cast::<[u16; N]>().read_unaligned() };
        Self(halves.map(|half| f32::from_bits((half as u32) << 16)))
    }
    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, other: Self) -> Self {
        self.zip(other, |a, b| a / b)
    }
    #[inline(always)]
    fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn fma(self, b: Self, c: Self) -> Self {
        let mut out = [0f32; N];
        for (i, out) in out.iter_mut().enumerate() {
            // without the instruction, mul_add is a slow call of a library
            *out = if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                self.0[i].mul_add(b.0[i], c.0[i])
            } else {
                self.0[i] * b.0[i] + c.0[i]
            };
        }
        Self(out)
    }
    #[inline(always)]
    fn exponent(self) -> Self {
        Self(self.0.map(|x| f32::from_bits((x.to_bits() << 23).wrapping_add(1f32.to_bits()))))
    }
    #[inline(always)]
    fn select(self, positive: Self, negative: Self) -> Self {
        let mut out = [0f32; N];
        for (i, out) in out.iter_mut().enumerate() {
            *out = if self.0[i] >= 0. { positive.0[i] } else { negative.0[i] };
        }
        Self(out)
    }
}
