//! Custom Diffusion: trained keys and values of every cross-attention, which Equilibrated Diffusion builds on, the method
//! as its authors published it, and the loss of Equilibrated Diffusion's released code on the attention map of `S*`.

mod merge;
mod placement;
mod published;
mod tuned;

pub use merge::Regularised;
pub use placement::Placement;
pub use published::{CustomDiffusion, Options as Published};
pub use tuned::{TunedCrossAttention, cross_attention_loss};
