//! From a subject to an adapter.

pub mod budget;
pub mod class_images;
pub mod events;
pub mod log;
pub mod optimiser;
pub mod state;
pub mod trainer;

pub use optimiser::AdamW;
pub use trainer::{Event, Next, PAGE, Trainer, is_complete};
