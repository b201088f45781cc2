//! The functions for Unix. The resources of a process are read as Linux reports them.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::{Pid, Resource, Rlimit, Signal, getpid, getrlimit, kill_process, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::fixture::eventually;

pub(crate) fn directory() -> TempDir {
    tempfile::Builder::new().prefix("witrpc-test-").tempdir_in("/dev/shm").unwrap()
}

/// The clock that all processes share, in nanoseconds.
pub(crate) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// `SIGKILL`.
pub(crate) fn kill_self() -> ! {
    kill_process(getpid(), Signal::KILL).unwrap();
    loop {
        std::thread::park();
    }
}

pub(crate) fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

/// `SIGSTOP`; returns once the process has stopped.
pub(crate) async fn stop(process: u32) {
    kill_process(pid(process), Signal::STOP).unwrap();
    eventually("it is stopped", || is_stopped(process)).await;
}

/// Whether a signal has stopped it.
pub(crate) fn is_stopped(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    // The state follows the name, which is in parentheses.
    stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
}

/// `SIGCONT`.
pub(crate) fn go_on(process: u32) {
    kill_process(pid(process), Signal::CONT).unwrap();
}

pub(crate) fn stop_self() {
    kill_process(getpid(), Signal::STOP).unwrap();
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process.cast_signed()).unwrap()
}

/// Memory of a process that is no file's and nobody else's.
pub(crate) fn anonymous_kib_of(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

pub(crate) fn descriptors() -> usize {
    // One of them is of this look itself.
    std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
}

/// The regions that this process has mapped.
pub(crate) fn regions() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(".mmf")).count()
}

/// From now on this process may open so many descriptors more.
pub(crate) fn leave_descriptors(free: u64) -> Result<(), String> {
    let current = Some(descriptors() as u64 + free);
    let limit = Rlimit { current, ..getrlimit(Resource::Nofile) };
    setrlimit(Resource::Nofile, limit).map_err(|e| e.to_string())
}
