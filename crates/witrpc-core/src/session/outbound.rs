//! The sending half of a session: lanes of messages, cut into chunks, sealed, and pushed as credit and space allow.
//!
//! Pure: it holds the transport's sender as a trait object, and neither waits, locks nor reads a clock. The caller of
//! [`Outbound::pump`] holds the lock of this half; taking a sequence number, sealing and pushing are one step under it.
//!
//! # Invariants
//!
//! - **O1** Lanes are served in order of priority: control, notices, events, small messages, flows. A flow is a long message or a
//!   stream. Flows take turns. A turn sends one chunk, or as many small items of a stream. A stream keeps the order of its items. A
//!   long event takes turns with the flows, and the events behind it wait. A response waits until the events that its handler raised
//!   have been sent. [wire.interleave]
//! - **O2** Flows leave half of the ring free for the other lanes.
//! - **O3** A message starts only when the peer's credit covers all of it, so every message that has started can be
//!   finished, independent of all others. An outer request leaves the reserve for nested ones; a nested request that must not wait has
//!   its credit before it is queued.
//! - **O4** The number of messages of which some chunks were sent, and not all, is at most the peer's `max_in_flight`.
//! - **O5** After a push has found no room, one of two things holds. Either the sender is armed, so the peer will notify us. Or the
//!   task that pumped is awake and polls for room ([`Outbound::look_for_room`]); before it sleeps, it pumps once more, and that pump
//!   arms the sender if there is still no room. If a pump pauses, its caller notifies the driver, or is the driver.
//! - **O6** Queueing, sending and withdrawing a message take constant or logarithmic time in the length of the queues: lanes are lists
//!   with an index, and flows are in sorted maps.

mod flows;
mod link;
mod notices;
mod outgoing;
mod streams;

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use hashlink::LinkedHashMap;

use crate::error::Error;
use crate::fail_point;
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::{self, Held, Queued};
use crate::limits::{Limits, POOLS, Pool};
use crate::security::cipher::Sealer;
use crate::session::ledger::Ledger;
use crate::session::lending::Out;
use crate::session::outbound::flows::{Flow, Flows, Left};
pub use crate::session::outbound::flows::{MAX_STREAMS, TooManyStreams};
use crate::session::outbound::link::Link;
use crate::session::outbound::notices::Notices;
pub use crate::session::outbound::outgoing::{Outgoing, Room};
use crate::session::pending::CallId;
use crate::transport::{Arena, RecordSender};
use crate::values::buffers;
use crate::values::content::Content;
use crate::values::loans::Share;
use crate::wire::fields::{len_u64, u32_len};
use crate::wire::frame::{HEADER_LEN, Header, Key, Kind, Nesting};
use crate::wire::message::{HEAD_LEN, LoanEntry};

/// The largest payload that is sent as one chunk, ahead of the flows. Longer payloads are cut, so that the peer copies one chunk out
/// while we copy the next one in.
const MAX_WHOLE: usize = 16 << 10;
/// The largest payload in a chunk of a longer message. Each chunk costs a header and a publish; five of this size fit in half of the
/// default ring.
const MAX_CHUNK: usize = 48 << 10;
/// The minimum number of chunks into which a section of a long message is cut, unless they would be shorter than [`MAX_WHOLE`]. A
/// section is one blob, or everything before the blobs.
const CHUNKS: usize = 8;
/// A pump pauses after about this many bytes, so that its caller can do other work.
const LONG_PUMP: u64 = 1 << 20;
/// The same while other tasks may wait for the thread or for the lock: the pump pauses after one chunk. [`LONG_PUMP`] is used instead
/// with a peer on our CPU, because such a peer would run after each chunk.
const SHORT_PUMP: u64 = 1;
/// The maximum number of control frames that answer the peer and wait for room. Only a peer that asks for answers faster than it reads
/// them reaches this limit. [wire.ping]
pub const MAX_ANSWERS: usize = 4096;
/// Entries that a lane keeps to be used again, about: it keeps those of messages that have left.
const SPARE_ENTRIES: usize = 64;
/// The frames that return credit, of each pool.
const CREDIT_KINDS: [Kind; POOLS] = [Kind::Credit, Kind::AnswerCredit, Kind::ItemCredit];

/// How a pump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pumped {
    /// Nothing more can be sent: the queue is empty, or waits for credit, which arrives as a frame.
    Done,
    /// The ring is full; the peer will notify us.
    Full,
    /// It paused for fairness: call again soon.
    More,
}

/// How much of a request or response had been sent when it was withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// Nothing.
    Unsent,
    /// A part; an abort frame follows it.
    Partly,
    /// All of it.
    Sent,
}

/// The sending half of a session.
/// Many fields: each is a part of its own, and a pump goes through all of them.
pub struct Outbound {
    link: Link,
    control: Control,
    events: Events,
    notices: Notices,
    small: Small,
    flows: Flows,
    credit: Credit,
    queued: Queue,
    pace: Pace,
    loans: Loans,
    ledger: Arc<Ledger>,
}

