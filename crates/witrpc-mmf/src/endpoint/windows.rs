//! Meeting on Windows: a door that is a pipe of the kernel, whose name the lock file tells; ask and answer go the same way, which
//! then stays open as the sign of life. `[seg.meet]`, `[seg.windows.door]`
//!
//! # Invariants
//!
//! - **E1** A server has its lock file open, for itself alone, as long as it listens; the system removes it with the last handle,
//!   however the process ends. `[seg.windows.lock]`
//! - **E2** So it does with a region's file. A sweep removes what nobody has open.

use std::path::Path;

use crate::sys::Access;

pub(super) mod directory;
pub(super) mod entrance;
pub(super) mod fault;
pub(super) mod knock;
pub(super) mod lock;
mod lock_file;
pub(super) mod sweep;

pub(super) use self::entrance::{Entrance, Way, longest_queue};
pub(super) use self::knock::Knock;
pub(super) use self::lock::Lock;

/// Whether a server lives whose lock file is in this directory.
pub(super) fn lives(directory: &Path, name: &str, _access: Access) -> bool {
    lock::is_held(&directory.join(format!("{name}.lock")))
}
