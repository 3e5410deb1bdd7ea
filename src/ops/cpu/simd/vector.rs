//! Vectors of f32, and loops over slices in vectors.

/// f32 lanes. The methods are safe to call where the processor has what the type stands for, which
/// [`run`](super::run) sees to; those that touch memory say what they ask of pointers.
#[allow(clippy::missing_safety_doc, clippy::should_implement_trait)]
pub(crate) trait Vector: Copy {
    /// Number of lanes.
    const LANES: usize;

    /// All lanes `x`.
    fn splat(x: f32) -> Self;
    /// `LANES` values from `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// Writes `LANES` values.
    unsafe fn store(self, to: *mut f32);
    /// `LANES` halves, as f32.
    unsafe fn load_f16(from: *const half::f16) -> Self;
    /// `LANES` bf16 values, as f32.
    unsafe fn load_bf16(from: *const half::bf16) -> Self;
    /// Lane by lane.
    fn add(self, other: Self) -> Self;
    /// Lane by lane.
    fn sub(self, other: Self) -> Self;
    /// Lane by lane.
    fn mul(self, other: Self) -> Self;
    /// Lane by lane.
    fn div(self, other: Self) -> Self;
    /// Lane by lane.
    fn max(self, other: Self) -> Self;
    /// Lane by lane.
    fn min(self, other: Self) -> Self;
    /// self * b + c.
    fn fma(self, b: Self, c: Self) -> Self;
    /// The bits of `self` shifted left by 23, plus those of 1: 2^n where the low bits of `self` are n.
    fn exponent(self) -> Self;
    /// Lanes of `positive` where `self` is at least 0, else those of `negative`.
    fn select(self, positive: Self, negative: Self) -> Self;

    /// The sum of all lanes, in an order that depends on the width alone.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut lanes = [0f32; 16];
        // SAFETY: no vector has more lanes
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }

    /// The first values of a slice of at most `LANES`, the other lanes 0.
    #[inline(always)]
    fn load_part(from: &[f32]) -> Self {
        let mut lanes = [0f32; 16];
        let count = from.len().min(Self::LANES);
        lanes[..count].copy_from_slice(&from[..count]);
        // SAFETY: no vector has more lanes
        unsafe { Self::load(lanes.as_ptr()) }
    }

    /// Writes as many lanes as `to` has room for.
    #[inline(always)]
    fn store_part(self, to: &mut [f32]) {
        let mut lanes = [0f32; 16];
        // SAFETY: no vector has more lanes
        unsafe { self.store(lanes.as_mut_ptr()) };
        let count = to.len().min(Self::LANES);
        to[..count].copy_from_slice(&lanes[..count]);
    }

    /// e^self; relative error below 3e-7, 0 below -87.
    #[inline(always)]
    fn exp(self) -> Self {
        // adding 1.5 * 2^23 rounds to the nearest integer, which then sits in the low mantissa bits
        const ROUND: f32 = 12_582_912.;
        let x = self.max(Self::splat(-87.3)).min(Self::splat(88.3));
        let shifted = x.fma(Self::splat(std::f32::consts::LOG2_E), Self::splat(ROUND));
        let n = shifted.sub(Self::splat(ROUND));
        // ln 2 in two parts, so that the reduced argument stays exact
        let r = n.fma(Self::splat(-0.693_359_4), x);
        let r = n.fma(Self::splat(2.121_944_4e-4), r);
        let mut p = Self::splat(1.987_569_1e-4);
        for &c in &[1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
            p = p.fma(r, Self::splat(c));
        }
        let y = p.fma(r.mul(r), r.add(Self::splat(1.)));
        y.mul(shifted.exponent())
    }

    /// 2^self of values that are not positive; relative error below 3e-7 (Cephes), 0 below -126.
    #[inline(always)]
    fn exp2_below_one(self) -> Self {
        const ROUND: f32 = 12_582_912.;
        let x = self.max(Self::splat(-126.));
        let shifted = x.add(Self::splat(ROUND));
        let r = x.sub(shifted.sub(Self::splat(ROUND)));
        let mut p = Self::splat(1.535_336_2e-4);
        for &c in &[1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 2.402_264_7e-1, 6.931_472e-1, 1.] {
            p = p.fma(r, Self::splat(c));
        }
        p.mul(shifted.exponent())
    }

    /// 1 / (1 + e^-self).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        let one = Self::splat(1.);
        one.div(one.add(Self::splat(0.).sub(self).exp()))
    }
}

