//! Room for numbers that a kernel writes before anyone reads them.
//!
//! Clearing it first would cost as much as many kernels do. With debug assertions it is filled with NaN, so that a
//! value which a kernel forgets shows in every test, and is not an old number that happens to be right.

use half::bf16;

/// 64 bytes of bf16 values, the unit of caches: what begins at one is read fastest.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line([bf16; Self::VALUES]);

impl Line {
    /// Values of a line.
    pub(crate) const VALUES: usize = 32;

    /// The values of successive lines.
    pub(crate) fn values(lines: &[Self]) -> &[bf16] {
        // SAFETY: a line is its values and nothing else
        unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), Self::VALUES * lines.len()) }
    }

    /// The same to write.
    pub(crate) fn values_mut(lines: &mut [Self]) -> &mut [bf16] {
        // SAFETY: a line is its values and nothing else
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), Self::VALUES * lines.len()) }
    }
}

/// Numbers of which every bit pattern is one.
pub(crate) trait Number: Copy {
    /// What shows that it was not written.
    const UNWRITTEN: Self;
}

impl Number for f32 {
    const UNWRITTEN: Self = f32::NAN;
}

impl Number for Line {
    const UNWRITTEN: Self = Line([bf16::NAN; Line::VALUES]);
}

/// Room for `length` numbers.
///
/// # Safety
/// Every number must be written before it is read.
#[allow(clippy::uninit_vec)]
pub(crate) unsafe fn room<T: Number>(length: usize) -> Vec<T> {
    let mut numbers = Vec::with_capacity(length);
    // SAFETY: the capacity is there, every bit pattern is a number, and the caller writes it first
    unsafe { numbers.set_len(length) };
    if cfg!(debug_assertions) {
        numbers.fill(T::UNWRITTEN);
    }
    numbers
}

/// The first `length` numbers of `numbers`, whose room grows if it must; what was there is lost.
///
/// # Safety
/// As for [`room`].
pub(crate) unsafe fn grown<T: Number>(numbers: &mut Vec<T>, length: usize) -> &mut [T] {
    if numbers.len() < length {
        // SAFETY: the caller's
        *numbers = unsafe { room(length) };
    } else if cfg!(debug_assertions) {
        numbers[..length].fill(T::UNWRITTEN);
    }
    &mut numbers[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_written_shows() {
        // SAFETY: tests have debug assertions, which fill the room
        unsafe {
            let mut numbers = room::<f32>(100);
            assert!(numbers.iter().all(|x| x.is_nan()));
            numbers.fill(1.);
            for length in [40, 300, 7] {
                let again = grown(&mut numbers, length);
                assert!(again.len() == length && again.iter().all(|x| x.is_nan()));
                again.fill(2.);
            }
            assert!(Line::values(&room::<Line>(3)).iter().all(|x| x.is_nan()));
        }
    }
}
