//! Settings that a connection carries, whichever builder and transport they came from.

use crate::error::Error;

/// Bounds on what a connection holds in memory. Each side announces its own to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message taken from the peer: body and blobs, in bytes. At most `max_buffered`.
    pub max_message_size: u64,
    /// Bytes of requests held for one peer: being received, waiting, or being handled. What else is held follows from it ([`credit`](Self::credit)).
    pub max_buffered: u64,
    /// Outer calls of the peer that may be unanswered at a time; and as many nested ones.
    pub max_in_flight: u32,
}

/// The two pools of credit in each direction. Handlers hold what their requests took, and may wait for answers: so answers have a pool that
/// no handler holds. [wire.credit]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Requests, and what streams carry.
    Requests,
    /// Responses, and events: those that a handler raises leave before its response.
    Answers,
}

impl Pool {
    pub const ALL: [Self; 2] = [Self::Requests, Self::Answers];
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
            max_buffered: 2 * DEFAULT_MAX_MESSAGE_SIZE,
            max_in_flight: DEFAULT_MAX_IN_FLIGHT,
        }
    }
}

impl Limits {
    /// Sets `max_message_size`, and keeps `max_buffered` at twice of it unless that was set too.
    pub fn set_max_message_size(&mut self, bytes: u64) {
        if self.max_buffered == self.max_message_size.saturating_mul(2) {
            self.max_buffered = bytes.saturating_mul(2);
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

    /// The credit with which the peer begins. It is never short of what the largest message needs, whatever we keep back of consumed
    /// bytes. [wire.credit]
    pub fn credit(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Requests => self.max_buffered,
            Pool::Answers => self.part().saturating_add(self.credit_batch(pool)),
        }
    }

    /// What outer requests leave of the credit for requests. [wire.credit]
    pub fn reserve(&self) -> u64 {
        (self.max_buffered / 4).min(self.rest() - self.credit_batch(Pool::Requests))
    }

    /// The largest nested request that may wait for credit: so much is left of the reserve, whatever we keep back.
    pub fn most_nested(&self) -> u64 {
        self.reserve().saturating_sub(self.credit_batch(Pool::Requests))
    }

    /// The amount of consumed bytes after which credit is given back.
    pub fn credit_batch(&self, pool: Pool) -> u64 {
        match pool {
            Pool::Requests => (self.max_buffered / 8).min(self.rest()),
            Pool::Answers => self.part() / 16,
        }
    }

    /// What is left of `max_buffered` beside the largest message.
    fn rest(&self) -> u64 {
        self.max_buffered.saturating_sub(self.max_message_size)
    }

    /// Half of `max_buffered`, or the largest message.
    fn part(&self) -> u64 {
        (self.max_buffered / 2).max(self.max_message_size)
    }
}
