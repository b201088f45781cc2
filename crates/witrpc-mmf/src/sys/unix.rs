//! Unix: modes and groups, `fallocate`, `CLOCK_MONOTONIC`.

use rustix::time::{ClockId, clock_gettime};

pub(crate) use self::access::Access;

mod access;
pub(crate) mod region_file;

/// Both processes read the very same clock.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is ever negative.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// The number of the CPU that we run on, where the system tells it.
#[inline]
pub(crate) fn current_cpu() -> Option<u32> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return u32::try_from(rustix::thread::sched_getcpu()).ok();
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return None;
}