/// What is lent.
#[derive(Default)]
struct Loans {
    /// What the peer has of our memory.
    out: Out,
    /// Loans of the peer that are returned to it. Each has its share until its frame has been sent, so there are no more of them than can be lent.
    returns: VecDeque<(u64, Share)>,
}

/// The control lane, which is sent ahead of all others, and the goodbye, which is sent behind all others.
#[derive(Default)]
struct Control {
    /// Whole frames with short payloads.
    frames: VecDeque<(Header, Vec<u8>)>,
    /// The number of `frames` that answer the peer.
    answers: usize,
    /// The text of the goodbye, which is sent once all lanes are empty.
    goodbye: Option<Vec<u8>>,
    /// Set when the queue was cleared: only last marks and a goodbye may still be sent.
    closed: bool,
}

/// The lane of events, which never overtake each other.
#[derive(Default)]
struct Events {
    /// By position in the lane, counted from 1.
    waiting: LinkedHashMap<u64, Outgoing>,
    /// The position of the event that was queued last.
    last: u64,
}

/// The lanes of small messages: responses, nested requests, outer requests. None waits behind another's credit.
#[derive(Default)]
struct Small([LinkedHashMap<Key, Outgoing>; 3]);

impl Small {
    const RESPONSES: usize = 0;
    const NESTED: usize = 1;
    const OUTER: usize = 2;

    fn insert(&mut self, message: Outgoing) {
        let lane = match (message.kind, message.nesting) {
            (Kind::Request, Nesting::Outer) => Self::OUTER,
            (Kind::Request, _) => Self::NESTED,
            _ => Self::RESPONSES,
        };
        self.0[lane].insert((message.kind, message.id), message);
    }

    fn has(&self, key: &Key) -> bool {
        self.0.iter().any(|lane| !lane.is_empty() && lane.contains_key(key))
    }

    fn remove(&mut self, key: &Key) -> Option<Outgoing> {
        self.0.iter_mut().find_map(|lane| lane.remove(key))
    }

    fn values(&self) -> impl Iterator<Item = &Outgoing> {
        self.0.iter().flat_map(LinkedHashMap::values)
    }

    fn fronts(&self) -> impl Iterator<Item = &Outgoing> {
        self.0.iter().filter_map(|lane| lane.front().map(|(_, message)| message))
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(LinkedHashMap::is_empty)
    }

    fn clear(&mut self) {
        self.0.iter_mut().for_each(LinkedHashMap::clear);
    }
}

/// Credit, in bytes of each pool.
#[derive(Default)]
struct Credit {
    /// How much the peer still accepts.
    left: Left,
    /// How much credit we have yet to return to the peer. It is sent as a frame for each pool, behind the control lane.
    owed: [u64; POOLS],
    /// The largest nested request that may wait for credit.
    most_nested: u64,
    /// The peer was told that a response waits, and has given no credit for it since.
    told: bool,
}

/// What a queued message is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Requests,
    Responses,
    /// Values of events, and marks.
    Events,
    /// Items and ends of streams.
    Items,
}

impl Part {
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Request => Self::Requests,
            Kind::Event | Kind::EventLag => Self::Events,
            Kind::StreamItem | Kind::StreamEnd => Self::Items,
            _ => Self::Responses,
        }
    }
}

/// The memory of the queued messages, of each part.
#[derive(Default)]
struct Queue([u64; 4]);

impl Queue {
    const fn join(&mut self, kind: Kind, footprint: u64) {
        self.0[Part::of(kind) as usize] += footprint;
    }

    const fn leave(&mut self, kind: Kind, footprint: u64) {
        self.0[Part::of(kind) as usize] -= footprint;
    }

    #[inline]
    const fn bytes(&self) -> u64 {
        let [requests, responses, events, items] = self.0;
        requests + responses + events + items
    }
}

/// How much a pump sends before it pauses.
#[derive(Default)]
struct Pace {
    /// The last pump paused.
    paused: bool,
    /// The peer shares our CPU and runs as soon as it is notified. So chunks are not published one by one.
    peer_is_near: bool,
}

impl std::fmt::Debug for Outbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbound")
            .field("small", &self.small.values().count())
            .field("flows", &self.flows)
            .field("credit", &self.credit.left)
            .finish_non_exhaustive()
    }
}

impl Outbound {
    #[inline]
    pub fn new(sender: Box<dyn RecordSender>, ledger: Arc<Ledger>) -> Self {
        let mut outbound = Self {
            link: Link::new(sender),
            control: Control::default(),
            events: Events::default(),
            notices: Notices::default(),
            small: Small::default(),
            flows: Flows::new(),
            credit: Credit::default(),
            queued: Queue::default(),
            pace: Pace::default(),
            loans: Loans::default(),
            ledger,
        };
        outbound.flows.whole = outbound.whole_len();
        outbound
    }

    /// Seals all further frames with `sealer`.
    #[inline]
    pub fn seal_with(&mut self, sealer: Box<dyn Sealer>) {
        self.link.sealer = Some(sealer);
        self.flows.whole = self.whole_len();
    }

