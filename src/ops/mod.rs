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
mod attention_kernels;
mod backward;
mod blend;
pub mod conv;
mod feed_forward;
mod gemm;
mod linear;
pub mod norm;
mod panels;
mod self_attention;
mod simd;
mod slices;
mod winograd;

pub use attention::attend;
pub use blend::blend;
pub use conv::{Around, Conv2d};
pub use feed_forward::FeedForward;
pub use linear::{Linear, TrainedLinear};
pub use norm::{GroupNorm, LayerNorm, Norm};
pub use panels::Precision;
pub use self_attention::SelfAttention;
pub use simd::{Level, level};

/// What a training step keeps of its forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Everything that the backward pass asks for.
    #[default]
    All,
    /// The inputs of the large blocks, of which the rest is computed again.
    Inputs,
}
