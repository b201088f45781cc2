//! The rendezvous on Unix: join requests go through the door, a named pipe of the file system; answers go through a named pipe that the client
//! makes. `[seg.meet]`
//!
//! # Invariants
//!
//! - **E1** Only the holder of `N.lock` makes or removes `N.door`, and sweeps what servers of `N` left. Either file is removed only
//!   while its path still names it: the directory may have been deleted, and made anew by another server.
//! - **E2** A file is removed by the process that made it, by its connection's peer once both ends are open, or by a sweep that has
//!   proved that no live process needs it.

use std::path::Path;

use crate::sys::Access;

pub(super) mod directory;
pub(super) mod fault;
mod files;
pub(super) mod join_attempt;
pub(super) mod listener;
pub(super) mod lock;
mod named_events;
pub(super) mod sweep;

pub(super) use self::join_attempt::JoinAttempt;
pub(super) use self::listener::{DoorListener, ReplyPath, longest_queue};
pub(super) use self::lock::Lock;

/// Whether the server of this lock file is alive.
pub(super) fn lives(directory: &Path, name: &str, access: Access) -> bool {
    let door = directory.join(format!("{name}.door"));
    crate::event::fifo::has_reader(&door, access) == Some(true)
}