/// `map!(V; x in to, a in one, b in another => expression)` sets the vectors x of `to` to an expression
/// of them and of those of slices at the same places, as long as `to` at least. The last vector may be
/// filled up with zeros. A macro, since the compiler leaves closures in the version for old processors.
macro_rules! map {
    ($v:ident; $x:ident in $to:expr $(, $y:ident in $from:expr)* => $body:expr) => {{
        let to: &mut [f32] = $to;
        $(
            let $y: &[f32] = $from;
            assert!($y.len() >= to.len());
        )*
        let (length, whole) = (to.len(), to.len() / $v::LANES * $v::LANES);
        let mut i = 0;
        while i < whole {
            // SAFETY: i + LANES is within all slices
            let $x = unsafe { $v::load(to.as_ptr().add(i)) };
            $(
                // SAFETY: as above
                let $y = unsafe { $v::load($y.as_ptr().add(i)) };
            )*
            let result: $v = $body;
            // SAFETY: as above
            unsafe { result.store(to.as_mut_ptr().add(i)) };
            i += $v::LANES;
        }
        if whole < length {
            let $x = $v::load_part(&to[whole..]);
            $(
                let $y = $v::load_part(&$y[whole..length]);
            )*
            let result: $v = $body;
            result.store_part(&mut to[whole..]);
        }
    }};
}

/// `set!(V; to, a in one, b in another => expression)` is `map!` without regard to what was in `to`.
macro_rules! set {
    ($v:ident; $to:expr $(, $y:ident in $from:expr)* => $body:expr) => {{
        let to: &mut [f32] = $to;
        $(
            let $y: &[f32] = $from;
            assert!($y.len() >= to.len());
        )*
        let (length, whole) = (to.len(), to.len() / $v::LANES * $v::LANES);
        let mut i = 0;
        while i < whole {
            $(
                // SAFETY: i + LANES is within all slices
                let $y = unsafe { $v::load($y.as_ptr().add(i)) };
            )*
            let result: $v = $body;
            // SAFETY: as above
            unsafe { result.store(to.as_mut_ptr().add(i)) };
            i += $v::LANES;
        }
        if whole < length {
            $(
                let $y = $v::load_part(&$y[whole..length]);
            )*
            let result: $v = $body;
            result.store_part(&mut to[whole..]);
        }
    }};
}

/// `total!(V; a in one, b in another => expression)` is the sum of an expression of the vectors of slices
/// of one length; the last may be filled up with zeros.
macro_rules! total {
    ($v:ident; $x:ident in $first:expr $(, $y:ident in $from:expr)* => $body:expr) => {{
        let $x: &[f32] = $first;
        $(
            let $y: &[f32] = $from;
            assert!($y.len() == $x.len());
        )*
        let (length, whole) = ($x.len(), $x.len() / $v::LANES * $v::LANES);
        let mut sum = $v::splat(0.);
        let mut i = 0;
        while i < whole {
            // SAFETY: i + LANES is within all slices
            let ($x, $($y,)*) = unsafe { ($v::load($x.as_ptr().add(i)), $($v::load($y.as_ptr().add(i)),)*) };
            sum = sum.add($body);
            i += $v::LANES;
        }
        if whole < length {
            let ($x, $($y,)*) = ($v::load_part(&$x[whole..]), $($v::load_part(&$y[whole..]),)*);
            sum = sum.add($body);
        }
        sum.sum()
    }};
}

pub(crate) use {map, set, total};
