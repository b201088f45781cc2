//! A connection: the two halves of an open session, the calls in flight, and who may touch what.
//!
//! Everything here is a bounded step without an await; the one task that sleeps is the [driver](crate::driver). The
//! receiving half is drained by whoever has a reason to: a caller that waits for its answer (it *leads* for the length
//! of one poll), or the driver. Nobody holds that role between polls.
//!
//! # Locks
//!
//! `receiving`, then `feeds` or `sinks`, then an event's own, then `outbound`, then `pending` or `streams`; `served` is
//! taken with none of them held. A lock is held for one
//! bounded step; the longest is a leader's polling (see [`poller`](crate::poller)), during which others do not wait
//! but leave.
//!
//! # Invariants
//!
//! - **C1** Of the receiving half: see [`reception`](crate::reception).
//! - **C2** A caller's waker is in the table before its request can be answered, or the caller looks for the answer once more
//!   after it has left it there.

mod closing;
mod events;
mod handling;
mod receiving;
mod streams;

pub(crate) use receiving::Turn;

use std::any::Any;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;

use tokio::runtime::Handle;
use tokio::sync::{AcquireError, Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::authorization::Identity;
use crate::buffers;
use crate::callee::PeerCallee;
use crate::context::Peer;
use crate::error::{CloseReason, Error};
use crate::event::Registration;
use crate::exchange::{Opened, Rest};
use crate::fail_point;
use crate::feed::{Feed, Feeds};
use crate::frame::Kind;
use crate::handshake::{Catalog, Route};
use crate::inbound::Inbound;
use crate::ledger::Ledger;
use crate::message::Content;
use crate::options::Limits;
use crate::outbound::{Outbound, Outgoing, Pumped, TooManyStreams, Withdrawn};
use crate::pending::{Answer, CallId, Pending};
use crate::poller::Poller;
use crate::reception::Reception;
use crate::serializer::Codec;
use crate::served::Served;
use crate::service::{ServiceDescriptor, Status};
use crate::sink::{RemoteSink, Window};
use crate::wire::{u32_len, u64_len};

use self::handling::Brought;
use self::streams::Streams;

/// The receiving half, and how its two kinds of visitor poll it.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) inbound: Inbound,
    pub(crate) caller: Poller,
    pub(crate) driver: Poller,
    /// What the last caller polled for came in several frames.
    pub(crate) answers_in_parts: bool,
}

/// Calls in flight from which on others are likely to begin at once.
const CROWD: usize = 8;

/// A connection to a peer.
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    /// Who the peer is, if a validator said.
    pub(crate) identity: Option<Identity>,
    pub(crate) peer_limits: Limits,
    /// Bytes in the sending queue beyond which nothing is done that would add to it.
    queue_bound: u64,
    /// Rung when the sending queue is within its bound again after a step, for handlers that have not begun.
    room: Notify,
    pub(crate) codec: Codec,
    pub(crate) runtime: Handle,
    pub(crate) served: Served,
    receiving: Reception<Receiving>,
    /// Whether the peer ran on our CPU when a caller or the driver last had to wait.
    peer_on_our_cpu: AtomicBool,
    /// `None` once the connection has ended.
    outbound: Mutex<Option<Outbound>>,
    /// Whether something did not fit into the ring, for those who poll; changed under `outbound` only.
    wants_room: AtomicBool,
    /// Whether more than `queue_bound` waits to be sent; changed under `outbound` only.
    backed_up: AtomicBool,
    ledger: Arc<Ledger>,
    pending: Mutex<Pending>,
    /// A task whose calls were answered so fast that it was made to let others run. Whoever calls next, and is another, does
    /// not poll for its answer: there may be more of them, whose calls could all be under way. Taken last of all.
    yielded: Mutex<Option<Waker>>,
    /// Whether there is one.
    has_yielded: AtomicBool,
    closed: OnceLock<CloseReason>,
    catalog: Catalog,
    routes: Routes,
    /// Where callers wait for one of the places for calls in flight; free ones that nobody waits for are in `pending`.
    calls: Arc<Semaphore>,
    /// Ourselves, for what outlives a borrow.
    this: Weak<Self>,
    /// Whether values of events wait for room in the sending queue.
    held_back: AtomicBool,
    /// Our subscriptions at the peer.
    feeds: Mutex<Feeds>,
    /// Whether they wait for another connection when this one is lost.
    keep_feeds: bool,
    /// The peer's subscriptions here.
    sinks: Mutex<HashMap<u32, (Arc<RemoteSink>, Registration)>>,
    /// How far the peer may run ahead of our subscribers.
    window: Window,
    /// Streams, in both directions. Taken last of all; nothing is done under it but a look at the table.
    streams: Mutex<Streams>,
    /// Streams of the peer's that were dropped here, and of which it has not been told. Taken with any lock held.
    unread: Mutex<Vec<u64>>,
    /// Whether there are such. Whoever sets it wakes the driver afterwards, which so sees it.
    has_unread: AtomicBool,
    /// Our bound on what waits to be sent: a permit per byte of a message that is not small, and of a stream's items.
    bytes: Arc<Semaphore>,
    /// How many permits that has.
    queue_len: u32,
    clock: fn() -> u64,
    clock_offset: u64,
    lease: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    /// Becomes true when everything has been taken down.
    ended: watch::Sender<bool>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Contracts that have been looked up in the catalog: a list that only grows, so that looking takes no lock.
