//! What the transport asks of the operating system, by the same names on every one of them: a clock that two processes
//! share, the processor that we run on, the process that made something, and the file of a region. One folder per system; what
//! `endpoint` and `event` need beside this is in folders of theirs.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
#[expect(unsafe_code, reason = "the system's own functions, where no crate has them as safe ones")]
pub(crate) mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

#[cfg(unix)]
pub(crate) use os::access::{TO_DIRECTORIES, TO_FILES};
pub(crate) use os::fork::Owner;
#[cfg(unix)]
pub(crate) use os::fork::close_inherited;
#[cfg(unix)]
pub(crate) use os::open;
pub(crate) use os::{
    Access, back_by_large_pages, current_cpu, largest_file, monotonic_nanoseconds, region_file,
};
