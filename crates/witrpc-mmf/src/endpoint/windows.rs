//! The rendezvous on Windows: the door is a kernel pipe, whose name is in the lock file. Request and answer go through the same pipe
//! instance, which then stays open to detect the peer's death. `[seg.meet]`, `[seg.windows.door]`
//!
//! # Invariants
//!
//! - **E1** A server has its lock file open exclusively as long as it listens. The system removes the file with its last handle,
//!   however the process ends. `[seg.windows.lock]`
//! - **E2** The same holds for a region's file. A sweep removes files that no process has open.

use std::path::Path;

use crate::sys::Access;

pub(super) mod directory;
pub(super) mod fault;
pub(super) mod join_attempt;
pub(super) mod listener;
pub(super) mod lock;
mod lock_file;
pub(super) mod sweep;

pub(super) use self::join_attempt::JoinAttempt;
pub(super) use self::listener::{DoorListener, ReplyPath, longest_queue};
pub(super) use self::lock::Lock;

/// Whether the server of this lock file is alive.
pub(super) fn lives(directory: &Path, name: &str, _access: Access) -> bool {
    lock::is_held(&directory.join(format!("{name}.lock")))
}
