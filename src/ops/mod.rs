//! The tensor operations that the models are made of.
//!
//! Almost every weight here is frozen, so each operation knows the gradient with respect to its input
//! and nothing else: candle's own operations would compute and keep a gradient for every frozen weight
//! on the way, and its fused ones (`softmax_last_dim`, `layer_norm`) silently cut the graph.
//! Forward passes and input gradients have CPU kernels here; on other devices the same functions are
//! composed of candle operations.

pub mod activation;
pub mod adamw;
pub mod attention;
mod backward;
pub mod conv;
mod gemm;
pub mod linear;
pub mod norm;
mod slices;

pub use attention::attend;
pub use conv::Conv2d;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
