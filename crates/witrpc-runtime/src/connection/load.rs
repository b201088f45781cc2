//! What a connection holds, as numbers for metrics and tests.

/// What one side of a connection holds at the moment; see [`WitClient::load`](crate::WitClient::load).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Calls of this side that the peer has not answered. Includes cancelled calls that the peer has not acknowledged yet.
    pub calls: usize,
    /// Incoming messages of which only a part has arrived.
    pub partial_messages: usize,
    /// Requests of the peer that are being handled or wait to be handled.
    pub handlers: usize,
    /// Subscriptions, of this side and of the peer.
    pub subscriptions: usize,
    /// Streams that have not ended, of this side and of the peer.
    pub streams: usize,
    /// Bytes of messages that wait to be sent, plus a constant for each message.
    pub queued_bytes: u64,
    /// What is held for the peer.
    pub memory: Memory,
}

/// The account of what one side of a connection holds for its peer, in bytes of memory, by its parts. What a peer can cause has a bound, which
/// follows from `with_max_buffered`: [`WitServer::memory_bound`](crate::WitServer::memory_bound) and
/// [`WitClient::memory_bound`](crate::WitClient::memory_bound). The guide's chapter on sizing says how it is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// Requests of the peer that are being received, wait, or are being handled.
    pub requests: u64,
    /// Responses and events of the peer that are being received, and responses that have not been taken.
    pub answers: u64,
    /// Items of the peer's streams that are being received, or are larger than what was left of their windows and have not been read.
    pub items: u64,
    /// The windows that the peer's streams have, whether or not items fill them.
    pub windows: u64,
    /// Responses that the peer has not taken.
    pub responses: u64,
    /// Values for the peer's subscriptions that the peer has not taken, and what is kept until it has acknowledged them.
    pub events: u64,
    /// Items of streams that the peer has not taken.
    pub own_items: u64,
    /// This side's memory that is lent, or about to be: at most what `with_lending` says.
    pub lent: u64,
    /// The peer's memory that this side has borrowed, at least 4 KiB for each loan: at most what the peer's `with_lending` says.
    pub borrowed: u64,
    /// About what the entries for streams, for the peer's subscriptions and for its calls take. The bound is for the other parts.
    pub tables: u64,
}

impl Memory {
    /// The sum of all parts that have the bound: all but `lent`, `borrowed` and `tables`.
    #[must_use]
    pub const fn bounded(&self) -> u64 {
        let received = self.requests + self.answers + self.items + self.windows;
        received + self.responses + self.events + self.own_items
    }
}
