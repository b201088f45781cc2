//! Named events: how a side that sleeps is woken by its peer, and learns that the peer has gone.
//!
//! An event belongs to the side that waits on it. It serves both reasons to wake that side: data in its incoming
//! ring, and space in its outgoing one. Whoever wakes looks at both. Who must be rung, and when, is the ring's to
//! say ([`ring`](crate::ring)); a side that is awake is never rung, so this is never on a busy path.
//!
//! Two kinds exist: [`fifo`] on Unix, and [`raw_sync`] everywhere. Each has a type for its ringing end, which is a [`Ring`], and
//! one for its waiting end, which is `witrpc_core`'s `Waiter`. The region's header names the kind (`[seg.header.events]`). The
//! sign of life is no matter of kind but of system: on Unix the hang-up of a FIFO, on Windows that of the pipe that both sides
//! met by ([`pipe`]).

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

/// The ringing end of a named event.
pub(crate) trait Ring: Send + Sync + 'static {
    /// Wakes the peer. Rings that it has not noticed yet count as one; ringing a peer that is gone does nothing.
    ///
    /// # Errors
    ///
    /// Whatever the system says; never for want of room.
    fn ring(&self) -> io::Result<()>;
}

/// The kind of the two named events by which the sides of a connection wake each other. The default is the system's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NamedEvent {
    /// Named pipes of the file system. The default on Unix, and not to be had on Windows.
    Fifo,
    /// Events of the crate `raw_sync`, with a thread on each side that waits. The default on Windows, where they are kernel
    /// objects.
    ///
    /// On Unix they are a mutex and a condition variable within the region: **only for peers that trust each other and are not
    /// killed**. A peer that writes there can do anything to this process; one that dies at the wrong moment leaves threads
    /// of this process waiting for as long as it lives, although its connections end. So both sides must choose it
    /// there. It makes two threads per side of a connection, one of which looks around once a second.
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
