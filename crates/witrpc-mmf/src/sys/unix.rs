//! Unix: modes and groups, `fork`, `fallocate`, `CLOCK_MONOTONIC`.

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

pub(crate) use self::access::Access;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) use self::pages::back_by_large_pages;

pub(crate) mod access;
#[expect(unsafe_code, reason = "only the system can tell of a fork")]
pub(crate) mod fork;
#[expect(unsafe_code, reason = "descriptors that are inherited are numbers")]
pub(crate) mod inheriting;
pub(crate) mod memory_file;
pub(crate) mod open;
#[cfg(any(target_os = "linux", target_os = "android"))]
#[expect(unsafe_code, reason = "advice on memory takes its address")]
mod pages;
pub(crate) mod region_file;

/// Both processes read the very same clock.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is ever negative.
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or_default()
}

/// The largest size of a file that this process may make; `None` if any. A larger one is a signal, `SIGXFSZ`, whose default is to end
/// the process.
pub(crate) fn largest_file() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// There is no such advice.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) const fn back_by_large_pages(_allocation: &mut Vec<u8>) {}

/// The number of the CPU that we run on, where the system tells it.
#[inline]
pub(crate) fn current_cpu() -> Option<u32> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return u32::try_from(rustix::thread::sched_getcpu()).ok();
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return None;
}
