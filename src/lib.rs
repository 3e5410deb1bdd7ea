//! Equilibrated Diffusion: teaches Stable Diffusion a subject from a few photos and their masks.
//!
//! Data flows one way: [`subject`] -> [`training`] -> [`adapter`] -> [`sampling`] -> [`evaluation`], on
//! top of the frozen models of [`model`], which [`base`] finds and loads. The paper's parts are in
//! [`method`], the tensor operations in [`ops`]; [`cli`] alone knows of the command line.

pub mod adapter;
pub mod app;
pub mod base;
pub mod bench;
pub mod cli;
pub mod evaluation;
pub mod files;
pub mod images;
pub mod machine;
pub mod memory;
pub mod method;
pub mod model;
pub mod ops;
pub mod report;
pub mod rng;
pub mod sampling;
pub mod segmentation;
pub mod settings;
pub mod study;
pub mod subject;
pub mod training;
pub mod ui;
pub mod verify;
pub mod weights;
