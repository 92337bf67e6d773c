//! What processes cost, and where they run.

use std::{fs, time::Duration};

use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_getcpuclockid},
    unistd::Pid,
};

/// A process and its descendants.
pub(crate) struct Tree(pub(crate) u32);

impl Tree {
    /// How many processes it is.
    pub(crate) fn len(&self) -> usize {
        self.members().len()
    }

    fn members(&self) -> Vec<u32> {
        let mut members = vec![self.0];
        let mut next = 0;
        while let Some(process) = members.get(next) {
            let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
            members.extend(children.unwrap_or_default().split_whitespace().flat_map(str::parse::<u32>));
            next += 1;
        }
        members
    }

    /// The processor time of all its threads so far.
    pub(crate) fn cpu(&self) -> Duration {
        let cpu = |process: u32| -> nix::Result<Duration> {
            Ok(ClockId::now(clock_getcpuclockid(Pid::from_raw(process.cast_signed()))?)?.into())
        };
        self.members().into_iter().map(|process| cpu(process).expect("the clock of a process")).sum()
    }

    /// The most memory that it ever had, in KiB: the sum of its processes' `VmHWM`.
    pub(crate) fn peak_memory(&self) -> u64 {
        let peak = |process| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        self.members().into_iter().filter_map(peak).sum()
    }
}

/// Lets this thread, its process's later threads, what they start, and the database server's later sessions run on
/// these processors only. Whether that worked.
pub(crate) fn run_on(processors: &[usize], postmaster: Option<Pid>) -> bool {
    let mut set = CpuSet::new();
    let known = processors.iter().all(|processor| set.set(*processor).is_ok());
    known
        && postmaster.is_some_and(|postmaster| sched_setaffinity(postmaster, &set).is_ok())
        && sched_setaffinity(Pid::from_raw(0), &set).is_ok()
}
