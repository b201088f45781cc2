//! Named events: the doorbell by which a side wakes its sleeping peer, and by which a side learns that its peer is gone.
//!
//! An event belongs to the side that waits on it. That side is notified for two reasons: data in its incoming ring, and space in its
//! outgoing ring. When it wakes it checks both. [`ring`](crate::ring) decides when the peer must be notified. A side that is awake is
//! never notified, so no busy path gets here.
//!
//! There are two kinds: [`fifo`] on Unix, and [`raw_sync`] everywhere. Each has a type for its notifying end, which implements
//! [`Notify`], and one for its waiting end, which implements `witrpc_core`'s `Waiter`. The region's header names the kind
//! (`[seg.header.events]`). How a side detects that its peer is gone depends on the system and not on the kind: on Unix by the
//! hang-up of a FIFO, on Windows by that of the pipe over which the two sides connected (`pipe`).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::layout::{EVENTS_FIFO, EVENTS_RAW_SYNC};

#[cfg(unix)]
pub(crate) mod fifo;
#[cfg(windows)]
pub(crate) mod pipe;
#[expect(unsafe_code, reason = "raw_sync's events are addresses")]
pub(crate) mod raw_sync;

/// Gives a pipe to the runtime of the current task, as `register` does.
///
/// # Errors
///
/// If there is no tokio runtime, or one without I/O; whatever else the system says.
pub(crate) fn registered<P>(register: impl FnOnce() -> io::Result<P>) -> io::Result<P> {
    // tokio panics where a runtime has no I/O driver, and offers no way to ask first.
    if tokio::runtime::Handle::try_current().is_ok() {
        if let Ok(registered) = catch_unwind(AssertUnwindSafe(register)) {
            return registered;
        }
    }
    Err(io::Error::other("needs a tokio runtime with I/O and time enabled (Builder::enable_all)"))
}

/// The notifying end of a named event.
pub(crate) trait Notify: Send + Sync + 'static {
    /// Wakes the peer. Notifications that the peer has not noticed yet count as one. Does nothing if the peer is gone.
    ///
    /// # Errors
    ///
    /// Any error of the system, except that there is no room for a notification.
    fn notify(&self) -> io::Result<()>;
}

/// The kind of event with which the two sides of a connection wake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamedEvent {
    /// Named pipes in the file system. The default on Unix; not available on Windows.
    Fifo,
    /// Events of the crate `raw_sync`, with a thread on each side that waits for them. The default on Windows, where they are kernel
    /// objects.
    ///
    /// On Unix they are a mutex and a condition variable within the region: **only for peers that trust each other and are not
    /// killed**. A peer that writes to them can corrupt this process. If a peer dies at the wrong moment, its connection ends, but
    /// threads of this process that wait for the mutex never end. Therefore both sides must choose it on Unix. Each side of a connection
    /// has two such threads, one of which wakes up once a second.
    RawSync,
}

impl Default for NamedEvent {
    fn default() -> Self {
        if cfg!(unix) { Self::Fifo } else { Self::RawSync }
    }
}

impl NamedEvent {
    /// As the region's header says it. `[seg.header.events]`
    pub(crate) const fn code(self) -> u32 {
        match self {
            Self::Fifo => EVENTS_FIFO,
            Self::RawSync => EVENTS_RAW_SYNC,
        }
    }

    pub(crate) const fn of_code(code: u32) -> Option<Self> {
        match code {
            EVENTS_FIFO => Some(Self::Fifo),
            EVENTS_RAW_SYNC => Some(Self::RawSync),
            _ => None,
        }
    }

    /// Whether this system has it.
    pub(crate) const fn is_here(self) -> bool {
        cfg!(unix) || matches!(self, Self::RawSync)
    }
}
