//! The sending half of a session: lanes of messages, cut into chunks, sealed, and pushed as credit and space allow.
//!
//! Pure: it holds the transport's sender as a trait object, and neither waits, locks nor reads a clock. Whoever calls
//! [`Outbound::pump`] holds the lock of this half; taking a sequence number, sealing and pushing are one step within it.
//!
//! # Invariants
//!
//! - **O1** Lanes are served in order of urgency: control, events, small messages, then bulk in turn, a chunk each. An
//!   event that is bulk takes its turn with the bulk, and the events behind it wait. A response waits for the events
//!   that its handler raised before. [wire.interleave]
//! - **O2** A bulk chunk leaves `bulk_spare` bytes of the ring free for the other lanes.
//! - **O3** A message starts only when the peer's credit covers all of it, so every message that has started can be
//!   finished, whatever the others do.
//! - **O4** No more messages are under way in chunks at a time than the peer takes (its `max_in_flight`).
//! - **O5** Once a push finds no room, the peer has been asked to wake us (the sender is armed).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::buffers;
use crate::cipher::Sealer;
use crate::error::Error;
use crate::fail_point;
use crate::frame::{HEADER_LEN, Header, Kind};
use crate::ledger::Ledger;
use crate::message::{Content, HEAD_LEN};
use crate::options::Limits;
use crate::pending::CallId;
use crate::transport::RecordSender;
use crate::wire::{len_u64, u32_len};

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
    /// Event: its place in the lane. Response: the event that must have left before it; 0 is none.
    event: u64,
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
        Self {
            kind,
            id,
            first,
            blobs,
            section: 0,
            offset: 0,
            started: false,
            event: 0,
            _permit: permit,
        }
    }

    /// Holds this response back until that event has left.
    pub(crate) const fn after_event(mut self, event: u64) -> Self {
        self.event = event;
        self
    }

    /// What the message takes of the peer's credit: all but the fixed head. Handshake messages take none. [wire.credit]
    fn cost(&self) -> u64 {
        if !matches!(self.kind, Kind::Request | Kind::Response | Kind::Event) {
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
    /// Whole frames, with what little they carry.
    control: VecDeque<(Header, Vec<u8>)>,
    /// One lane: events never overtake each other.
    events: VecDeque<Outgoing>,
    /// The number of the last event that was queued.
    last_event: u64,
    /// The farewell: after everything else in the control lane.
    goodbye: Option<Vec<u8>>,
    small: VecDeque<Outgoing>,
    bulk: VecDeque<Outgoing>,
    /// Responses in these two lanes.
    responses: usize,
    /// Bytes that the peer still takes.
    credit: u64,
    /// Credit for the peer that it has not been told about: behind the control lane, however much it comes to.
    owed: u64,
    /// Messages of the bulk lane that have started, and how many may have.
    started: usize,
    max_started: usize,
    /// Only a farewell may still leave.
    closed: bool,
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
            events: VecDeque::new(),
            last_event: 0,
            goodbye: None,
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            responses: 0,
            credit: 0,
            owed: 0,
            started: 0,
            max_started: usize::MAX,
            closed: false,
            queued: 0,
            ledger,
        }
    }

    /// From the next frame on, frames are sealed.
    pub(crate) fn seal_with(&mut self, sealer: Box<dyn Sealer>) {
        self.link.sealer = Some(sealer);
    }

    /// The handshake is over, and the peer has told what it takes.
    pub(crate) fn open(&mut self, peer_limits: &Limits) {
        self.add_credit(peer_limits.max_buffered);
        self.max_started = u32_len(peer_limits.max_in_flight);
    }

    /// The peer takes this many bytes more.
    pub(crate) fn add_credit(&mut self, bytes: u64) {
        self.credit = self.credit.saturating_add(bytes);
    }

    /// Queues a message. It leaves with the next [`pump`](Self::pump).
    pub(crate) fn push(&mut self, message: Outgoing) {
        if self.closed {
            return;
        }
        self.queued += message.cost() + QUEUE_ENTRY;
        self.responses += usize::from(message.kind == Kind::Response);
        let lane =
            if message.is_small(self.chunk_len()) { &mut self.small } else { &mut self.bulk };
        lane.push_back(message);
    }

    /// Queues an event, and returns its place in the lane.
    pub(crate) fn push_event(&mut self, mut message: Outgoing) -> u64 {
        if self.closed {
            return self.last_event;
        }
        self.last_event += 1;
        message.event = self.last_event;
        self.queued += message.cost() + QUEUE_ENTRY;
        self.events.push_back(message);
        self.last_event
    }

    /// Drops what waits for this subscriber.
    pub(crate) fn drop_events(&mut self, id: u64) {
        let mut dropped = 0;
        self.events.retain(|m| {
            let keep = m.id != id || m.started;
            dropped += if keep { 0 } else { m.cost() + QUEUE_ENTRY };
            keep
        });
        self.queued -= dropped;
    }

    /// Queues a frame of the control lane: its id is all it carries.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many unread.
    pub(crate) fn push_control(&mut self, kind: Kind, id: u64) -> Result<(), Error> {
        self.push_control_with(kind, id, Vec::new())
    }

    /// Queues a frame of the control lane with a short payload.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many unread.
    pub(crate) fn push_control_with(
        &mut self,
        kind: Kind,
        id: u64,
        payload: Vec<u8>,
    ) -> Result<(), Error> {
        if self.closed {
            return Ok(());
        }
        if self.control.len() >= MAX_CONTROL {
            return Err(Error::Protocol("it asks for more answers than it reads".to_owned()));
        }
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.control.push_back((Header::whole(kind, id, len), payload));
        Ok(())
    }

    /// Queues the farewell.
    pub(crate) fn push_goodbye(&mut self, reason: &str) {
        self.goodbye = Some(reason.as_bytes().to_vec());
    }

    /// Whether the farewell still waits for room.
    pub(crate) const fn has_goodbye(&self) -> bool {
        self.goodbye.is_some()
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
        self.responses -= usize::from(message.kind == Kind::Response);
        if !message.started {
            return Ok(Withdrawn::Unsent);
        }
        self.started -= 1;
        if message.section == 0 {
            // The peer has not seen the blob table, and so has not charged the blobs.
            self.add_credit(message.blob_bytes());
        }
        self.push_control(abort, id)?;
        Ok(Withdrawn::Partly)
    }

    /// The requests of which nothing has left; for telling what was surely not executed.
    pub(crate) fn unsent_requests(&self) -> Vec<CallId> {
        let unsent = |m: &&Outgoing| m.kind == Kind::Request && !m.started;
        self.small.iter().chain(&self.bulk).filter(unsent).map(|m| CallId(m.id)).collect()
    }

    /// Drops everything that is queued, and takes nothing more but a farewell.
    pub(crate) fn clear(&mut self) {
        self.control.clear();
        self.events.clear();
        self.small.clear();
        self.bulk.clear();
        self.started = 0;
        self.queued = 0;
        self.responses = 0;
        self.closed = true;
    }

    /// Responses of which not all has left.
    pub(crate) const fn responses(&self) -> usize {
        self.responses
    }

    /// Bytes in the queue, plus something per message.
    pub(crate) const fn queued(&self) -> u64 {
        self.queued
    }

    /// Whether something waits that could go, with more room than a sender ever asks to be woken at (O5): a record and
    /// its spare, or a quarter of the ring.
    ///
    /// # Errors
    ///
    /// [`Error`] if the peer broke a rule of the shared state.
    pub(crate) fn is_stuck(&mut self) -> Result<bool, Error> {
        let may_go = |m: &Outgoing| self.may_send(m) && has_left(&self.events, m.event);
        let waits = !self.control.is_empty()
            || self.events.front().is_some_and(|m| self.may_send(m))
            || self.small.front().is_some_and(may_go)
            || self.bulk.iter().any(may_go);
        let sender = &mut self.link.sender;
        Ok(waits && sender.has_room(sender.max_record(), sender.capacity() / 2)?)
    }

    /// Bytes that the peer still takes.
    #[cfg(test)]
    pub(crate) const fn credit(&self) -> u64 {
        self.credit
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
        // Taken whether or not there is room, or the driver would find it due for ever.
        self.owed += self.ledger.take_due().unwrap_or_default();
        while let Some((header, payload)) = self.control.front() {
            if !self.link.push(header, payload, 0)? {
                return Ok(Pumped::Full);
            }
            self.control.pop_front();
        }
        if self.owed > 0 && !self.closed {
            if !self.link.push(&Header::whole(Kind::Credit, self.owed, 0), &[], 0)? {
                return Ok(Pumped::Full);
            }
            self.owed = 0;
        }
        if !self.pump_small(Lane::Events)? || !self.pump_small(Lane::Small)? {
            return Ok(Pumped::Full);
        }
        let pumped = self.pump_bulk()?;
        let empty = self.events.is_empty() && self.small.is_empty() && self.bulk.is_empty();
        if pumped == Pumped::Done && empty {
            return self.pump_goodbye();
        }
        Ok(pumped)
    }

    /// Sends the messages of a lane that are one chunk; returns `false` if the ring is full.
    fn pump_small(&mut self, lane: Lane) -> Result<bool, Error> {
        let chunk = self.chunk_len();
        loop {
            let messages = match lane {
                Lane::Events => &self.events,
                Lane::Small => &self.small,
            };
            let Some(message) = messages.front() else { return Ok(true) };
            let cost = message.cost();
            if cost > self.credit || message.started || !message.is_small(chunk) {
                return Ok(true);
            }
            if lane == Lane::Small && !has_left(&self.events, message.event) {
                // The bulk lane knows how to hold one back without holding up the others.
                self.bulk.extend(self.small.pop_front());
                continue;
            }
            let (header, payload) = message.chunk(usize::MAX);
            if !self.link.push(&header, payload, 0)? {
                return Ok(false);
            }
            self.credit -= cost;
            self.queued -= cost + QUEUE_ENTRY;
            self.responses -= usize::from(header.kind == Kind::Response);
            let sent = match lane {
                Lane::Events => self.events.pop_front(),
                Lane::Small => self.small.pop_front(),
            };
            fail_point::at(if lane == Lane::Events { "event.pushed" } else { "message.pushed" });
            buffers::give(sent.map(|message| message.first).unwrap_or_default());
        }
    }

    /// Sends bulk messages in turn, a chunk each; the event lane takes part with its first message.
    fn pump_bulk(&mut self) -> Result<Pumped, Error> {
        let mut sent = 0;
        while sent < PUMP_BYTES {
            let before = sent;
            if self.events.front().is_some_and(|m| self.may_send(m))
                && let Some(message) = self.events.pop_front()
            {
                let (chunk, unfinished) = self.send_chunk(message)?;
                unfinished.into_iter().for_each(|message| self.events.push_front(message));
                let Some(chunk) = chunk else { return Ok(Pumped::Full) };
                sent += chunk;
            }
            let next =
                self.bulk.iter().position(|m| self.may_send(m) && has_left(&self.events, m.event));
            if let Some(at) = next
                && let Some(message) = self.bulk.remove(at)
            {
                let (chunk, unfinished) = self.send_chunk(message)?;
                let Some(chunk) = chunk else {
                    unfinished.into_iter().for_each(|message| self.bulk.insert(at, message));
                    return Ok(Pumped::Full);
                };
                self.bulk.extend(unfinished);
                sent += chunk;
            }
            if sent == before {
                return Ok(Pumped::Done);
            }
        }
        Ok(Pumped::More)
    }

    /// Whether the peer takes the next chunk of this message (O3).
    fn may_send(&self, message: &Outgoing) -> bool {
        let whole = message.is_small(self.chunk_len());
        message.started
            || (message.cost() <= self.credit && (whole || self.started < self.max_started))
    }

    /// Sends one chunk. Returns its length, or `None` if the ring is full, and the message unless that was its last.
    fn send_chunk(
        &mut self,
        mut message: Outgoing,
    ) -> Result<(Option<u64>, Option<Outgoing>), Error> {
        let (chunk, cost) = (self.chunk_len(), message.cost());
        // A small message that was held back is no bulk.
        let whole = message.is_small(chunk);
        let spare = if whole { 0 } else { self.link.sender.capacity() / 2 };
        let (header, payload) = message.chunk(chunk);
        let len = payload.len();
        if !self.link.push(&header, payload, spare)? {
            return Ok((None, Some(message)));
        }
        fail_point::at("chunk.pushed");
        if len == chunk {
            self.link.sender.publish()?;
        }
        if !message.started {
            self.credit -= cost;
            self.started += 1;
        }
        if !message.advance(len) {
            return Ok((Some(len_u64(len)), Some(message)));
        }
        self.started -= 1;
        self.queued -= cost + QUEUE_ENTRY;
        self.responses -= usize::from(message.kind == Kind::Response);
        Ok((Some(len_u64(len)), None))
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
        fail_point::at("goodbye.pushed");
        Ok(Pumped::Done)
    }

    /// The most payload in one chunk on this transport.
    fn chunk_len(&self) -> usize {
        let overhead = self.link.overhead() + HEADER_LEN;
        self.link.sender.max_record().saturating_sub(overhead).min(MAX_CHUNK)
    }
}

/// The lanes of messages that are one chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Events,
    Small,
}

/// Whether this event, and so every one before it, has left.
fn has_left(events: &VecDeque<Outgoing>, event: u64) -> bool {
    events.front().is_none_or(|first| first.event > event)
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

    /// Pushes one frame. Returns `false`, with the sender armed (O5), if there is no room.
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