    /// The handshake is over, and the peer's limits are known.
    #[inline]
    pub fn open(&mut self, peer_limits: &Limits) {
        for pool in Pool::ALL {
            self.add_credit(pool, peer_limits.credit(pool));
        }
        self.credit.left.reserve = peer_limits.reserve();
        self.credit.most_nested = peer_limits.most_nested();
        self.flows.chunked.most = u32_len(peer_limits.max_in_flight);
    }

    /// Adds credit from the peer, in bytes.
    #[inline]
    pub fn add_credit(&mut self, pool: Pool, bytes: u64) {
        let left = self.credit.left.of_mut(pool);
        *left = left.saturating_add(bytes);
        self.credit.told &= pool != Pool::Answers;
    }

    /// Prepares a request that is nested: whether it may be queued. If it is nested deeper, or too large to wait, it takes its credit now,
    /// and `false` means that there is none.
    pub fn may_queue(&mut self, request: &mut Outgoing) -> bool {
        let waits = match request.nesting {
            Nesting::Outer => true,
            Nesting::Nested => request.cost() <= self.credit.most_nested,
            Nesting::Deeper => false,
        };
        if waits || self.control.closed {
            return true;
        }
        if !self.credit.left.covers(request) {
            return false;
        }
        self.credit.left.spend(request);
        request.paid = true;
        true
    }

    /// Sets whether the peer shares our CPU.
    #[inline]
    pub const fn set_peer_near(&mut self, near: bool) {
        self.pace.peer_is_near = near;
    }

    /// Queues a message, which is sent by the next [`pump`](Self::pump).
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if a message of this kind and id waits already: the peer has reused an id whose answer it has not read.
    #[inline]
    pub fn push(&mut self, message: Outgoing) -> Result<(), Error> {
        if self.control.closed {
            return Ok(());
        }
        let key = (message.kind, message.id);
        if self.small.has(&key) || self.flows.has(&key) {
            return Err(Error::Protocol("two calls with the same id".to_owned()));
        }
        self.queued.join(message.kind, message.footprint());
        match message.kind {
            Kind::Response => self.ledger.queue_response(),
            Kind::Request => self.ledger.queue_request(),
            _ => {}
        }
        self.sort_in(message);
        Ok(())
    }

    /// Appends a message to its lane, or holds it until the event that it waits for has been sent.
    fn sort_in(&mut self, message: Outgoing) {
        if !has_left(&self.events.waiting, message.event) {
            self.flows.hold(message);
        } else if message.is_small(self.whole_len()) {
            self.small.insert(message);
        } else {
            self.flows.push(message);
        }
    }

