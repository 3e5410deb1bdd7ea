//! What the machine has: memory to plan with, and what the program takes of it.

/// Bytes of stack of a thread that computes: candle walks the graph of a training step recursively, deeper than a usual
/// stack.
pub const STACK: usize = 512 << 20;

/// Bytes of memory that programs can still take, if the system tells.
pub fn available_memory() -> Option<u64> {
    if !sysinfo::IS_SUPPORTED_SYSTEM {
        return None;
    }
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.available_memory()).filter(|&bytes| bytes > 0)
}

/// The most memory that this process has taken so far, in bytes, if the system tells.
#[cfg(unix)]
pub fn peak_memory() -> Option<u64> {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the call fills in the structure that it is given
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return None;
        }
        usage.assume_init()
    };
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    u64::try_from(usage.ru_maxrss).ok().map(|peak| peak * unit)
}

/// The most memory that this process has taken so far, in bytes, if the system tells.
#[cfg(not(unix))]
pub fn peak_memory() -> Option<u64> {
    None
}
