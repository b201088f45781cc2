//! Settings that a connection carries, whichever builder and transport they came from. What follows from them is in [`shares`].

pub mod shares;

use crate::error::Error;

/// Bounds on what a connection holds in memory. Each side announces its own to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message taken from the peer: body and blobs, in bytes. At most `max_buffered`.
    pub max_message_size: u64,
    /// What the bound on all that is held for one peer follows from, in bytes ([`shares`]).
    pub max_buffered: u64,
    /// Outer calls of the peer that may be unanswered at a time; and as many nested ones.
    pub max_in_flight: u32,
}

/// The pools of credit in each direction. Handlers hold what their requests took, and may wait for answers: so answers have a pool that
/// no handler holds. Items that nobody reads may hold what they took: so they have a pool that no call needs. [wire.credit]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    Requests,
    /// Responses, and events: those that a handler raises leave before its response.
    Answers,
    /// Items and ends of streams.
    Items,
}

/// The number of pools.
pub const POOLS: usize = 3;

impl Pool {
    pub const ALL: [Self; POOLS] = [Self::Requests, Self::Answers, Self::Items];
}

/// 64 MiB: the default of `max_message_size`.
const DEFAULT_MAX_MESSAGE_SIZE: u64 = 64 << 20;
/// Enough to fill any ring many times over, and few enough to bound a table.
const DEFAULT_MAX_IN_FLIGHT: u32 = 1024;
/// What the wire allows: a body has its length in a `u32`. [wire.limits]
const LARGEST_MESSAGE_SIZE: u64 = (1 << 31) - 1;

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            max_buffered: shares::MESSAGES * DEFAULT_MAX_MESSAGE_SIZE,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
        }
    }
}

impl Limits {
    /// Sets `max_message_size`, and keeps `max_buffered` at four times as much unless that was set too.
    pub fn set_max_message_size(&mut self, bytes: u64) {
        if self.max_buffered == self.max_message_size.saturating_mul(shares::MESSAGES) {
            self.max_buffered = bytes.saturating_mul(shares::MESSAGES);
        }
        self.max_message_size = bytes;
    }

    pub fn validate(&self) -> Result<(), Error> {
        if self.max_message_size == 0 || self.max_message_size > LARGEST_MESSAGE_SIZE {
            return Err(Error::config(
                "with_max_message_size",
                self.max_message_size,
                format!("give 1 to {LARGEST_MESSAGE_SIZE} bytes"),
            ));
        }
        if self.max_buffered < self.max_message_size {
            return Err(Error::config(
                "with_max_buffered",
                self.max_buffered,
                format!(
                    "the largest message would not fit; give at least with_max_message_size, which is {} bytes",
                    self.max_message_size
                ),
            ));
        }
        if self.max_in_flight == 0 {
            return Err(Error::config("with_max_in_flight", 0, "give at least 1"));
        }
        Ok(())
    }
}
