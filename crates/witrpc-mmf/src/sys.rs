//! What the transport asks of the operating system, by the same names on every one of them: a clock that two processes
//! share, the processor that we run on, and the file of a region. One folder per system; what `endpoint` and `event` need
//! beside this is in folders of theirs.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
#[expect(unsafe_code, reason = "the system's own functions, where no crate has them as safe ones")]
pub(crate) mod windows;

#[cfg(unix)]
use unix as os;
#[cfg(windows)]
use windows as os;

pub(crate) use os::{Access, current_cpu, monotonic_nanoseconds, region_file};
