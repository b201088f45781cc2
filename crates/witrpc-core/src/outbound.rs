//! The sending half of a session: lanes of messages, cut into chunks, sealed, and pushed as credit and space allow.
//!
//! Pure: it holds the transport's sender as a trait object, and neither waits, locks nor reads a clock. Whoever calls
//! [`Outbound::pump`] holds the lock of this half; taking a sequence number, sealing and pushing are one step within it.
//!
//! # Invariants
//!
//! - **O1** Lanes are served in order of urgency: control, then small messages, then bulk in turn, a chunk each.
//!   [wire.interleave]
//! - **O2** A bulk chunk leaves `bulk_spare` bytes of the ring free for the other lanes.
//! - **O3** A message starts only when the peer's credit covers all of it, so every message that has started can be
//!   finished, whatever the others do.
//! - **O4** Once a push finds no room, the peer has been asked to wake us (the sender is armed).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::buffers;
use crate::cipher::Sealer;
use crate::error::Error;
use crate::frame::{HEADER_LEN, Header, Kind};
use crate::ledger::Ledger;
use crate::message::{Content, HEAD_LEN};
use crate::pending::CallId;
use crate::transport::RecordSender;
use crate::wire::len_u64;

/// The most payload in one chunk. Larger chunks would leave the cache between sealing and copying, and smaller ones
/// pay the header and the publish more often.
const MAX_CHUNK: usize = 32 << 10;
/// After this many bytes a pump pauses, so that whoever called it gets on.
const PUMP_BYTES: u64 = 1 << 20;
/// Control frames that may wait for room. Only a peer that asks faster than it reads gets there. [wire.ping]
const MAX_CONTROL: usize = 4096;
/// What a queued message costs beyond its bytes, for the bound on the queue.
const QUEUE_ENTRY: u64 = 256;

/// A message on its way out.
#[derive(Debug)]
pub(crate) struct Outgoing {
    kind: Kind,
    id: u64,
    /// Head, body and blob table.
    first: Vec<u8>,
    blobs: Vec<Bytes>,
    /// 0 is `first`, `n` is `blobs[n - 1]`.
    section: usize,
    /// Bytes of that section already sent.
    offset: usize,
    started: bool,
    /// The room this message takes up in the sender's bound; given back when it is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

impl Outgoing {
    pub(crate) fn new(
        kind: Kind,
        id: u64,
        content: Content,
        (selector, member, stamp): (u16, u16, u64),
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (first, blobs) = content.into_sections(selector, member, stamp);
        Self { kind, id, first, blobs, section: 0, offset: 0, started: false, _permit: permit }
    }

    /// What the message takes of the peer's credit: all but the fixed head. Handshake messages take none. [wire.credit]
    fn cost(&self) -> u64 {
        if !matches!(self.kind, Kind::Request | Kind::Response) {
            return 0;
        }
        len_u64(self.first.len() - HEAD_LEN) + self.blob_bytes()
    }

    fn blob_bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| len_u64(blob.len())).sum()
    }

    fn is_small(&self, chunk: usize) -> bool {
        self.blobs.is_empty() && self.first.len() <= chunk
    }

    fn section_bytes(&self, section: usize) -> &[u8] {
        match section.checked_sub(1) {
            None => &self.first,
            Some(blob) => &self.blobs[blob],
        }
    }

    /// The next chunk: its header and payload. A chunk never spans two sections.
    fn chunk(&self, max: usize) -> (Header, &[u8]) {
        let rest = &self.section_bytes(self.section)[self.offset..];
        let payload = &rest[..rest.len().min(max)];
        let header = Header {
            kind: self.kind,
            first: !self.started,
            last: payload.len() == rest.len() && self.next_section(self.section).is_none(),
            // At most MAX_CHUNK.
            len: u32::try_from(payload.len()).unwrap_or(u32::MAX),
            id: self.id,
        };
        (header, payload)
    }

    /// The next section that is not empty.
    fn next_section(&self, after: usize) -> Option<usize> {
        (after + 1..=self.blobs.len()).find(|section| !self.blobs[section - 1].is_empty())
    }

    /// Steps over a chunk that was sent; returns whether it was the last.
    fn advance(&mut self, len: usize) -> bool {
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

/// How a pump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// Nothing is left that could go: the queue is empty, or waits for credit, which arrives as a frame.
    Done,
    /// The ring is full; the peer has been asked to wake us.
    Full,
    /// It paused for fairness: call again soon.
    More,
}

/// How far a call's request had got when it was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Withdrawn {
    /// Nothing of it had left.
    Unsent,
    /// A part had left; an abort frame follows it.
    Partly,
    /// All of it had left.
    Sent,
}

