//! Drawing pictures from prompts.

pub mod ddim;
