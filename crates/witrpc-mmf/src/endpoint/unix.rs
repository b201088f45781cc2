//! Meeting on Unix: a door that is a named pipe of the file system, an answer in a named pipe of the client's own.
//! `[seg.meet]`
//!
//! # Invariants
//!
//! - **E1** Only who holds `N.lock` makes or removes `N.door`, and sweeps what servers of `N` left. Both files are removed only
//!   while they are still what their paths name: somebody may have deleted the directory, and another server made a new one.
//! - **E2** A file is removed by who made it, by its connection's peer once both ends are open, or by a sweep that has
//!   proved that nobody living needs it.

use std::path::Path;

use crate::sys::Access;

pub(super) mod directory;
pub(super) mod entrance;
pub(super) mod fault;
mod files;
pub(super) mod knock;
pub(super) mod lock;
pub(super) mod sweep;
mod wakers;

pub(super) use self::entrance::{Entrance, Way, longest_queue};
pub(super) use self::knock::Knock;
pub(super) use self::lock::Lock;

/// Whether a server lives whose lock file is in this directory.
pub(super) fn lives(directory: &Path, name: &str, access: Access) -> bool {
    let door = directory.join(format!("{name}.door"));
    crate::event::fifo::has_reader(&door, access) == Some(true)
}
