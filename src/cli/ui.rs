//! Progress bars and Ctrl-C.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

static STOP: AtomicBool = AtomicBool::new(false);

/// Whether the user asked to stop. The first call begins to listen; a second Ctrl-C ends the program.
pub fn stopped() -> bool {
    static LISTENING: OnceLock<bool> = OnceLock::new();
    LISTENING.get_or_init(|| {
        ctrlc::set_handler(|| {
            if STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            eprintln!("\nStopping after this step (once more to stop at once)");
        })
        .is_ok()
    });
    STOP.load(Ordering::SeqCst)
}

/// The error that ends work which has nothing to save when the user asks to stop.
#[derive(Debug)]
pub struct Interrupted;

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("stopped")
    }
}

impl std::error::Error for Interrupted {}

/// A bar over `length` units with rate and time left; on a terminal only.
pub fn bar(what: &str, length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    let template = "{msg:<18} {wide_bar} {pos}/{len}  {per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what.to_string());
    bar
}

/// Advances `bar`, unless the user asked to stop.
///
/// # Errors
/// [`Interrupted`].
pub fn advance(bar: &ProgressBar, count: usize) -> Result<()> {
    bar.inc(count as u64);
    if stopped() { bail!(Interrupted) } else { Ok(()) }
}
