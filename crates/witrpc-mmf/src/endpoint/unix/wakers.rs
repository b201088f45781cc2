//! One side's named events, and the channel that is made with them.

use std::io;

use witrpc_core::transport::Channel;

use crate::channel::{Terms, assemble};
use crate::event::NamedEvent;
use crate::event::fifo::{FifoWaiter, Ringer};
use crate::event::raw_sync::Events;
use crate::region::Region;

/// One side's events of a connection, before its region is taken apart.
pub(super) enum Wakers {
    Fifo,
    RawSync(Events),
}

impl Wakers {
    /// The server's.
    pub(super) fn create(region: &Region) -> io::Result<Self> {
        Ok(match region.events() {
            NamedEvent::Fifo => Self::Fifo,
            NamedEvent::RawSync => Self::RawSync(Events::create(region)?),
        })
    }

    /// The client's.
    pub(super) fn open(region: &Region) -> io::Result<Self> {
        Ok(match region.events() {
            NamedEvent::Fifo => Self::Fifo,
            NamedEvent::RawSync => Self::RawSync(Events::open(region)?),
        })
    }

    /// Whoever rings, it is the pipes that tell of the peer's death.
    pub(super) fn channel(
        self,
        region: Region,
        ringer: Ringer,
        waiter: FifoWaiter,
        terms: Terms,
    ) -> Channel {
        match self {
            Self::Fifo => assemble(region, ringer, waiter, terms),
            Self::RawSync(events) => {
                let (ringer, waiter) = events.ends(waiter, ringer);
                assemble(region, ringer, waiter, terms)
            }
        }
    }
}
