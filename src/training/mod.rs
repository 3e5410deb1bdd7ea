//! From a subject to an adapter.

pub mod losses;
pub mod optimiser;

pub use losses::{Batch, LossSettings, Losses, training_losses};
pub use optimiser::AdamW;
