//! One side's named events, from which a channel is assembled.

use std::io;

use witrpc_core::transport::Channel;

use crate::channel::{Terms, assemble};
use crate::event::NamedEvent;
use crate::event::fifo::{FifoWaiter, Notifier};
use crate::event::raw_sync::Events;
use crate::region::Region;

/// One side's events of a connection, before its region is taken apart.
pub(super) enum NamedEvents {
    Fifo,
    RawSync(Events),
}

impl NamedEvents {
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

    /// Assembles the channel. Whichever kind notifies, the pipes report the peer's death.
    pub(super) fn channel(
        self,
        region: Region,
        notifier: Notifier,
        waiter: FifoWaiter,
        terms: Terms,
    ) -> Channel {
        match self {
            Self::Fifo => assemble(region, notifier, waiter, terms),
            Self::RawSync(events) => {
                let (notifier, waiter) = events.ends(waiter, notifier);
                assemble(region, notifier, waiter, terms)
            }
        }
    }
}
