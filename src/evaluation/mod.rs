//! How well pictures follow their prompts and look like the subject: prompts to draw, what goes into
//! the encoders, the metrics, and their presentation as a table, JSON and a page.

pub mod judge;
pub mod metrics;
pub mod preprocess;
pub mod prompts;
pub mod resample;
pub mod scorer;
pub mod scores;

pub use scorer::Scorer;
