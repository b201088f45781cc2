//! On which CPU a process runs, and on what runtime, the same for all benches.

use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::runtime::Runtime;

/// Pins this thread to a CPU. Threads that start later inherit it, and so do programs.
pub(crate) fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("a CPU that we may use");
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("one")
}
