//! From a subject to an adapter.

pub mod budget;
pub mod class_images;
pub mod data;
pub mod log;
pub mod losses;
pub mod optimiser;
pub mod state;
pub mod trainer;

pub use data::Data;
pub use losses::{Batch, LossSettings, Losses, training_losses};
pub use optimiser::AdamW;
pub use trainer::{Next, Trainer};
