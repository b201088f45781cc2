//! Where processes run, and what they use: placements, CPU clocks, switches.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

/// Which CPUs the two processes have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Placement {
    /// Both pinned to one: what the software costs, as no CPU waits for another.
    OneCore,
    /// Each pinned to one of its own.
    TwoCores,
    /// The scheduler decides.
    Free,
}

impl Placement {
    pub(crate) const ALL: [Self; 3] = [Self::OneCore, Self::TwoCores, Self::Free];

    /// The CPU of the client, and that of the server.
    pub(crate) fn cpus(self) -> [Option<usize>; 2] {
        let allowed = allowed();
        match self {
            Self::OneCore => [allowed.first().copied(); 2],
            Self::TwoCores => [allowed.first().copied(), allowed.get(1).copied()],
            Self::Free => [None; 2],
        }
    }

    /// Why this machine does not have it.
    pub(crate) fn missing(self) -> Option<&'static str> {
        (self == Self::TwoCores && allowed().len() < 2).then_some("there is one CPU")
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::OneCore => "one_core",
            Self::TwoCores => "two_cores",
            Self::Free => "free",
        })
    }
}

impl FromStr for Placement {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|placement| placement.to_string() == text);
        known.with_context(|| {
            format!(
                "there is no placement {text:?}; there are {:?}",
                Self::ALL.map(|p| p.to_string())
            )
        })
    }
}

/// The CPUs that this process may use.
pub(crate) fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(None).expect("Linux tells");
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Pins the calling thread; threads and processes that it starts later inherit it.
pub(crate) fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("pinning to CPU {cpu}"))
}

/// The clock of the CPU time that all threads of a process have used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuClock(libc::clockid_t);

impl CpuClock {
    pub(crate) fn of(process: u32) -> Result<Self> {
        let mut clock = 0;
        let process = libc::pid_t::try_from(process).context("a process id")?;
        // SAFETY: the pointer is to a local that outlives the call.
        match unsafe { libc::clock_getcpuclockid(process, &raw mut clock) } {
            0 => Ok(Self(clock)),
            error => bail!("no CPU clock of process {process}: error {error}"),
        }
    }

    pub(crate) fn of_this_process() -> Self {
        Self(libc::CLOCK_PROCESS_CPUTIME_ID)
    }

    pub(crate) fn now(self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a local that outlives the call.
        let error = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        assert_eq!(error, 0, "the process lives as long as the measurement");
        Duration::new(
            time.tv_sec.try_into().expect("no time before the start"),
            time.tv_nsec.try_into().expect("below a second"),
        )
    }
}

/// How often the threads that a process has now have left a CPU, of their own will or not.
pub(crate) fn switches(process: u32) -> Result<u64> {
    let mut switches = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread that has just ended takes its switches along.
        let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else { continue };
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        switches += counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(switches)
}

/// Bytes of memory that a process has for itself: no regions, no program text.
pub(crate) fn own_memory(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("a line in kB")?;
    Ok(kib.parse::<u64>()? * 1024)
}