    /// Sends a message directly, past the lanes. This requires that nothing waits to be sent, that the message is one chunk without
    /// attachments, and that there is credit and room for it. The length of `header` is set here. Returns whether it was sent;
    /// [`publish`](Self::publish) makes it visible.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub fn push_through(
        &mut self,
        header: Header,
        content: &mut Content,
        (selector, member, stamp): (u16, u16, u64),
    ) -> Result<bool, Error> {
        if !self.is_clear() {
            return Ok(false);
        }
        let whole = self.whole_len();
        let Some(message) = content.as_plain(selector, member, stamp) else { return Ok(false) };
        let cost = len_u64(message.len() - HEAD_LEN);
        let (pool, nesting) = (header.kind.pool(), header.nesting);
        if message.len() > whole
            || self.credit.left.need(header.kind, nesting, cost) > self.credit.left.of(pool)
        {
            return Ok(false);
        }
        let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
        if !self.link.push(&Header { len, ..header }, message, 0)? {
            return Ok(false); // The caller queues it next, and pumps, so O5 holds.
        }
        *self.credit.left.of_mut(pool) -= cost;
        fail_point::at("message.pushed");
        Ok(true)
    }

    /// Whether nothing waits to be sent.
    #[inline]
    pub fn is_clear(&self) -> bool {
        self.is_empty() && !self.control.closed && !self.ledger.is_due()
    }

    /// Whether everything was sent and published, but for credit that is due.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.is_empty() && !self.link.has_unpublished()
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.queued.bytes() == 0
            && self.control.frames.is_empty()
            && self.notices.is_empty()
            && self.loans.returns.is_empty()
            && self.credit.owed.iter().all(|owed| *owed == 0)
            && self.control.goodbye.is_none()
            && !self.wants_room()
    }

    /// Queues an event. Returns its position in the event lane.
    #[inline]
    pub fn push_event(&mut self, mut message: Outgoing) -> u64 {
        if self.control.closed {
            return self.events.last;
        }
        self.events.last += 1;
        message.event = self.events.last;
        self.queued.join(message.kind, message.footprint());
        self.events.waiting.insert(self.events.last, message);
        self.events.last
    }

    /// Queues a mark behind the events of a subscription. A mark tells the subscriber the number of the next value. `last` is the
    /// position of the subscription's previous mark: if that still waits, its number is updated instead. Returns the position of the
    /// mark in the event lane. [wire.event.lag]
    #[inline]
    pub fn push_event_mark(&mut self, subscription: u32, number: u64, last: u64) -> u64 {
        if let Some(mark) = self.events.waiting.get_mut(&last) {
            if mark.kind == Kind::EventLag {
                mark.first = number.to_le_bytes().to_vec();
                return last;
            }
        }
        self.push_event(Outgoing::mark(subscription, number))
    }

    /// Drops the queued events at these positions, whose subscriber is gone. An event of which a chunk was sent stays. Returns the ids of
    /// the streams of those that were dropped, which end with them.
    #[inline]
    pub fn drop_events(&mut self, events: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut streams = Vec::new();
        for event in events {
            if self.events.waiting.get(&event).is_some_and(|message| !message.started) {
                if let Some(message) = self.events.waiting.remove(&event) {
                    self.queued.leave(message.kind, message.footprint());
                    self.flows.forget_streams(message.streams.clone());
                    streams.extend(message.streams.clone());
                }
            }
        }
        streams
    }

    /// Queues a frame of the control lane that has an id only.
    #[inline]
    pub fn push_control(&mut self, kind: Kind, id: u64) {
        self.push_control_with(kind, id, Vec::new());
    }

    /// Queues a frame of the control lane with a short payload.
    #[inline]
    pub fn push_control_with(&mut self, kind: Kind, id: u64, payload: Vec<u8>) {
        if !self.control.closed {
            let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            self.control.frames.push_back((Header::whole(kind, id, len), payload));
        }
    }

    /// Queues a frame of the control lane that answers the peer.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many unread.
    #[inline]
    pub fn push_answer(&mut self, kind: Kind, id: u64, payload: Vec<u8>) -> Result<(), Error> {
        if self.control.answers >= MAX_ANSWERS {
            return Err(Error::Protocol("it requests more answers than it reads".to_owned()));
        }
        self.control.answers += 1;
        self.push_control_with(kind, id, payload);
        Ok(())
    }

    /// Queues credit for a stream of the peer.
    #[inline]
    pub fn grant(&mut self, stream: u64, items: u32, bytes: u64) {
        if !self.control.closed {
            self.notices.credit(stream, items, bytes);
        }
    }

    /// Queues a cancel for a stream of the peer.
    #[inline]
    pub fn refuse_stream(&mut self, stream: u64) {
        if !self.control.closed {
            self.notices.cancel(stream);
        }
    }

    /// The memory in which this side lends; why there is none, if not. Nothing is lent on a sealed connection.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn arena(&self) -> Result<Arc<dyn Arena>, &'static str> {
        self.link.sender.arena()
    }

    /// Whether frames are sealed.
    #[must_use]
    pub const fn is_sealed(&self) -> bool {
        self.link.sealer.is_some()
    }

    /// Returns a loan to the peer.
    pub fn return_loan(&mut self, loan: u64, share: Share) {
        if !self.control.closed {
            self.loans.returns.push_back((loan, share));
        }
    }

    /// The peer has returned a loan.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it did not have that loan.
    pub fn loan_returned(&mut self, loan: u64) -> Result<(), Error> {
        self.loans.out.give_back(loan)
    }

    /// The bytes of a loan of ours to which the peer refers.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it does not have that loan, or they are not within it.
    pub fn lent_bytes(&self, entry: &LoanEntry) -> Result<bytes::Bytes, Error> {
        self.loans.out.bytes(entry)
    }

    /// Queues an acknowledgement of event values.
    #[inline]
    pub fn acknowledge_event(&mut self, subscription: u32, values: u32) {
        if !self.control.closed {
            self.notices.acknowledge(subscription, values);
        }
    }

    /// Drops the notice for a stream of the peer that has ended.
    #[inline]
    pub fn forget_stream_of_peer(&mut self, stream: u64) {
        self.notices.forget_stream(stream);
    }

    /// Ends a subscription of this side: queues the unsubscribe frame, and drops the acknowledgement that waits.
    #[inline]
    pub fn unsubscribe(&mut self, subscription: u32) {
        self.notices.forget_subscription(subscription);
        self.push_control(Kind::Unsubscribe, u64::from(subscription));
    }

    /// Queues the last mark of a subscription, ahead of the goodbye. [wire.event.lag]
    #[inline]
    pub fn push_last_mark(&mut self, subscription: u32, number: u64) {
        let payload = number.to_le_bytes().to_vec();
        let header = Header::whole(Kind::EventLag, u64::from(subscription), 8);
        self.control.frames.push_back((header, payload));
    }

    /// Queues the goodbye.
    #[inline]
    pub fn push_goodbye(&mut self, reason: &str) {
        self.control.goodbye = Some(reason.as_bytes().to_vec());
    }

    /// Whether the goodbye still waits for room.
    #[inline]
    pub const fn has_goodbye(&self) -> bool {
        self.control.goodbye.is_some()
    }

    /// Withdraws what was not sent of a request. Returns how much had been sent, and the ids of its streams, which end with it.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many control frames unread.
    #[inline]
    pub fn withdraw_request(&mut self, id: CallId) -> Result<(Withdrawn, Range<u64>), Error> {
        self.withdraw(Kind::Request, Kind::AbortRequest, id.0)
    }

    /// Withdraws what was not sent of a response. Returns how much had been sent, and the ids of its streams, which end with it.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer has left too many control frames unread.
    #[inline]
    pub fn withdraw_response(&mut self, id: u64) -> Result<(Withdrawn, Range<u64>), Error> {
        self.withdraw(Kind::Response, Kind::AbortResponse, id)
    }

    fn withdraw(
        &mut self,
        kind: Kind,
        abort: Kind,
        id: u64,
    ) -> Result<(Withdrawn, Range<u64>), Error> {
        let key = (kind, id);
        let message = self.small.remove(&key).or_else(|| self.flows.remove(key));
        let Some(message) = message else { return Ok((Withdrawn::Sent, 0..0)) };
        self.queued.leave(message.kind, message.footprint());
        self.note_left(message.kind);
        let streams = message.streams.clone();
        self.flows.forget_streams(streams.clone());
        let pool = kind.pool();
        if !message.started {
            self.add_credit(pool, if message.paid { message.cost() } else { 0 });
            return Ok((Withdrawn::Unsent, streams));
        }
        self.flows.chunked.started -= 1;
        if message.section == 0 {
            // The peer has not seen the blob table, and so has not charged the blobs.
            self.add_credit(pool, message.blob_bytes());
        }
        match kind {
            Kind::Response => self.push_answer(abort, id, Vec::new())?,
            _ => self.push_control(abort, id),
        }
        Ok((Withdrawn::Partly, streams))
    }

    /// The requests of which nothing was sent, which were certainly not executed.
    #[inline]
    pub fn unsent_requests(&self) -> HashSet<CallId> {
        let unsent = |m: &&Outgoing| m.kind == Kind::Request && !m.started;
        let waiting = self.small.values().chain(self.flows.messages());
        waiting.filter(unsent).map(|m| CallId(m.id)).collect()
    }

    /// Drops everything that is queued. Only last marks and a goodbye can be queued afterwards.
    #[inline]
    pub fn clear(&mut self) {
        self.control.frames.clear();
        self.control.answers = 0;
        self.events.waiting.clear();
        self.small.clear();
        self.notices.clear();
        self.loans.returns.clear();
        self.flows.clear();
        self.queued = Queue::default();
        self.ledger.take_responses(self.ledger.unsent_responses());
        self.ledger.take_requests(self.ledger.unsent_requests());
        self.pace.paused = false;
        self.control.closed = true;
    }

    /// Updates the counters for a message that leaves the queue.
    fn note_left(&self, kind: Kind) {
        match kind {
            Kind::Response => self.ledger.take_responses(1),
            Kind::Request => self.ledger.take_requests(1),
            _ => {}
        }
    }

    /// Whether this request waits, or a part of it.
    #[inline]
    pub fn has_request(&self, id: u64) -> bool {
        let key = (Kind::Request, id);
        self.small.has(&key) || self.flows.has(&key)
    }

    /// Whether this ping waits.
    #[inline]
    pub fn has_ping(&self, id: u64) -> bool {
        let ping = |(header, _): &(Header, _)| header.kind == Kind::Ping && header.id == id;
        self.control.frames.iter().any(ping)
    }

    /// The memory of the queued messages.
    #[inline]
    pub const fn queued(&self) -> u64 {
        self.queued.bytes()
    }

    /// The memory of the queued messages of this part.
    #[inline]
    pub const fn queued_of(&self, part: Part) -> u64 {
        self.queued.0[part as usize]
    }

    /// The memory of the queue. Asserts that it matches the counters.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub fn held(&self) -> Queued {
        let sum =
            |messages: &mut dyn Iterator<Item = &Outgoing>| messages.map(Outgoing::held).sum();
        let control = self.control.frames.iter().map(|(_, payload)| Held {
            entries: 1,
            size: 0,
            memory: held::bytes::<(Header, Vec<u8>)>(1) + len_u64(payload.capacity()),
        });
        let (of_streams, lanes) = self.flows.held_of_streams();
        let queued = Queued {
            control: control.sum(),
            notices: self.notices.held(),
            events: sum(&mut self.events.waiting.values()),
            messages: sum(&mut self.small.values().chain(self.flows.messages())),
            of_streams,
            lanes,
        };
        let messages = self.small.values().chain(self.flows.messages());
        let all = self.events.waiting.values().chain(messages).chain(self.flows.of_streams());
        let mut counted = Queue::default();
        all.for_each(|message| counted.join(message.kind, message.footprint()));
        assert_eq!(self.queued.0, counted.0);
        queued
    }

    /// Whether a frame waits although it fits (O5), or was pushed and not published. A sender that is armed asks for room for its record and
    /// its spare, and for at least a quarter of the ring. So a frame that waits counts only if the largest record fits and leaves half of
    /// the ring free, which is more than any of these.
    ///
    /// # Errors
    ///
    /// [`Error`] if the peer broke a rule of the shared state.
    #[inline]
    pub fn is_stuck(&mut self) -> Result<bool, Error> {
        if self.link.has_unpublished() {
            return Ok(true);
        }
        let may_send = |m: Option<(_, &Outgoing)>| m.is_some_and(|(_, m)| self.may_send(m));
        let waits = !self.control.frames.is_empty()
            || !self.notices.is_empty()
            || !self.loans.returns.is_empty()
            || may_send(self.events.waiting.front().map(|(_, m)| ((), m)))
            || self.small.fronts().any(|message| self.may_send(message))
            || self.flows.has_next(self.credit.left);
        let sender = &mut self.link.sender;
        Ok(waits && sender.has_room(sender.max_record(), sender.capacity() / 2)?)
    }

    /// The number of bytes that the peer still accepts.
    #[cfg(test)]
    pub const fn credit(&self, pool: Pool) -> u64 {
        self.credit.left.of(pool)
    }

    /// Sends what can be sent, with at most one chunk of flows. If `publish` is false, the caller has to publish it. If the ring is
    /// full, the peer will notify us.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    #[inline]
    pub fn pump(&mut self, publish: bool) -> Result<Pumped, Error> {
        self.pump_armed(publish, SHORT_PUMP)
    }

    /// As [`pump`](Self::pump), with many chunks of flows, for a caller that delays no other task.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    #[inline]
    pub fn pump_at_length(&mut self) -> Result<Pumped, Error> {
        self.pump_armed(true, LONG_PUMP)
    }

    fn pump_armed(&mut self, publish: bool, most: u64) -> Result<Pumped, Error> {
        loop {
            let pumped = self.pump_once(most);
            if publish || !matches!(pumped, Ok(Pumped::Done)) {
                self.publish()?;
            }
            // Everything must be published before we arm: the peer makes room only by reading what it sees.
            if !matches!(pumped, Ok(Pumped::Full)) || !self.link.arm()? {
                return pumped;
            }
        }
    }

    /// As [`pump`](Self::pump), without arming, for a caller that goes on to poll for room. If `alone`, no other task waits for the
    /// thread, and many chunks of flows are sent.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    #[inline]
    pub fn pump_awake(&mut self, alone: bool) -> Result<Pumped, Error> {
        let pumped = self.pump_once(if alone { LONG_PUMP } else { SHORT_PUMP });
        self.publish()?;
        pumped
    }

    /// Whether the ring was full at the last attempt, or the last pump paused.
    #[inline]
    pub const fn wants_room(&self) -> bool {
        self.pace.paused || self.link.wants_room()
    }

    /// Whether there is room for the frame that did not fit, or the last pump paused. The caller is awake, so the peer is no longer
    /// asked to notify us (O5).
    ///
    /// # Errors
    ///
    /// [`Error`] if the peer broke a rule of the shared state.
    #[inline]
    pub fn look_for_room(&mut self) -> Result<bool, Error> {
        Ok(self.pace.paused || self.link.look_for_room()?)
    }

    /// Publishes what was pumped.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    #[inline]
    pub fn publish(&mut self) -> Result<(), Error> {
        self.link.publish()
    }

    /// Lets the transport say whether it still works: that of a connection which a forked child has inherited does not.
    ///
    /// # Errors
    ///
    /// [`Error`] if the connection cannot go on.
    pub fn probe(&mut self) -> Result<(), Error> {
        Ok(self.link.sender.publish()?)
    }

    fn pump_once(&mut self, most: u64) -> Result<Pumped, Error> {
        let pumped = self.pump_lanes(most)?;
        self.pace.paused = pumped == Pumped::More;
        if pumped != Pumped::Full {
            // The frame that did not fit may have been withdrawn.
            self.link.want_nothing();
        }
        Ok(pumped)
    }

    fn pump_lanes(&mut self, most: u64) -> Result<Pumped, Error> {
        // Due credit is taken even if there is no room for its frame. Otherwise the driver would find it due again and again.
        if self.ledger.begin_taking() {
            for pool in Pool::ALL {
                self.credit.owed[pool as usize] += self.ledger.take_due(pool).unwrap_or_default();
            }
        }
        while let Some((header, payload)) = self.control.frames.front() {
            if !self.link.push(header, payload, 0)? {
                return Ok(Pumped::Full);
            }
            self.control.answers -= usize::from(answers_the_peer(header.kind));
            self.control.frames.pop_front();
        }
        for (kind, owed) in CREDIT_KINDS.into_iter().zip(&mut self.credit.owed) {
            if *owed > 0 && !self.control.closed {
                if !self.link.push(&Header::whole(kind, *owed, 0), &[], 0)? {
                    return Ok(Pumped::Full);
                }
                *owed = 0;
            }
        }
        while let Some((header, payload)) = self.notices.front() {
            if !self.link.push(&header, &payload, 0)? {
                return Ok(Pumped::Full);
            }
            self.notices.pop();
        }
        while let Some((loan, _)) = self.loans.returns.front() {
            if !self.link.push(&Header::whole(Kind::LoanReturn, *loan, 0), &[], 0)? {
                return Ok(Pumped::Full);
            }
            self.loans.returns.pop_front();
        }
        if !self.pump_small(Lane::Events)? || !self.pump_all_small()? {
            return Ok(Pumped::Full);
        }
        // Copying a chunk of a flow takes long, so the peer sees the small messages first.
        if !self.flows.is_empty() {
            self.publish()?;
        }
        let pumped = self.pump_flows(most)?;
        let empty =
            self.events.waiting.is_empty() && self.small.is_empty() && self.flows.is_empty();
        match pumped {
            Pumped::Done if empty => self.pump_goodbye(),
            Pumped::Done if !self.credit.told => self.tell_what_waits(),
            _ => Ok(pumped),
        }
    }

    /// Tells the peer if a response waits for credit, or an event, for which a response may wait: answers that the peer's callers have not
    /// taken may hold that credit. [wire.credit]
    fn tell_what_waits(&mut self) -> Result<Pumped, Error> {
        let event = self.events.waiting.front().map(|(_, message)| message);
        let small = self.small.0[Small::RESPONSES].front().map(|(_, message)| message);
        let fronts = [event, small].into_iter().flatten().filter(|message| !message.started);
        let needs = fronts.map(Outgoing::cost).chain(self.flows.need_of_waiting(Pool::Answers));
        let left = self.credit.left.of(Pool::Answers);
        let missing = needs.filter(|need| *need > left).min().map(|need| need - left);
        let Some(missing) = missing.filter(|_| !self.control.closed) else {
            return Ok(Pumped::Done);
        };
        if !self.link.push(&Header::whole(Kind::AnswerWaits, missing, 0), &[], 0)? {
            return Ok(Pumped::Full);
        }
        self.credit.told = true;
        Ok(Pumped::Done)
    }

    /// Sends the small messages. Returns `false` if the ring is full.
    fn pump_all_small(&mut self) -> Result<bool, Error> {
        self.release_held();
        for lane in [Small::RESPONSES, Small::NESTED, Small::OUTER] {
            if !self.small.0[lane].is_empty() && !self.pump_small(Lane::Small(lane))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends the small messages of a lane. Returns `false` if the ring is full.
    fn pump_small(&mut self, lane: Lane) -> Result<bool, Error> {
        let whole = self.whole_len();
        loop {
            let front = match lane {
                Lane::Events => self.events.waiting.values_mut().next(),
                Lane::Small(lane) => self.small.0[lane].values_mut().next(),
            };
            let Some(message) = front else {
                self.shrink(lane);
                return Ok(true);
            };
            let (kind, cost, footprint) = (message.kind, message.cost(), message.footprint());
            if !self.credit.left.covers(message) || message.started || !message.is_small(whole) {
                return Ok(true);
            }
            let taken = if message.paid { 0 } else { cost };
            if !self.link.push_all(message)? {
                return Ok(false);
            }
            if message.has_lent(true) {
                self.loans.out.add(&mut message.lent);
            }
            *self.credit.left.of_mut(kind.pool()) -= taken;
            self.queued.leave(kind, footprint);
            let sent = match lane {
                Lane::Events => self.events.waiting.pop_front().map(|(_, message)| message),
                Lane::Small(lane) => self.small.0[lane].pop_front().map(|(_, message)| message),
            };
            self.note_left(kind);
            fail_point::at(if lane == Lane::Events { "event.pushed" } else { "message.pushed" });
            buffers::give(sent.map(Outgoing::into_buffer).unwrap_or_default());
        }
    }

    /// Frees the entries of a lane that is empty and was long.
    fn shrink(&mut self, lane: Lane) {
        match lane {
            Lane::Events if self.events.waiting.capacity() > SPARE_ENTRIES => {
                self.events.waiting.shrink_to_fit();
            }
            Lane::Small(lane) if self.small.0[lane].capacity() > SPARE_ENTRIES => {
                self.small.0[lane].shrink_to_fit();
            }
            _ => {}
        }
    }

    /// Moves the responses that waited for an event to their lanes, if that event has been sent.
    fn release_held(&mut self) {
        while let Some(message) = self.flows.release(|event| has_left(&self.events.waiting, event))
        {
            self.sort_in(message);
        }
    }

    /// Sends flows in turn, a chunk each, until `most` bytes were sent. The first event takes turns with them if it is long.
    fn pump_flows(&mut self, most: u64) -> Result<Pumped, Error> {
        let mut sent = 0;
        let most = if self.pace.peer_is_near { LONG_PUMP } else { most };
        while sent < most {
            let before = sent;
            if self.has_long_event() {
                if let Some((number, mut message)) = self.events.waiting.pop_front() {
                    let chunk = self.send_chunk(&mut message)?;
                    if chunk.last {
                        self.has_been_sent(message);
                    } else {
                        self.events.waiting.insert(number, message);
                        self.events.waiting.to_front(&number);
                    }
                    if chunk.full {
                        return Ok(Pumped::Full);
                    }
                    sent += chunk.sent;
                    // The events behind it can go on, and so can the responses that waited for it.
                    if chunk.last && !(self.pump_small(Lane::Events)? && self.pump_all_small()?) {
                        return Ok(Pumped::Full);
                    }
                }
            }
            let mut next = self.flows.next(self.credit.left);
            while let Some((turn, flow)) = next.take() {
                let taken = self.take_turn(flow)?;
                sent += taken.sent;
                let Some(rest) = taken.rest else { break };
                if taken.full {
                    // The flow keeps its turn, and resumes it when there is room. If it went to the back instead, one of two flows
                    // could be interrupted every time.
                    self.flows.put(turn, rest);
                    return Ok(Pumped::Full);
                }
                // A message that has started needs nothing, so it goes on as long as nobody waits for a turn.
                let goes_on = matches!(rest, Flow::Message(_)) && self.flows.has_no_turns();
                if goes_on && sent < most && !self.has_long_event() {
                    next = Some((turn, rest));
                } else {
                    self.flows.put_last(rest);
                }
            }
            if sent == before {
                return Ok(Pumped::Done);
            }
        }
        let more = self.has_long_event() || self.flows.has_next(self.credit.left);
        Ok(if more { Pumped::More } else { Pumped::Done })
    }

    /// Whether the first event is a long one that can be sent now.
    fn has_long_event(&self) -> bool {
        self.events.waiting.front().is_some_and(|(_, message)| self.may_send(message))
    }

    /// Whether the next chunk of this message may be sent: it has started, or credit covers all of it (O3) and it may start (O4).
    fn may_send(&self, message: &Outgoing) -> bool {
        let whole = message.is_one_chunk(self.whole_len());
        let may_start = whole || self.flows.chunked.started < self.flows.chunked.most;
        message.started || (self.credit.left.covers(message) && may_start)
    }

    /// Sends one chunk. After the last one, the caller calls [`has_been_sent`](Self::has_been_sent).
    fn send_chunk(&mut self, message: &mut Outgoing) -> Result<Chunk, Error> {
        // Whether to leave half of the ring free (O2). A small message need not, even if it was held back; a small item of a stream
        // must.
        let in_turn = message.kind.is_of_stream() || !message.is_small(self.whole_len());
        let chunk = (message.section_len() / CHUNKS).clamp(self.whole_len(), self.chunk_len());
        let spare = if in_turn { self.link.sender.capacity() / 2 } else { 0 };
        let (header, payload) = message.chunk(chunk);
        let len = payload.len();
        if !self.link.push(&header, payload, spare)? {
            return Ok(Chunk { sent: 0, full: true, last: false });
        }
        fail_point::at("chunk.pushed");
        if len == chunk && !self.pace.peer_is_near {
            self.link.publish()?;
        }
        if !message.started {
            self.credit.left.spend(message);
            self.flows.chunked.started += 1;
        }
        let last = message.advance(len);
        if message.has_lent(last) {
            self.loans.out.add(&mut message.lent);
        }
        Ok(Chunk { sent: len_u64(len), full: false, last })
    }

    /// The last chunk of this message has been sent.
    fn has_been_sent(&mut self, message: Outgoing) {
        self.flows.chunked.started -= 1;
        self.queued.leave(message.kind, message.footprint());
        self.note_left(message.kind);
        buffers::give(message.into_buffer());
    }

    /// Sends the goodbye, the last frame of this side. [wire.goodbye]
    fn pump_goodbye(&mut self) -> Result<Pumped, Error> {
        let Some(reason) = &self.control.goodbye else { return Ok(Pumped::Done) };
        let reason = &reason[..reason.len().min(self.chunk_len())];
        let header = Header::whole(Kind::Goodbye, 0, u32::try_from(reason.len()).unwrap_or(0));
        if !self.link.push(&header, reason, 0)? {
            return Ok(Pumped::Full);
        }
        self.control.goodbye = None;
        fail_point::at("goodbye.pushed");
        Ok(Pumped::Done)
    }

    /// The largest payload of a chunk on this transport.
    fn chunk_len(&self) -> usize {
        let overhead = self.link.overhead() + HEADER_LEN;
        self.link.sender.max_record().saturating_sub(overhead).min(MAX_CHUNK)
    }

    /// The largest payload that is sent as one chunk.
    fn whole_len(&self) -> usize {
        self.chunk_len().min(MAX_WHOLE)
    }
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// The bytes that were sent.
    sent: u64,
    /// The ring was full.
    full: bool,
    /// It was the last of its message.
    last: bool,
}

/// The lanes of small messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Events,
    Small(usize),
}

/// Whether this event was sent. Events are sent in order, so every event before it was sent, too.
fn has_left(events: &LinkedHashMap<u64, Outgoing>, event: u64) -> bool {
    events.front().is_none_or(|(first, _)| *first > event)
}

/// Whether frames of this kind answer the peer, and count towards [`MAX_ANSWERS`].
const fn answers_the_peer(kind: Kind) -> bool {
    matches!(kind, Kind::Pong | Kind::EventEnd | Kind::AbortResponse)
}
