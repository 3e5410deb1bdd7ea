//! Stable Diffusion 1.x and the metric models, from the checkpoints' own tensor names.
//!
//! Nothing here knows of subjects, training or the command line. All weights are frozen.

pub mod attention;
pub mod clip;
pub mod config;
pub mod elite;
pub mod judge;
mod layers;
pub mod resnet;
pub mod sam;
pub mod scheduler;
pub mod tokenizer;
pub mod unet;
pub mod unet_blocks;
pub mod vae;
pub mod vit;

pub use attention::{Attention, AttentionProcessor, Plain};
pub use clip::{ClipText, ClipVision};
pub use config::Config;
pub use judge::Judge;
pub use layers::tiled;
pub use sam::Sam;
pub use scheduler::Scheduler;
pub use tokenizer::Tokenizer;
pub use unet::Unet;
pub use vae::Vae;
pub use vit::Vit;