/// The sending half of a session.
pub(crate) struct Outbound {
    link: Link,
    control: VecDeque<Header>,
    /// The farewell: after everything else in the control lane.
    goodbye: Option<Vec<u8>>,
    small: VecDeque<Outgoing>,
    bulk: VecDeque<Outgoing>,
    /// Bytes that the peer still takes.
    credit: u64,
    /// Bytes queued, and something per message.
    queued: u64,
    ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("small", &self.small.len())
            .field("bulk", &self.bulk.len())
            .field("credit", &self.credit)
            .finish_non_exhaustive()
    }
}

impl Outbound {
    pub(crate) fn new(sender: Box<dyn RecordSender>, ledger: Arc<Ledger>) -> Self {
        Self {
            link: Link { sender, sealer: None, scratch: Vec::new() },
            control: VecDeque::new(),
            goodbye: None,
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            credit: 0,
            queued: 0,
            ledger,
        }
    }

    /// From the next frame on, frames are sealed.
    pub(crate) fn seal_with(&mut self, sealer: Box<dyn Sealer>) {
        self.link.sealer = Some(sealer);
    }

    /// The peer takes this many bytes more.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// Queues a message. It leaves with the next [`pump`](Self::pump).
    pub(crate) fn push(&mut self, message: Outgoing) {
        self.queued += message.cost() + QUEUE_ENTRY;
        let lane =
            if message.is_small(self.chunk_len()) { &mut self.small } else { &mut self.bulk };
        lane.push_back(message);
    }

    /// Queues a frame of the control lane: its id is all it carries.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many unread.
    pub(crate) fn push_control(&mut self, kind: Kind, id: u64) -> Result<(), Error> {
        if self.control.len() >= MAX_CONTROL {
            return Err(Error::Protocol("it asks for more answers than it reads".to_owned()));
        }
        self.control.push_back(Header::whole(kind, id, 0));
        Ok(())
    }

    /// Queues the farewell.
    pub(crate) fn push_goodbye(&mut self, reason: &str) {
        self.goodbye = Some(reason.as_bytes().to_vec());
    }

    /// Takes a request back, as far as it has not left.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many control frames unread.
    pub(crate) fn withdraw_request(&mut self, id: CallId) -> Result<Withdrawn, Error> {
        self.withdraw(Kind::Request, Kind::AbortRequest, id.0)
    }

    /// Takes a response back, as far as it has not left.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many control frames unread.
    pub(crate) fn withdraw_response(&mut self, id: u64) -> Result<Withdrawn, Error> {
        self.withdraw(Kind::Response, Kind::AbortResponse, id)
    }

    fn withdraw(&mut self, kind: Kind, abort: Kind, id: u64) -> Result<Withdrawn, Error> {
        let find =
            |lane: &VecDeque<Outgoing>| lane.iter().position(|m| m.kind == kind && m.id == id);
        let message = match find(&self.small) {
            Some(at) => self.small.remove(at),
            None => find(&self.bulk).and_then(|at| self.bulk.remove(at)),
        };
        let Some(message) = message else { return Ok(Withdrawn::Sent) };
        self.queued -= message.cost() + QUEUE_ENTRY;
        if !message.started {
            return Ok(Withdrawn::Unsent);
        }
        if message.section == 0 {
            // The peer has not seen the blob table, and so has not charged the blobs.
            self.credit += message.blob_bytes();
        }
        self.push_control(abort, id)?;
        Ok(Withdrawn::Partly)
    }

    /// The requests of which nothing has left; for telling what was surely not executed.
    pub(crate) fn unsent_requests(&self) -> Vec<CallId> {
        let unsent = |m: &&Outgoing| m.kind == Kind::Request && !m.started;
        self.small.iter().chain(&self.bulk).filter(unsent).map(|m| CallId(m.id)).collect()
    }

    /// Drops everything that is queued.
    pub(crate) fn clear(&mut self) {
        self.control.clear();
        self.small.clear();
        self.bulk.clear();
        self.queued = 0;
    }

    /// Bytes in the queue, plus something per message.
    pub(crate) const fn queued(&self) -> u64 {
        self.queued
    }

