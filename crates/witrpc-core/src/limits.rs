//! Settings that a connection carries, whichever builder and transport they came from.

use crate::error::Error;

/// Bounds on what a connection holds in memory. Each side announces its own to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message taken from the peer: body and blobs, in bytes. At most `max_buffered`.
    pub max_message_size: u64,
    /// Bytes of messages held for one peer and one direction: being received, waiting, or being handled.
    pub max_buffered: u64,
    /// Calls of the peer that may be unanswered at a time.
    pub max_in_flight: u32,
}

/// 64 MiB: the default of `max_message_size`.
const DEFAULT_MAX_MESSAGE_SIZE: u64 = 64 << 20;
/// Enough to fill any ring many times over, and few enough to bound a table.
const DEFAULT_MAX_IN_FLIGHT: u32 = 1024;
/// Byte permits are counted in `u32` by the semaphore that bounds the sending queue.
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

    /// The amount of consumed bytes after which credit is given back. The peer can always gather enough for one
    /// message of the largest size: what we keep back and what that message needs fit `max_buffered` together.
    pub fn credit_batch(&self) -> u64 {
        (self.max_buffered / 8).min(self.max_buffered - self.max_message_size)
    }
}
