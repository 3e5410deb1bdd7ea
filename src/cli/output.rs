//! Results on the standard output, whose reader may go away.

use std::fmt::Display;
use std::io::{ErrorKind, Write, stdout};

use anyhow::{Context, Result};

use super::observer::printable;

/// Nobody reads the standard output any more, so there is nothing left to do: no failure.
#[derive(Debug)]
pub(super) struct Closed;

impl Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("nobody reads the standard output")
    }
}

impl std::error::Error for Closed {}

/// Prints a line.
///
/// # Errors
/// [`Closed`] if the reader went away, else if it cannot be written.
pub(super) fn print(line: impl Display) -> Result<()> {
    let mut out = stdout().lock();
    match writeln!(out, "{}", printable(&line.to_string())).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed.into()),
        written => written.context("cannot write to the standard output"),
    }
}
