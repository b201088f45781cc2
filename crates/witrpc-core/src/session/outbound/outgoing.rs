//! A message in the sending queue: its sections, and how much of it was sent.

use std::any::Any;
use std::ops::Range;

use bytes::Bytes;
use zeroize::Zeroize;

#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::{self, Held};
use crate::values::buffers;
use crate::values::content::{Content, Streams, size_of_blobs};
use crate::values::loans::{Lent, LentSource};
use crate::values::spare;
use crate::wire::fields::len_u64;
use crate::wire::frame::{Header, Kind, Nesting};

/// The maximum overhead of a chunk in the ring: its header, its seal, and what the transport adds.
const CHUNK_COST: usize = 64;

/// What a queued message takes in addition to its sections: itself, and its entries in a lane and its index.
pub(super) const QUEUE_ENTRY: u64 = 320;

/// Room in the sending queue, returned when it is dropped.
pub type Room = Box<dyn Any + Send>;

/// A message in the sending queue.
/// Many fields: all of them go through the lanes together, and nothing looks at fewer.
#[derive(Debug)]
pub struct Outgoing {
    pub(super) kind: Kind,
    pub(super) id: u64,
    /// Of a request.
    pub(super) nesting: Nesting,
    /// Head, body and tables.
    pub(super) first: Vec<u8>,
    blobs: Vec<Bytes>,
    /// Blobs that cross as references. Once the first section has been sent, only those that are the peer's memory.
    pub(super) lent: Vec<Lent>,
    /// The section that is being sent: 0 is `first`, `n` is `blobs[n - 1]`.
    pub(super) section: usize,
    /// Bytes of that section already sent.
    offset: usize,
    pub(super) started: bool,
    /// It has its credit already.
    pub(super) paid: bool,
    /// The ids of its streams.
    pub(super) streams: Range<u64>,
    /// Of a response: the event that must be sent before it; 0 is none.
    pub(super) event: u64,
    /// The credit that it takes. Handshake messages take none. [wire.credit]
    cost: u64,
    /// The memory that it takes in the queue.
    footprint: u64,
    /// The room in the sending queue for this message, and for those before it that were queued with it; returned when it is dropped.
    pub(super) room: Option<Room>,
}

impl Drop for Outgoing {
    #[inline]
    fn drop(&mut self) {
        if self.kind.is_handshake() {
            self.first.zeroize(); // A confirm may contain a token.
        }
        // What was received may be sent on.
        self.blobs.drain(..).for_each(spare::let_go);
        for Lent { source, .. } in self.lent.drain(..) {
            if let LentSource::Ours(bytes, _) = source {
                spare::let_go(bytes);
            }
        }
    }
}

impl Outgoing {
    pub fn new(
        kind: Kind,
        id: u64,
        content: Content,
        (selector, member, stamp): (u16, u16, u64),
        room: Option<Room>,
    ) -> Self {
        let streams = match content.streams() {
            Some(Streams::Table(table)) => {
                table.first().zip(table.last()).map(|(a, b)| a.id..b.id + 1)
            }
            _ => None,
        };
        let cost = if kind.is_handshake() { 0 } else { content.size() };
        let (mut first, blobs, lent) = content.into_parts(selector, member, stamp);
        if !kind.is_handshake() {
            buffers::trim(&mut first); // Not for a handshake: this may leave a copy behind, and a confirm may contain a token.
        }
        let footprint = footprint(&first, &blobs);
        Self {
            kind,
            id,
            nesting: Nesting::Outer,
            first,
            blobs,
            lent,
            section: 0,
            offset: 0,
            started: false,
            paid: false,
            streams: streams.unwrap_or_default(),
            event: 0,
            cost,
            footprint,
            room,
        }
    }

    /// A mark among the events of a subscription: the number of its next value. [wire.event.lag]
    pub(super) fn mark(subscription: u32, number: u64) -> Self {
        let first = number.to_le_bytes().to_vec();
        Self {
            kind: Kind::EventLag,
            id: u64::from(subscription),
            nesting: Nesting::Outer,
            footprint: footprint(&first, &[]),
            first,
            blobs: Vec::new(),
            lent: Vec::new(),
            section: 0,
            offset: 0,
            started: false,
            paid: false,
            streams: 0..0,
            event: 0,
            cost: 0,
            room: None,
        }
    }

