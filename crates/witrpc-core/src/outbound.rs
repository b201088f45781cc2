//! The sending half of a session: lanes of messages, cut into chunks, sealed, and pushed as credit and space allow.
//!
//! Pure: it holds the transport's sender as a trait object, and neither waits, locks nor reads a clock. Whoever calls
//! [`Outbound::pump`] holds the lock of this half; taking a sequence number, sealing and pushing are one step within it.
//!
//! # Invariants
//!
//! - **O1** Lanes are served in order of urgency: control, events, small messages, then bulk in turn, a chunk each:
//!   long messages, and streams, each in its own order. An event that is bulk takes its turn with the bulk, and the
//!   events behind it wait. A response waits for the events that its handler raised before. [wire.interleave]
//! - **O2** What leaves in turn leaves half of the ring free for the other lanes.
//! - **O3** A message starts only when the peer's credit covers all of it, so every message that has started can be
//!   finished, whatever the others do.
//! - **O4** No more messages are under way in chunks at a time than the peer takes (its `max_in_flight`).
//! - **O5** Once a push finds no room, the peer has been asked to wake us (the sender is armed), or whoever pumped is
//!   awake and looks for room itself ([`Outbound::look_for_room`]); it pumps once more, armed, before it rests. A pump that
//!   pauses leaves word for the driver, or was the driver's.

mod flows;
mod link;
mod outgoing;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use self::flows::{Flow, StreamLane};
pub(crate) use self::flows::{MAX_STREAMS, TooManyStreams};
use self::link::Link;
pub(crate) use self::outgoing::Outgoing;
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

