//! Ways to customise a base, a folder for each.

pub mod custom_diffusion;
pub mod eqdiff;
