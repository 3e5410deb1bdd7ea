//! The operations on the processor: kernels in the widths that it has.

pub mod attention;
pub mod convolution;
pub mod product;
pub mod simd;
pub mod slices;
