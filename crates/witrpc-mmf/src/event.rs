//! Named events: how a side that sleeps is woken by its peer, and learns that the peer has gone.
//!
//! An event belongs to the side that waits on it. It serves both reasons to wake that side: data in its incoming
//! ring, and space in its outgoing one. Whoever wakes looks at both. Who must be rung, and when, is the ring's to
//! say ([`ring`](crate::ring)); a side that is awake is never rung, so this is never on a busy path.
//!
//! One kind exists: [`fifo`]. The region's header names the kind (`[seg.header.events]`), so that a second one can
//! be added: it implements [`Ring`] for its ringing end and `witrpc_core`'s `Waiter` for its waiting end.

use std::io;

pub(crate) mod fifo;

/// The ringing end of a named event.
pub(crate) trait Ring: Send + Sync + 'static {
    /// Wakes the peer. Rings that it has not noticed yet count as one; ringing a peer that is gone does nothing.
    ///
    /// # Errors
    ///
    /// Whatever the system says; never for want of room.
    fn ring(&self) -> io::Result<()>;
}
