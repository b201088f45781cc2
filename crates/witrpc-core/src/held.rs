//! Measures what a connection holds on behalf of its peer: the memory as it was allocated, independent of the library's own counters. For
//! tests and fuzz targets only; `fuzz_support::session::bounds` defines the bounds.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Values of one kind: their number and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub entries: usize,
    /// Bytes as windows, credit and limits count them. [wire.size]
    pub size: u64,
    /// Bytes of memory, those of the entries themselves included.
    pub memory: u64,
}

impl Held {
    /// Values of this type without memory of their own.
    pub fn plain<T>(entries: usize) -> Self {
        Self { entries, size: 0, memory: bytes::<T>(entries) }
    }
}

impl Add for Held {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            size: self.size + other.size,
            memory: self.memory + other.memory,
        }
    }
}

impl AddAssign for Held {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Held {
    fn sum<I: Iterator<Item = Self>>(held: I) -> Self {
        held.fold(Self::default(), Add::add)
    }
}

/// Memory of so many values of a type.
pub fn bytes<T>(count: usize) -> u64 {
    u64::try_from(count * size_of::<T>()).unwrap_or(u64::MAX)
}

/// What waits in the sending half.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queued {
    /// Control frames.
    pub control: Held,
    /// Credit for streams, their cancels, and acknowledgements.
    pub notices: Held,
    pub events: Held,
    /// Requests and responses.
    pub messages: Held,
    /// Items and ends of streams.
    pub of_streams: Held,
    /// Lanes of streams that are open.
    pub lanes: Held,
}

/// What waits for the peer's subscribers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subscribed {
    pub subscribers: Held,
    pub backlogs: Held,
    /// Values that were sent, and not acknowledged: what is remembered of each.
    pub under_way: Held,
    /// Those among the subscribers that wait for room in the sending queue.
    pub held_back: Held,
}

/// All of a connection's.
/// Many fields: one for each place where something is held, and a test compares each with its bound.
#[derive(Clone, Copy, Debug, Default)]
pub struct Holdings {
    /// Messages of which only a part has arrived.
    pub partial: Held,
    /// Requests that were put aside.
    pub requests: Held,
    /// Handlers that run, or are about to.
    pub handlers: usize,
    /// Answers that their callers have not taken, and the table of calls.
    pub answers: Held,
    pub slots: Held,
    /// Streams that are read here; their items that are charged to the account for messages, and those that windows cover.
    pub receivers: Held,
    pub charged_items: Held,
    pub items: Held,
    /// Streams that are not read any more, and not cancelled yet.
    pub unread: Held,
    /// Streams that are written here, and items that were polled and wait for room in the queue.
    pub senders: Held,
    pub polled: Held,
    pub queued: Queued,
    pub subscribed: Subscribed,
    /// The bytes that are charged to the peer and not returned.
    pub charged: u64,
}

impl Holdings {
    /// What is on the account for messages.
    pub fn on_account(&self) -> Held {
        self.partial + self.requests + self.answers + self.charged_items
    }

    /// All of it, in bytes of memory.
    pub fn memory(&self) -> u64 {
        let Queued { control, notices, events, messages, of_streams, lanes } = self.queued;
        let Subscribed { subscribers, backlogs, under_way, held_back, .. } = self.subscribed;
        let received = self.on_account() + self.items + self.receivers + self.unread + self.slots;
        let sent = control + notices + events + messages + of_streams + lanes;
        let events = subscribers + backlogs + under_way + held_back;
        (received + sent + events + self.senders + self.polled).memory
    }
}
