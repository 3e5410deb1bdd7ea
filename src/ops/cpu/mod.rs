//! The operations on the processor: kernels in the widths that it has.

pub(crate) mod activation;
pub(crate) mod adamw;
pub(crate) mod attention;
pub(crate) mod blend;
pub(crate) mod convolution;
pub(crate) mod feed_forward;
pub(crate) mod linear;
pub(crate) mod norm;
pub(crate) mod product;
pub(crate) mod room;
pub(crate) mod shared;
pub(crate) mod simd;
pub(crate) mod slices;