    /// Sends what can be sent, and publishes it if `publish`; the caller publishes otherwise.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub(crate) fn pump(&mut self, publish: bool) -> Result<Pumped, Error> {
        let pumped = self.pump_lanes();
        if publish || !matches!(pumped, Ok(Pumped::Done)) {
            self.publish()?;
        }
        pumped
    }

    /// Makes what was pumped visible.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub(crate) fn publish(&mut self) -> Result<(), Error> {
        Ok(self.link.sender.publish()?)
    }

    fn pump_lanes(&mut self) -> Result<Pumped, Error> {
        if let Some(bytes) = self.ledger.take_due() {
            self.control.push_back(Header::whole(Kind::Credit, bytes, 0));
        }
        while let Some(header) = self.control.front() {
            if !self.link.push(header, &[], 0)? {
                return Ok(Pumped::Full);
            }
            self.control.pop_front();
        }
        while let Some(message) = self.small.front() {
            let cost = message.cost();
            if cost > self.credit {
                break;
            }
            let (header, payload) = message.chunk(usize::MAX);
            if !self.link.push(&header, payload, 0)? {
                return Ok(Pumped::Full);
            }
            self.credit -= cost;
            self.queued -= cost + QUEUE_ENTRY;
            if let Some(message) = self.small.pop_front() {
                buffers::give(message.first);
            }
        }
        let pumped = self.pump_bulk()?;
        if pumped == Pumped::Done && self.small.is_empty() && self.bulk.is_empty() {
            return self.pump_goodbye();
        }
        Ok(pumped)
    }

    fn pump_bulk(&mut self) -> Result<Pumped, Error> {
        let (chunk, spare) = (self.chunk_len(), self.link.sender.capacity() / 2);
        let (mut sent, mut waiting) = (0, 0);
        while waiting < self.bulk.len() {
            let Some(message) = self.bulk.front_mut() else { break };
            let cost = message.cost();
            if !message.started && cost > self.credit {
                waiting += 1;
                self.bulk.rotate_left(1);
                continue;
            }
            let (header, payload) = message.chunk(chunk);
            let len = payload.len();
            if !self.link.push(&header, payload, spare)? {
                return Ok(Pumped::Full);
            }
            if !message.started {
                self.credit -= cost;
            }
            waiting = 0;
            if message.advance(len) {
                self.queued -= cost + QUEUE_ENTRY;
                self.bulk.pop_front();
            } else {
                self.bulk.rotate_left(1);
            }
            sent += len_u64(len);
            if sent >= PUMP_BYTES {
                return Ok(Pumped::More);
            }
            if len == chunk {
                self.link.sender.publish()?;
            }
        }
        Ok(Pumped::Done)
    }

    /// The last frame of this side. [wire.goodbye]
    fn pump_goodbye(&mut self) -> Result<Pumped, Error> {
        let Some(reason) = &self.goodbye else { return Ok(Pumped::Done) };
        let reason = &reason[..reason.len().min(self.chunk_len())];
        let header = Header::whole(Kind::Goodbye, 0, u32::try_from(reason.len()).unwrap_or(0));
        if !self.link.push(&header, reason, 0)? {
            return Ok(Pumped::Full);
        }
        self.goodbye = None;
        Ok(Pumped::Done)
    }

    /// The most payload in one chunk on this transport.
    fn chunk_len(&self) -> usize {
        let overhead = self.link.overhead() + HEADER_LEN;
        self.link.sender.max_record().saturating_sub(overhead).min(MAX_CHUNK)
    }
}

/// The transport's sender and what seals for it.
struct Link {
    sender: Box<dyn RecordSender>,
    sealer: Option<Box<dyn Sealer>>,
    /// Where a payload is sealed before it is copied to the ring; small enough to stay in cache.
    scratch: Vec<u8>,
}

impl Link {
    fn overhead(&self) -> usize {
        self.sealer.as_ref().map_or(0, |sealer| sealer.overhead())
    }

    /// Pushes one frame. Returns `false`, with the sender armed (O4), if there is no room.
    fn push(&mut self, header: &Header, payload: &[u8], spare: usize) -> Result<bool, Error> {
        let head = header.encode();
        let len = HEADER_LEN + payload.len() + self.overhead();
        let Some(sealer) = &mut self.sealer else {
            if self.sender.try_push(&head, payload, spare)? {
                return Ok(true);
            }
            // What is there has to be visible before we sleep on room, or nobody makes any.
            self.sender.publish()?;
            return Ok(self.sender.arm(len, spare)? && self.sender.try_push(&head, payload, spare)?);
        };
        if !self.sender.has_room(len, spare)? {
            self.sender.publish()?;
            if !self.sender.arm(len, spare)? {
                return Ok(false);
            }
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(payload);
        sealer.seal(&head, &mut self.scratch).map_err(|e| Error::Protocol(e.to_string()))?;
        let pushed = self.sender.try_push(&head, &self.scratch, 0)?;
        debug_assert!(pushed, "room was just found, and only we fill it");
        Ok(pushed)
    }
}
