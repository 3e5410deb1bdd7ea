//! What the program does for its users: a use case a file.

pub mod page;
