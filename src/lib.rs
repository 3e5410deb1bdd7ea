//! Equilibrated Diffusion: teaches Stable Diffusion a subject from a few photos and their masks.
//!
//! Data flows one way: [`subject`] -> training -> adapter -> sampling -> evaluation, on top of the
//! frozen models of [`model`], which [`base`] finds and loads.

pub mod base;
pub mod method;
pub mod model;
pub mod ops;
pub mod rng;
pub mod sampling;
pub mod settings;
pub mod training;
pub mod verify;
