//! A study: many trainings of subjects by methods, their pictures and scores. What it consists of (`written`, `plan`,
//! `cells`), what is done of it (`ledger`, `sources`), who does which part (`shard`), and what came out (`quantity`,
//! `statistics`, `tables`). The doing is [`crate::app::study`]'s affair.

pub mod cells;
pub mod ledger;
pub mod plan;
pub mod published;
pub mod quantity;
pub mod shard;
pub mod sources;
pub mod statistics;
pub mod table;
pub mod tables;
mod written;

pub use cells::{Cell, Training};
pub use ledger::{Entry, Ledger};
pub use plan::Plan;
pub use quantity::Quantity;
pub use shard::Shard;
pub use sources::Sources;
pub use table::Table;
