//! The process that runs a job, also one that an earlier server started.

use serde::{Deserialize, Serialize};
use sysinfo::{Pid, ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System};

/// A process, told from a later one of the same number by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Process {
    pub id: u32,
    /// Seconds since 1970.
    pub began: u64,
}

/// Clocks that are set move the time at which a process seems to have begun.
const TOLERANCE: u64 = 5;

impl Process {
    /// The process of that number, if there is one.
    pub(super) fn find(id: u32) -> Option<Self> {
        let mut system = System::new();
        let pid = Pid::from_u32(id);
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
        let found = system.process(pid)?;
        let dead = matches!(found.status(), ProcessStatus::Zombie | ProcessStatus::Dead);
        (!dead).then(|| Self { id, began: found.start_time() })
    }

    pub(super) fn is_alive(self) -> bool {
        Self::find(self.id).is_some_and(|found| found.began.abs_diff(self.began) <= TOLERANCE)
    }

    /// Asks it to save what it has and stop; asked twice it stops at once.
    #[cfg(unix)]
    pub(super) fn ask_to_stop(self) {
        if self.is_alive() {
            // SAFETY: a signal, to a process that was just seen to be ours
            unsafe { libc::kill(self.id as i32, libc::SIGINT) };
        }
    }

    /// Ends it: here there is no way to ask, and what the last checkpoint saved stays.
    #[cfg(not(unix))]
    pub(super) fn ask_to_stop(self) {
        let mut system = System::new();
        let pid = Pid::from_u32(self.id);
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, ProcessRefreshKind::nothing());
        if let Some(found) = system.process(pid).filter(|found| found.start_time().abs_diff(self.began) <= TOLERANCE) {
            found.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_later_one_of_its_number() {
        let own = Process::find(std::process::id()).expect("this process");
        assert!(own.is_alive() && !Process { began: own.began - 60, ..own }.is_alive());
    }
}
