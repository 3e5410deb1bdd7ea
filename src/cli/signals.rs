//! Ctrl-C and its relatives: the first asks to stop, the second ends the program.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

static STOP: AtomicBool = AtomicBool::new(false);

/// Begins to listen, and calls `asked` at the first signal. What the program was started to ignore (`nohup`) stays
/// ignored.
pub(super) fn listen(asked: impl Fn() + Send + 'static) {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let ignored = hangup_is_ignored();
        hear_of_large_files();
        // without a handler the signals simply end the program
        let _ = ctrlc::set_handler(move || {
            if STOP.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            asked();
        });
        if ignored {
            ignore_hangup();
        }
    });
}

/// Whether the user asked to stop.
pub(super) fn stopped() -> bool {
    STOP.load(Ordering::SeqCst)
}

#[cfg(unix)]
fn hangup_is_ignored() -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with no new action the call only fills in the structure that it is given
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(unix)]
fn ignore_hangup() {
    // SAFETY: ignoring a signal runs no code of ours
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// A file that grows beyond `ulimit -f` is an error to tell of; by default the signal ends the program.
#[cfg(unix)]
fn hear_of_large_files() {
    // SAFETY: ignoring a signal runs no code of ours
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

#[cfg(not(unix))]
fn hear_of_large_files() {}

#[cfg(not(unix))]
fn hangup_is_ignored() -> bool {
    false
}

#[cfg(not(unix))]
fn ignore_hangup() {}
