//! The functions of the operating system that the transport uses, with the same names on every system: a clock that two processes share, the
//! current CPU, the owner process of a value, and the file of a region. There is one folder per system. `endpoint` and `event` have
//! folders of their own for the rest.

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
pub(crate) use memmap2::MmapRaw as Map;
#[cfg(unix)]
pub(crate) use os::access::{TO_DIRECTORIES, TO_FILES};
pub(crate) use os::fork::Owner;
#[cfg(unix)]
pub(crate) use os::fork::close_inherited;
#[cfg(windows)]
pub(crate) use os::section::Map;
pub(crate) use os::{
    Access, back_by_large_pages, current_cpu, largest_file, monotonic_nanoseconds, region_file,
};
#[cfg(unix)]
pub(crate) use os::{inheriting, memory_file, open};