#[derive(Default)]
struct Routes(OnceLock<Box<KnownRoute>>);

struct KnownRoute {
    contract: &'static ServiceDescriptor,
    route: Result<Route, Error>,
    next: Routes,
}

impl Routes {
    /// The contract's route, which `resolve` finds if this is the first look.
    fn find(
        &self,
        contract: &'static ServiceDescriptor,
        resolve: impl Fn(&ServiceDescriptor) -> Result<Route, Error>,
    ) -> &Result<Route, Error> {
        let mut routes = self;
        loop {
            let known = routes.0.get_or_init(|| {
                let (route, next) = (resolve(contract), Self::default());
                Box::new(KnownRoute { contract, route, next })
            });
            if std::ptr::eq(known.contract, contract) {
                return &known.route;
            }
            routes = &known.next;
        }
    }
}

impl Connection {
    /// A connection over an open session. The caller spawns its driver.
    pub(crate) fn new(
        opened: Opened,
        rest: Rest,
        limits: Limits,
        codec: Codec,
        served: Served,
        keep_feeds: bool,
    ) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let receiving = Receiving {
            inbound: opened.inbound,
            caller: Poller::new(rest.wait_strategy),
            driver: Poller::new(rest.wait_strategy),
            answers_in_parts: false,
        };
        let bytes = u64_len(limits.max_buffered).min(Semaphore::MAX_PERMITS);
        // Relaxed: only uniqueness matters.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let callee = |this: &Weak<Self>| PeerCallee {
            connection: Weak::clone(this),
            codec: codec.clone(),
            max_buffered: limits.max_buffered,
        };
        Arc::new_cyclic(|this| Self {
            peer: Peer::new(id, rest.peer_process_id, Arc::new(callee(this))),
            identity: opened.identity,
            peer_limits: opened.peer_limits,
            // The peer's limit is no bound on what we hold: it may announce any.
            queue_bound: limits.max_buffered.min(opened.peer_limits.max_buffered),
            room: Notify::new(),
            codec: codec.clone(),
            runtime: Handle::current(),
            served,
            receiving: Reception::new(receiving, Arc::clone(&opened.ledger)),
            peer_on_our_cpu: AtomicBool::new(false),
            outbound: Mutex::new(Some(opened.outbound)),
            wants_room: AtomicBool::new(false),
            backed_up: AtomicBool::new(false),
            ledger: Arc::clone(&opened.ledger),
            pending: Mutex::new(Pending::new(u32_len(opened.peer_limits.max_in_flight))),
            yielded: Mutex::new(None),
            has_yielded: AtomicBool::new(false),
            closed: OnceLock::new(),
            catalog: opened.peer_catalog,
            routes: Routes::default(),
            calls: Arc::new(Semaphore::new(0)),
            this: Weak::clone(this),
            held_back: AtomicBool::new(false),
            feeds: Mutex::new(Feeds::default()),
            keep_feeds,
            sinks: Mutex::new(HashMap::new()),
            window: Feed::window(limits.max_buffered),
            streams: Mutex::new(Streams::new(limits.max_buffered)),
            unread: Mutex::default(),
            has_unread: AtomicBool::new(false),
            bytes: Arc::new(Semaphore::new(bytes)),
            queue_len: u32::try_from(bytes).unwrap_or(u32::MAX),
            clock: rest.clock,
            clock_offset: opened.clock_offset,
            lease: Mutex::new(Some(rest.lease)),
            ended: watch::Sender::new(false),
        })
    }

    /// Leaves word for the driver that there is something to do, and wakes it.
    pub(crate) fn wake_driver(&self) {
        self.receiving.wake_driver();
    }

    /// Waits for a place among the calls in flight.
    ///
    /// # Errors
    ///
    /// The connection has ended.
    pub(crate) async fn wait_for_place(&self) -> Result<OwnedSemaphorePermit, AcquireError> {
        struct InQueue<'a>(&'a Connection);
        impl Drop for InQueue<'_> {
            fn drop(&mut self) {
                lock(&self.0.pending).leave_queue();
            }
        }
        let free = lock(&self.pending).join_queue();
        let _queued = InQueue(self);
        if free {
            self.calls.add_permits(1);
        }
        Arc::clone(&self.calls).acquire_owned().await
    }

    /// Gives a place among the calls in flight back.
    fn give_place(&self, mut pending: MutexGuard<'_, Pending>) {
        let wanted = pending.give_place();
        drop(pending);
        if wanted {
            self.calls.add_permits(1);
        }
    }

    pub(crate) const fn bytes(&self) -> &Arc<Semaphore> {
        &self.bytes
    }

    /// The most permits that [`bytes`](Self::bytes) can give at once.
    pub(crate) const fn queue_len(&self) -> u32 {
        self.queue_len
    }

    /// Our clock, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        (self.clock)()
    }

    /// A time of our clock as the peer's clock shows it; never 0, which means none.
    pub(crate) fn on_peer_clock(&self, time: u64) -> u64 {
        time.wrapping_add(self.clock_offset).max(1)
    }

    /// Why it ended, if it has.
    pub(crate) fn closed(&self) -> Option<&CloseReason> {
        self.closed.get()
    }

    /// Where the peer has this contract's method.
    pub(crate) fn route(
        &self,
        descriptor: &'static ServiceDescriptor,
        method: usize,
    ) -> Result<(u16, u16), Error> {
        self.with_route(descriptor, |route| Ok((route.service, route.methods[method].clone()?)))
    }

    /// Where the peer has a method of these names.
    #[cfg(feature = "json")]
    pub(crate) fn route_by_name(&self, service: &str, method: &str) -> Result<(u16, u16), Error> {
        self.catalog.find_by_name(service, method)
    }

    /// Looks a contract up in the peer's catalog, once.
    fn with_route<T>(
        &self,
        descriptor: &'static ServiceDescriptor,
        found: impl FnOnce(&Route) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match self.routes.find(descriptor, |contract| self.catalog.resolve(contract)) {
            Ok(route) => found(route),
            Err(error) => Err(error.clone()),
        }
    }

    /// Takes a slot for a call, sends its request, and looks for the answer, which it puts there if it has come; else it wakes
    /// `waker` later. Takes the content, unless the call has to wait for its turn.
    pub(crate) fn begin_call(
        &self,
        content: &mut Content,
        route: (u16, u16),
        deadline: u64,
        turn: Option<Permits>,
        waker: &Waker,
        found: &mut Option<Answer>,
    ) -> Result<CallId, BeginError> {
        let mut pending = lock(&self.pending);
        if turn.is_none() && pending.is_open() && !pending.take_place() {
            return Err(BeginError::NotYet);
        }
        let alone = pending.len() == 0 && !self.another_yielded(waker);
        // A peer that shares our CPU, and is woken for the first request, would run before those who are about to send more.
        let in_crowd = pending.len() >= CROWD && self.peer_is_on_our_cpu();
        let id = pending.insert((!alone).then(|| waker.clone())).map_err(BeginError::Closed)?;
        drop(pending);
        let permit = turn.and_then(|Permits { call, bytes }| {
            call.forget();
            bytes
        });
        fail_point::at("call.begun");
        let fields = (route.0, route.1, deadline);
        let mut brought = Brought::default();
        if content.has_streams() {
            self.send_streaming(id, std::mem::take(content), fields, permit)?;
            self.lead_for_answer(id, alone, None::<fn()>, &mut brought);
        } else {
            let send = || {
                self.with_outbound(|outbound| {
                    if outbound.push_through(Kind::Request, id.0, content, fields)? {
                        if in_crowd {
                            self.receiving.leave_unpublished();
                        } else {
                            outbound.publish()?;
                        }
                        buffers::give(std::mem::take(content).into_buffer());
                        return Ok(false);
                    }
                    let content = std::mem::take(content);
                    outbound.push(Outgoing::new(Kind::Request, id.0, content, fields, permit));
                    let pumped =
                        if alone { outbound.pump_at_length() } else { outbound.pump(true) };
                    self.after_pump(pumped)
                });
            };
            self.lead_for_answer(id, alone, Some(send), &mut brought);
        }
        *found = brought.answer;
        if alone && found.is_none() {
            // Its waker is not in the table: somebody else may have taken the answer (C2).
            *found = lock(&self.pending).poll(id, waker).transpose().map_err(BeginError::Failed)?;
        }
        Ok(id)
    }

    /// Whether requests wait in the ring for the driver to publish them.
    pub(crate) fn has_unpublished(&self) -> bool {
        self.receiving.has_unpublished()
    }

    /// The driver is about to publish.
    pub(crate) fn take_unpublished(&self) {
        self.receiving.take_unpublished();
    }

    /// Sends a request that has streams, and sees to these.
    fn send_streaming(
        &self,
        id: CallId,
        mut content: Content,
        fields: (u16, u16, u64),
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), BeginError> {
        let mut opened = Ok(Vec::new());
        self.with_outbound(|outbound| {
            opened = self.announce_streams(outbound, &mut content);
            if opened.is_ok() {
                outbound.push(Outgoing::new(Kind::Request, id.0, content, fields, permit));
            }
            let pumped = outbound.pump(true);
            self.after_pump(pumped)
        });
        match opened {
            Ok(opened) => {
                self.start_streams(opened, false);
                Ok(())
            }
            Err(TooManyStreams) => {
                let mut pending = lock(&self.pending);
                drop(pending.abandon(id, true));
                self.give_place(pending);
                Err(BeginError::TooManyStreams)
            }
        }
    }

    /// The task of this waker has called again and again, and lets others run.
    pub(crate) fn has_yielded(&self, waker: &Waker) {
        *lock(&self.yielded) = Some(waker.clone());
        // Relaxed, here and below: it is only a reason to take the lock.
        self.has_yielded.store(true, Ordering::Relaxed);
    }

    /// Whether another task than this waker's has just let others run.
    fn another_yielded(&self, waker: &Waker) -> bool {
        if !self.has_yielded.load(Ordering::Relaxed) {
            return false;
        }
        self.has_yielded.store(false, Ordering::Relaxed);
        lock(&self.yielded).take().is_some_and(|yielded| !yielded.will_wake(waker))
    }

    /// Sends a ping whose pong completes the returned call.
    pub(crate) fn begin_ping(&self, waker: &Waker) -> Result<CallId, Error> {
        let id = lock(&self.pending).insert(Some(waker.clone()));
        let id = id.map_err(|reason| Error::Closed { reason, maybe_executed: false })?;
        self.send(|outbound| outbound.push_control(Kind::Ping, id.0));
        Ok(id)
    }

    /// Sends the answer to a request of the peer, not before an event that its handler raised has left. `publish` can
    /// wait if more will follow at once.
    pub(crate) fn respond(
        &self,
        id: u64,
        status: Status,
        mut content: Content,
        after_event: u64,
        publish: bool,
    ) {
        let mut opened = Vec::new();
        let (mut status, mut refused) = (status, None);
        let fields = (status.code(), 0, 0);
        self.with_outbound(|outbound| {
            // Where nothing waits, `after_event` has left too.
            if outbound.push_through(Kind::Response, id, &mut content, fields)? {
                buffers::give(std::mem::take(&mut content).into_buffer());
                if publish {
                    outbound.publish()?;
                }
                return Ok(false);
            }
            match self.announce_streams(outbound, &mut content) {
                Ok(added) => opened = added,
                Err(error) => {
                    status = Status::BadResult;
                    let reason = Content::plain(buffers::take(), error.to_string().as_bytes());
                    refused = Some(std::mem::replace(&mut content, reason));
                }
            }
            let content = std::mem::take(&mut content);
            let response = Outgoing::new(Kind::Response, id, content, (status.code(), 0, 0), None);
            outbound.push(response.after_event(after_event));
            let pumped = outbound.pump(publish);
            self.after_pump(pumped)
        });
        // The user's streams are dropped with no lock held.
        drop(refused);
        self.start_streams(opened, true);
    }

    /// Sends what waits, after room, credit, or something to say has come; returns whether to call again soon. If there is
    /// no room, the peer wakes us.
    pub(crate) fn pump(&self) -> bool {
        self.pump_with(|outbound| outbound.pump(true))
    }

    /// The same for who will [look for room](Self::has_room_again), and [`pump`](Self::pump) before it rests; and who keeps
    /// nobody waiting if it is `alone`.
    pub(crate) fn pump_awake(&self, alone: bool) -> bool {
        self.pump_with(|outbound| outbound.pump_awake(alone))
    }

    /// Whether a caller on this side was woken for its answer, and has not had its turn yet.
    pub(crate) fn has_untaken(&self) -> bool {
        lock(&self.pending).has_untaken()
    }

    fn pump_with(&self, pump: impl FnOnce(&mut Outbound) -> Result<Pumped, Error>) -> bool {
        self.with_outbound(|outbound| {
            self.cancel_unread(outbound);
            if outbound.is_clear() {
                return outbound.publish().map(|()| false);
            }
            Ok(pump(outbound)? == Pumped::More)
        })
    }

    /// Makes answers visible that were queued and sent without.
    fn publish(&self) {
        self.with_outbound(|outbound| outbound.publish().map(|()| false));
    }

    /// Whether something waits for room in the ring. A look from outside the lock, for who comes by again.
    pub(crate) fn wants_room(&self) -> bool {
        // Relaxed: it is only a reason to take the lock, or not yet.
        self.wants_room.load(Ordering::Relaxed)
    }

    /// Whether something waits for room in the ring, and there is some; for who polls. Whoever holds the sending half looks
    /// for itself.
    pub(crate) fn has_room_again(&self) -> Result<bool, Error> {
        if !self.wants_room() {
            return Ok(false);
        }
        let Ok(mut guard) = self.outbound.try_lock() else { return Ok(false) };
        guard.as_mut().map_or(Ok(false), Outbound::look_for_room)
    }

    /// The caller of `id` is gone: takes its request back or cancels it at the peer.
    pub(crate) fn abandon(&self, id: CallId) {
        let (mut unsent, mut streams) = (false, 0..0);
        self.send(|outbound| {
            let withdrawn;
            (withdrawn, streams) = outbound.withdraw_request(id)?;
            match withdrawn {
                Withdrawn::Unsent => unsent = true,
                Withdrawn::Partly => {}
                Withdrawn::Sent => outbound.push_control(Kind::Cancel, id.0)?,
            }
            Ok(())
        });
        self.withdraw_streams(streams);
        let mut pending = lock(&self.pending);
        let answer = pending.abandon(id, unsent);
        if unsent {
            self.give_place(pending);
        } else {
            drop(pending);
        }
        drop(answer);
    }

    /// A ping that nobody waits for any more.
    pub(crate) fn abandon_ping(&self, id: CallId) {
        drop(lock(&self.pending).abandon(id, false));
    }

    /// Queues something and sends what can be sent.
    fn send(&self, queue: impl FnOnce(&mut Outbound) -> Result<(), Error>) {
        self.with_outbound(|outbound| {
            queue(outbound)?;
            let pumped = outbound.pump(true);
            self.after_pump(pumped)
        });
    }

    fn after_pump(&self, pumped: Result<Pumped, Error>) -> Result<bool, Error> {
        let more = pumped? == Pumped::More;
        if more {
            self.wake_driver();
        }
        Ok(more)
    }

    /// Runs a step on the sending half; an error ends the connection.
    fn with_outbound(&self, step: impl FnOnce(&mut Outbound) -> Result<bool, Error>) -> bool {
        let mut guard = lock(&self.outbound);
        let Some(outbound) = guard.as_mut() else { return false };
        outbound.set_peer_near(self.peer_is_on_our_cpu());
        match step(outbound) {
            Ok(more) => {
                if outbound.wants_room() != self.wants_room() {
                    self.wants_room.store(outbound.wants_room(), Ordering::Relaxed);
                }
                let backed_up = outbound.backlog() > self.queue_bound;
                if backed_up != self.is_backed_up() {
                    // In this order: whoever is woken looks again.
                    self.backed_up.store(backed_up, Ordering::SeqCst);
                    if !backed_up {
                        self.room.notify_waiters();
                        // Whoever made the room: only the driver serves what was put aside, and resumes events.
                        self.wake_driver();
                    }
                }
                more
            }
            Err(error) => {
                drop(guard);
                self.fail(&error);
                false
            }
        }
    }

    /// Whether so much waits to be sent that what would add to it has to wait, too. Streams do not count: they have
    /// bounds of their own, and hold up nobody.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.backed_up.load(Ordering::SeqCst)
    }

    /// Waits until it is not [backed up](Self::is_backed_up).
    pub(crate) async fn room(&self) {
        loop {
            let mut room = pin!(self.room.notified());
            // Counted among the waiters before the look, so that room that is made in between is not missed.
            room.as_mut().enable();
            if !self.is_backed_up() {
                return;
            }
            room.await;
        }
    }

    /// Answers that wait to be sent.
    pub(crate) fn unsent_responses(&self) -> usize {
        self.ledger.unsent_responses()
    }

    /// Work for a driver that sleeps, which it should have been woken for; see [`rescue`](crate::rescue). Looks only.
    pub(crate) fn overlooked(&self) -> Option<&'static str> {
        let unsent = || self.outbound.try_lock().ok()?.as_mut()?.is_stuck().ok();
        let held = || self.served.has_deferred() || self.held_back.load(Ordering::SeqCst);
        if self.receiving.has_word() || self.has_unpublished() {
            Some("word from this side")
        } else if self.receiving.has_unread() {
            Some("a frame to be read")
        } else if unsent() == Some(true) {
            Some("room for what waits to be sent")
        } else {
            (held() && !self.is_backed_up()).then_some("what was put aside for want of room")
        }
    }

    /// What is under way; for tests and gauges.
    pub(crate) fn load(&self) -> Load {
        // One lock at a time: within one expression they would all be held to its end, in an order of their own.
        let calls = lock(&self.pending).len();
        let partial_count = |r: &Receiving| r.inbound.partial_count();
        let partial_messages = self.receiving.look(partial_count).unwrap_or(0);
        let own = lock(&self.feeds).len();
        let subscriptions = own + lock(&self.sinks).len();
        let read = lock(&self.streams).inlet_count();
        let sending = |o: &Outbound| (o.open_stream_count(), o.queued());
        let (written, queued_bytes) = lock(&self.outbound).as_ref().map_or((0, 0), sending);
        let (handlers, streams) = (self.served.len(), read + written);
        Load { calls, partial_messages, handlers, subscriptions, streams, queued_bytes }
    }
}

/// A place among the calls in flight, and, for a large message, one in the sending queue.
#[derive(Debug)]
pub(crate) struct Permits {
    pub(crate) call: OwnedSemaphorePermit,
    pub(crate) bytes: Option<OwnedSemaphorePermit>,
}

/// Why a call could not begin.
#[derive(Debug)]
pub(crate) enum BeginError {
    /// There are as many in flight as the peer takes; it has to wait for its turn.
    NotYet,
    Closed(CloseReason),
    /// It has failed already.
    Failed(Error),
    /// Its arguments have more streams than may be open.
    TooManyStreams,
}

/// What a connection is holding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// Calls of this side that the peer has not answered, cancelled ones that it has not acknowledged included.
    pub calls: usize,
    /// Messages of which only a part has arrived.
    pub partial_messages: usize,
    /// Requests of the peer that are being handled or wait for it.
    pub handlers: usize,
    /// Subscriptions, of this side and of the peer.
    pub subscriptions: usize,
    /// Streams that have not ended, of this side and of the peer.
    pub streams: usize,
    /// Bytes that wait to be sent, with a constant per message.
    pub queued_bytes: u64,
}

/// Locks; a panic elsewhere has left the protected state whole, because no step panics half-way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
