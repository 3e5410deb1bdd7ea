//! The tensor operations that the models are made of.
//!
//! Almost every weight here is frozen, so each operation knows the gradient with respect to its input
//! and nothing else: candle's own operations would compute and keep a gradient for every frozen weight
//! on the way, and its fused ones (`softmax_last_dim`, `layer_norm`) silently cut the graph. Made of variables, the same
//! layers are trained: then each has the gradients of its weights too, and keeps what they need.
//!
//! The files of this folder are fronts: what models call, with its shapes, its gradient, and the same composed of
//! candle operations, the reference that runs on any device and that every kernel is tested against. `place` says
//! where an operation runs; kernels are in `cpu` and `cuda`.

pub mod activation;
pub mod adamw;
pub mod attention;
mod blend;
mod conv;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "no_cuda.rs"]
mod cuda;
mod feed_forward;
mod gradient;
mod linear;
mod norm;
mod place;
mod self_attention;
#[cfg(test)]
pub(crate) mod testing;
mod weight;

pub use attention::attend;
pub use blend::blend;
pub use conv::{Around, Conv2d};
pub use cpu::simd::{Level, check_level, level};
pub use feed_forward::FeedForward;
pub use gradient::with_gradient_of;
pub use linear::{Linear, TrainedLinear};
pub use norm::{GroupNorm, LayerNorm, Norm};
pub use place::{Limits, Memory, cuda_cards, cuda_device, cuda_report, limits, memory, prepare};
pub use self_attention::SelfAttention;
pub use weight::Precision;

/// What a training step keeps of its forward pass.
///
/// The inside of a transformer block is as expensive to compute again on every level of a UNet, but takes the less
/// memory the fewer tokens there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The inside of blocks of at most so many tokens is kept; of others it is computed again.
    pub tokens: usize,
}

impl Keep {
    /// Everything that the backward pass asks for.
    pub const ALL: Self = Self { tokens: usize::MAX };
    /// The inputs of the blocks.
    pub const INPUTS: Self = Self { tokens: 0 };

    /// Whether the inside of a block on `x` [B, N, d] is kept for a gradient.
    fn inside(self, x: &candle_core::Tensor) -> bool {
        x.track_op() && x.dims().get(1).is_some_and(|&tokens| tokens <= self.tokens)
    }
}