/// The most payload that leaves as one chunk, past what takes turns. What is longer is better cut: the peer copies the
/// first part out while we copy the next one in.
const MAX_WHOLE: usize = 16 << 10;
/// The most payload in a chunk of a message that has several: each pays a header and a publish, and five lie ahead in half
/// of the default ring.
const MAX_CHUNK: usize = 48 << 10;
/// Chunks that a section is cut into at least, as far as they are not shorter than [`MAX_WHOLE`].
const CHUNKS: usize = 8;
/// After about this many bytes a pump pauses, so that whoever called it gets on.
const LONG_PUMP: u64 = 1 << 20;
/// The same where others may wait for the thread, or for the lock: one chunk. Where the peer shares our CPU it would run after
/// each, so there it is never this little.
const SHORT_PUMP: u64 = 1;
/// Control frames that may wait for room. Only a peer that asks faster than it reads gets there. [wire.ping]
const MAX_CONTROL: usize = 4096;
/// What a queued message costs beyond its bytes, for the bound on the queue.
const QUEUE_ENTRY: u64 = 256;

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
    /// Credit for streams of the peer's, and cancels of them: at most a few for each, so without a bound of their own.
    notices: VecDeque<(Header, Vec<u8>)>,
    small: VecDeque<Outgoing>,
    bulk: VecDeque<Flow>,
    /// Our streams that are open.
    streams: HashMap<u64, StreamLane>,
    next_stream: u64,
    /// Bytes that the peer still takes.
    credit: u64,
    /// Credit for the peer that it has not been told about: behind the control lane, however much it comes to.
    owed: u64,
    /// Messages of the bulk lane that have started, and how many may have.
    started: usize,
    max_started: usize,
    /// Only a farewell may still leave.
    closed: bool,
    /// Bytes queued, and something per message; and how much of it belongs to streams.
    queued: u64,
    queued_streams: u64,
    /// The last pump paused.
    paused: bool,
    /// The peer shares our CPU: it runs once it is rung, and so is rung for all that a pump has sent.
    peer_is_near: bool,
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
            link: Link::new(sender),
            control: VecDeque::new(),
            events: VecDeque::new(),
            last_event: 0,
            goodbye: None,
            notices: VecDeque::new(),
            small: VecDeque::new(),
            bulk: VecDeque::new(),
            streams: HashMap::new(),
            next_stream: 0,
            credit: 0,
            owed: 0,
            started: 0,
            max_started: usize::MAX,
            closed: false,
            queued: 0,
            queued_streams: 0,
            paused: false,
            peer_is_near: false,
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

    /// Says whether the peer shares our CPU.
    pub(crate) const fn set_peer_near(&mut self, near: bool) {
        self.peer_is_near = near;
    }

    /// Queues a message. It leaves with the next [`pump`](Self::pump).
    pub(crate) fn push(&mut self, message: Outgoing) {
        if self.closed {
            return;
        }
        self.queued += message.cost() + QUEUE_ENTRY;
        if message.kind == Kind::Response {
            self.ledger.queue_response();
        }
        if message.is_small(self.whole_len()) {
            self.small.push_back(message);
        } else {
            self.bulk.push_back(Flow::Message(message));
        }
    }

    /// Sends a message past the lanes, if nothing waits there and it is one plain chunk that the peer and the ring take:
    /// then no place in a lane is made for it. Returns whether it has left; [`publish`](Self::publish) makes it visible.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub(crate) fn push_through(
        &mut self,
        kind: Kind,
        id: u64,
        content: &mut Content,
        (selector, member, stamp): (u16, u16, u64),
    ) -> Result<bool, Error> {
        if !self.is_clear() {
            return Ok(false);
        }
        let whole = self.whole_len();
        let Some(message) = content.as_plain(selector, member, stamp) else { return Ok(false) };
        let cost = len_u64(message.len() - HEAD_LEN);
        if message.len() > whole || cost > self.credit {
            return Ok(false);
        }
        let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
        if !self.link.push(&Header::whole(kind, id, len), message, 0)? {
            return Ok(false); // As the caller queues it next, and pumps, O5 holds.
        }
        self.credit -= cost;
        fail_point::at("message.pushed");
        Ok(true)
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_clear(&self) -> bool {
        self.queued == 0
            && self.control.is_empty()
            && self.notices.is_empty()
            && self.owed == 0
            && self.goodbye.is_none()
            && !self.closed
            && !self.wants_room()
            && !self.ledger.is_due()
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

    /// Queues what this side has to say of a stream of the peer's.
    pub(crate) fn push_notice(&mut self, kind: Kind, id: u64, payload: Vec<u8>) {
        if !self.closed {
            let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            self.notices.push_back((Header::whole(kind, id, len), payload));
        }
    }

    /// Queues the farewell.
    pub(crate) fn push_goodbye(&mut self, reason: &str) {
        self.goodbye = Some(reason.as_bytes().to_vec());
    }

    /// Whether the farewell still waits for room.
    pub(crate) const fn has_goodbye(&self) -> bool {
        self.goodbye.is_some()
    }

    /// Takes a request back, as far as it has not left, and returns its streams, which end with it.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many control frames unread.
    pub(crate) fn withdraw_request(
        &mut self,
        id: CallId,
    ) -> Result<(Withdrawn, Range<u64>), Error> {
        self.withdraw(Kind::Request, Kind::AbortRequest, id.0)
    }

    /// Takes a response back, as far as it has not left, and returns its streams, which end with it.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many control frames unread.
    pub(crate) fn withdraw_response(&mut self, id: u64) -> Result<(Withdrawn, Range<u64>), Error> {
        self.withdraw(Kind::Response, Kind::AbortResponse, id)
    }

    fn withdraw(
        &mut self,
        kind: Kind,
        abort: Kind,
        id: u64,
    ) -> Result<(Withdrawn, Range<u64>), Error> {
        let is_it = |m: &Outgoing| m.kind == kind && m.id == id;
        let message = match self.small.iter().position(is_it) {
            Some(at) => self.small.remove(at),
            None => {
                let at =
                    self.bulk.iter().position(|flow| matches!(flow, Flow::Message(m) if is_it(m)));
                match at.and_then(|at| self.bulk.remove(at)) {
                    Some(Flow::Message(message)) => Some(message),
                    _ => None,
                }
            }
        };
        let Some(message) = message else { return Ok((Withdrawn::Sent, 0..0)) };
        self.queued -= message.cost() + QUEUE_ENTRY;
        self.forget_response(message.kind);
        let streams = message.streams.clone();
        self.forget_streams(streams.clone());
        if !message.started {
            return Ok((Withdrawn::Unsent, streams));
        }
        self.started -= 1;
        if message.section == 0 {
            // The peer has not seen the blob table, and so has not charged the blobs.
            self.add_credit(message.blob_bytes());
        }
        self.push_control(abort, id)?;
        Ok((Withdrawn::Partly, streams))
    }

    /// The requests of which nothing has left; for telling what was surely not executed.
    pub(crate) fn unsent_requests(&self) -> Vec<CallId> {
        let unsent = |m: &&Outgoing| m.kind == Kind::Request && !m.started;
        let bulk = self.bulk.iter().filter_map(|flow| match flow {
            Flow::Message(message) => Some(message),
            Flow::Stream(_) => None,
        });
        self.small.iter().chain(bulk).filter(unsent).map(|m| CallId(m.id)).collect()
    }

    /// Drops everything that is queued, and takes nothing more but a farewell.
    pub(crate) fn clear(&mut self) {
        self.control.clear();
        self.events.clear();
        self.small.clear();
        self.notices.clear();
        self.bulk.clear();
        self.streams.clear();
        self.started = 0;
        self.queued = 0;
        self.queued_streams = 0;
        self.ledger.take_responses(self.ledger.unsent_responses());
        self.paused = false;
        self.closed = true;
    }

    /// A message leaves the queue.
    fn forget_response(&self, kind: Kind) {
        if kind == Kind::Response {
            self.ledger.take_responses(1);
        }
    }

    /// Bytes in the queue, plus something per message.
    pub(crate) const fn queued(&self) -> u64 {
        self.queued
    }

    /// The same without those of streams.
    pub(crate) const fn backlog(&self) -> u64 {
        self.queued - self.queued_streams
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
            || !self.notices.is_empty()
            || self.events.front().is_some_and(|m| self.may_send(m))
            || self.small.front().is_some_and(may_go)
            || self.bulk.iter().any(|flow| self.is_ready(flow));
        let sender = &mut self.link.sender;
        Ok(waits && sender.has_room(sender.max_record(), sender.capacity() / 2)?)
    }

    /// Bytes that the peer still takes.
    #[cfg(test)]
    pub(crate) const fn credit(&self) -> u64 {
        self.credit
    }

    /// Sends what can be sent, of what takes turns a chunk, and publishes it if `publish`; the caller publishes otherwise.
    /// If the ring is full, the peer wakes us.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub(crate) fn pump(&mut self, publish: bool) -> Result<Pumped, Error> {
        self.pump_armed(publish, SHORT_PUMP)
    }

    /// The same for who keeps nobody waiting.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub(crate) fn pump_at_length(&mut self) -> Result<Pumped, Error> {
        self.pump_armed(true, LONG_PUMP)
    }

    fn pump_armed(&mut self, publish: bool, most: u64) -> Result<Pumped, Error> {
        loop {
            let pumped = self.pump_once(most);
            if publish || !matches!(pumped, Ok(Pumped::Done)) {
                self.publish()?;
            }
            // What is there had to be visible before we ask, or nobody makes any room.
            if !matches!(pumped, Ok(Pumped::Full)) || !self.link.arm()? {
                return pumped;
            }
        }
    }

    /// The same for somebody who will look for room.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub(crate) fn pump_awake(&mut self, alone: bool) -> Result<Pumped, Error> {
        let pumped = self.pump_once(if alone { LONG_PUMP } else { SHORT_PUMP });
        self.publish()?;
        pumped
    }

    /// Whether the ring was full at the last attempt, or that has paused.
    pub(crate) const fn wants_room(&self) -> bool {
        self.paused || self.link.wants_room()
    }

    /// Whether what did not fit, or had its pause, does now. Whoever looks is awake, and the peer is no longer asked to wake us (O5).
    ///
    /// # Errors
    ///
    /// [`Error`] if the peer broke a rule of the shared state.
    pub(crate) fn look_for_room(&mut self) -> Result<bool, Error> {
        Ok(self.paused || self.link.look_for_room()?)
    }

    /// Makes what was pumped visible.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub(crate) fn publish(&mut self) -> Result<(), Error> {
        Ok(self.link.sender.publish()?)
    }

    fn pump_once(&mut self, most: u64) -> Result<Pumped, Error> {
        let pumped = self.pump_lanes(most)?;
        self.paused = pumped == Pumped::More;
        if pumped != Pumped::Full {
            // What did not fit may have been withdrawn.
            self.link.want_nothing();
        }
        Ok(pumped)
    }

    fn pump_lanes(&mut self, most: u64) -> Result<Pumped, Error> {
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
        while let Some((header, payload)) = self.notices.front() {
            if !self.link.push(header, payload, 0)? {
                return Ok(Pumped::Full);
            }
            self.notices.pop_front();
        }
        if !self.pump_small(Lane::Events)? || !self.pump_small(Lane::Small)? {
            return Ok(Pumped::Full);
        }
        // What takes turns takes long to copy.
        if !self.bulk.is_empty() {
            self.publish()?;
        }
        let pumped = self.pump_bulk(most)?;
        let empty = self.events.is_empty() && self.small.is_empty() && self.bulk.is_empty();
        if pumped == Pumped::Done && empty {
            return self.pump_goodbye();
        }
        Ok(pumped)
    }

    /// Sends the messages of a lane that are small; returns `false` if the ring is full.
    fn pump_small(&mut self, lane: Lane) -> Result<bool, Error> {
        let whole = self.whole_len();
        loop {
            let messages = match lane {
                Lane::Events => &self.events,
                Lane::Small => &self.small,
            };
            let Some(message) = messages.front() else { return Ok(true) };
            let cost = message.cost();
            if cost > self.credit || message.started || !message.is_small(whole) {
                return Ok(true);
            }
            if lane == Lane::Small && !has_left(&self.events, message.event) {
                // The bulk lane knows how to hold one back without holding up the others.
                self.bulk.extend(self.small.pop_front().map(Flow::Message));
                continue;
            }
            let messages = match lane {
                Lane::Events => &mut self.events,
                Lane::Small => &mut self.small,
            };
            let Some(message) = messages.front_mut() else { return Ok(true) };
            if !self.link.push_all(message)? {
                return Ok(false);
            }
            self.credit -= cost;
            self.queued -= cost + QUEUE_ENTRY;
            let kind = message.kind;
            let sent = messages.pop_front();
            self.forget_response(kind);
            fail_point::at(if lane == Lane::Events { "event.pushed" } else { "message.pushed" });
            buffers::give(sent.map(|message| message.first).unwrap_or_default());
        }
    }

    /// Sends what leaves in turn, a chunk each, until that is so much; the event lane takes part with its first message.
    fn pump_bulk(&mut self, most: u64) -> Result<Pumped, Error> {
        let mut sent = 0;
        let most = if self.peer_is_near { LONG_PUMP } else { most };
        while sent < most {
            let before = sent;
            if self.events.front().is_some_and(|m| self.may_send(m))
                && let Some(message) = self.events.pop_front()
            {
                let (chunk, unfinished) = self.send_chunk(message)?;
                unfinished.into_iter().for_each(|message| self.events.push_front(message));
                let Some(chunk) = chunk else { return Ok(Pumped::Full) };
                sent += chunk;
            }
            let next = self.bulk.iter().position(|flow| self.is_ready(flow));
            if let Some(at) = next
                && let Some(flow) = self.bulk.remove(at)
            {
                let turn = self.take_turn(flow)?;
                if turn.full {
                    // It goes on with its turn when there is room: else one of two would always be cut short.
                    turn.rest.into_iter().for_each(|flow| self.bulk.insert(at, flow));
                    return Ok(Pumped::Full);
                }
                self.bulk.extend(turn.rest);
                sent += turn.sent;
            }
            if sent == before {
                return Ok(Pumped::Done);
            }
        }
        let more = self.events.front().is_some_and(|m| self.may_send(m))
            || self.bulk.iter().any(|flow| self.is_ready(flow));
        Ok(if more { Pumped::More } else { Pumped::Done })
    }

    /// Whether the peer takes the next chunk of this message (O3).
    fn may_send(&self, message: &Outgoing) -> bool {
        let whole = message.is_one_chunk(self.whole_len());
        message.started
            || (message.cost() <= self.credit && (whole || self.started < self.max_started))
    }

    /// Sends one chunk. Returns its length, or `None` if the ring is full, and the message unless that was its last.
    fn send_chunk(
        &mut self,
        mut message: Outgoing,
    ) -> Result<(Option<u64>, Option<Outgoing>), Error> {
        let cost = message.cost();
        // A small message that was held back is no bulk; the small items of a stream are.
        let in_turn = message.kind.is_of_stream() || !message.is_small(self.whole_len());
        let chunk = (message.section_len() / CHUNKS).clamp(self.whole_len(), self.chunk_len());
        let spare = if in_turn { self.link.sender.capacity() / 2 } else { 0 };
        let (header, payload) = message.chunk(chunk);
        let len = payload.len();
        if !self.link.push(&header, payload, spare)? {
            return Ok((None, Some(message)));
        }
        fail_point::at("chunk.pushed");
        if len == chunk && !self.peer_is_near {
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
        self.forget_response(message.kind);
        self.queued_streams -= if message.kind.is_of_stream() { cost + QUEUE_ENTRY } else { 0 };
        buffers::give(message.first);
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

    /// The most payload that leaves as one chunk.
    fn whole_len(&self) -> usize {
        self.chunk_len().min(MAX_WHOLE)
    }
}

/// The lanes of messages that are small.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Events,
    Small,
}

/// Whether this event, and so every one before it, has left.
fn has_left(events: &VecDeque<Outgoing>, event: u64) -> bool {
    events.front().is_none_or(|first| first.event > event)
}