    /// Takes the allocation of its first section for reuse, except that of a handshake message.
    pub(super) fn into_buffer(mut self) -> Vec<u8> {
        if self.kind.is_handshake() { Vec::new() } else { std::mem::take(&mut self.first) }
    }

    /// A request that is made within others.
    #[must_use]
    #[inline]
    pub const fn nested(mut self, nesting: Nesting) -> Self {
        self.nesting = nesting;
        self
    }

    /// Holds this response back until that event was sent.
    #[inline]
    pub const fn after_event(mut self, event: u64) -> Self {
        self.event = event;
        self
    }

    /// The credit that the message takes: its size.
    pub(super) const fn cost(&self) -> u64 {
        self.cost
    }

    /// The memory that it takes in the queue, with the queue's entry for it.
    pub(super) const fn footprint(&self) -> u64 {
        self.footprint
    }

    /// Its memory, including itself.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub(super) fn held(&self) -> Held {
        let blobs = held::bytes::<Bytes>(self.blobs.capacity()) + self.blob_bytes();
        let memory = held::bytes::<Self>(1) + len_u64(self.first.capacity()) + blobs;
        Held { entries: 1, size: self.cost, memory }
    }

    pub(super) fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| len_u64(blob.len())).sum()
    }

    /// Whether it fits into one chunk of `whole` bytes. Then it is sent ahead of the flows.
    pub(super) fn is_small(&self, whole: usize) -> bool {
        self.first.len() + self.len_behind(0) <= whole
    }

    /// The ring space that the sections after the current one take, as chunks of their own.
    pub(super) fn later_len(&self) -> usize {
        self.len_behind(self.section)
    }

    fn len_behind(&self, section: usize) -> usize {
        let later = self.blobs[section..].iter().filter(|blob| !blob.is_empty());
        later.map(|blob| blob.len() + CHUNK_COST).sum()
    }

    /// Whether it is small, and sent as one chunk.
    pub(super) fn is_one_chunk(&self, whole: usize) -> bool {
        self.first.len() <= whole && self.len_behind(0) == 0
    }

    /// The bytes of the section that is being sent.
    pub(super) fn section_len(&self) -> usize {
        self.section_bytes(self.section).len()
    }

    fn section_bytes(&self, section: usize) -> &[u8] {
        match section.checked_sub(1) {
            None => &self.first,
            Some(blob) => &self.blobs[blob],
        }
    }

    /// The next chunk: its header and payload. A chunk never spans two sections.
    pub(super) fn chunk(&self, max: usize) -> (Header, &[u8]) {
        let rest = &self.section_bytes(self.section)[self.offset..];
        let payload = &rest[..rest.len().min(max)];
        let header = Header {
            kind: self.kind,
            first: !self.started,
            last: payload.len() == rest.len() && self.next_section(self.section).is_none(),
            nesting: self.nesting,
            // At most MAX_CHUNK.
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            id: self.id,
        };
        (header, payload)
    }

    /// Whether its first section has been sent: the peer knows the loans.
    pub(super) fn has_lent(&self, is_last: bool) -> bool {
        !self.lent.is_empty() && (is_last || self.section > 0)
    }

    /// The next section that is not empty.
    fn next_section(&self, after: usize) -> Option<usize> {
        (after + 1..=self.blobs.len()).find(|section| !self.blobs[section - 1].is_empty())
    }

    /// Advances past a chunk that was sent. Returns whether it was the last.
    pub(super) fn advance(&mut self, len: usize) -> bool {
        self.started = true;
        self.offset += len;
        if self.offset < self.section_bytes(self.section).len() {
            return false;
        }
        let Some(next) = self.next_section(self.section) else { return true };
        self.section = next;
        self.offset = 0;
        false
    }
}

fn footprint(first: &Vec<u8>, blobs: &[Bytes]) -> u64 {
    len_u64(first.capacity()) + size_of_blobs(blobs) + QUEUE_ENTRY
}
