//! Equilibrated Diffusion's parts, each in the file of its name in the paper.

pub mod customised;
pub mod data;
pub mod fdte;
pub mod losses;
pub mod mgdp;
pub mod rra;

pub use customised::{Customisation, Customised, Recorder, References, Watch};
pub use fdte::{Band, ConceptEmbedding};
