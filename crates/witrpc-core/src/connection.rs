//! A connection: the two halves of an open session, the calls in flight, and who may touch what.
//!
//! Everything here is a bounded step without an await; the one task that sleeps is the [driver](crate::driver). The
//! receiving half is drained by whoever has a reason to: a caller that waits for its answer (it *leads* for the length
//! of one poll), or the driver. Nobody holds that role between polls.
//!
//! # Locks
//!
//! `receiving`, then `feeds` or `sinks`, then an event's own, then `outbound`, then `pending`; `served` is taken with
//! none of them held. A lock is held for one
//! bounded step; the longest is a leader's polling (see [`poller`](crate::poller)), during which others do not wait
//! but leave.
//!
//! # Invariants
//!
//! - **C1** Whoever leaves the receiving half leaves it armed and empty, or has woken the driver; and the driver arms it
//!   once more, waiting for the lock, before it sleeps. So there is always somebody whom the next frame reaches.
//! - **C2** A caller's waker is in the table before its request can be answered, and before it leaves.

mod events;

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::authorization::Identity;
use crate::context::Peer;
use crate::error::{CloseReason, Error};
use crate::event::Registration;
use crate::exchange::{Opened, Rest};
use crate::feed::{self, Feed, Feeds};
use crate::frame::Kind;
use crate::handshake::{Catalog, Route};
use crate::inbound::{Inbound, Incoming};
use crate::ledger::{Charge, Ledger};
use crate::message::{Content, Head};
use crate::options::Limits;
use crate::outbound::{Outbound, Outgoing, Pumped, Withdrawn};
use crate::pending::{Answer, CallId, Completed, Pending};
use crate::poller::Poller;
use crate::serializer::Codec;
use crate::served::{Job, Served};
use crate::service::{ServiceDescriptor, Status};
use crate::sink::{RemoteSink, Window};
use crate::wire::u32_len;

/// Frames that are taken in one step, so that whoever takes them gets on.
const LEAD_FRAMES: usize = 64;
/// Looks at the ring between two looks at the clock, while polling.
const LOOKS_PER_CLOCK: u32 = 16;

/// The receiving half, and how its two kinds of visitor poll it.
#[derive(Debug)]
pub(crate) struct Receiving {
    pub(crate) inbound: Inbound,
    pub(crate) caller: Poller,
    pub(crate) driver: Poller,
}

/// A connection to a peer.
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    /// Who the peer is, if a validator said.
    pub(crate) identity: Option<Identity>,
    pub(crate) peer_limits: Limits,
    pub(crate) codec: Codec,
    pub(crate) runtime: Handle,
    pub(crate) served: Served,
    /// `None` once the connection has ended.
    receiving: Mutex<Option<Receiving>>,
    /// `None` once the connection has ended.
    outbound: Mutex<Option<Outbound>>,
    pending: Mutex<Pending>,
    ledger: Arc<Ledger>,
    closed: OnceLock<CloseReason>,
    catalog: Catalog,
    /// Contracts that have been looked up in the catalog, by address.
    routes: RwLock<Routes>,
    /// The peer's in-flight limit: a permit per unanswered call.
    calls: Arc<Semaphore>,
    /// Ourselves, for what outlives a borrow.
    this: Weak<Self>,
    /// Our subscriptions at the peer.
    feeds: Mutex<Feeds>,
    /// The peer's subscriptions here.
    sinks: Mutex<HashMap<u32, (Arc<RemoteSink>, Registration)>>,
    /// How far the peer may run ahead of our subscribers.
    window: Window,
    /// Our bound on what waits to be sent: a permit per byte of a message that is not small.
    bytes: Arc<Semaphore>,
    clock: fn() -> u64,
    clock_offset: u64,
    lease: Mutex<Option<Box<dyn Any + Send + Sync>>>,
    /// Word for the driver, in case it was not asleep when it was woken.
    kicked: AtomicBool,
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

/// Contracts by the address of their descriptor.
type Routes = Vec<(usize, Arc<Result<Route, Error>>)>;

/// What a drained frame asks of whoever drained it.
enum Handled {
    /// The answer that the leader waits for.
    Mine(Answer),
    /// A request to be served.
    Serve(Job),
    /// Another caller was woken.
    Woke,
    Nothing,
}

/// How a turn of the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more is there now.
    Empty,
    /// There may be more; others had to get their turn.
    More,
    /// A caller is leading; it wakes the driver, or leaves everything done (C1).
    Led,
}

impl Connection {
    /// A connection over an open session. The caller spawns its driver.
    pub(crate) fn new(
        opened: Opened,
        rest: Rest,
        limits: Limits,
        codec: Codec,
        served: Served,
    ) -> Arc<Self> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let receiving = Receiving {
            inbound: opened.inbound,
            caller: Poller::new(rest.wait_strategy),
            driver: Poller::new(rest.wait_strategy),
        };
        let bytes = usize::try_from(limits.max_buffered).unwrap_or(usize::MAX);
        Arc::new_cyclic(|this| Self {
            // Relaxed: only uniqueness matters.
            peer: Peer::new(NEXT_ID.fetch_add(1, Ordering::Relaxed), rest.peer_process_id),
            identity: opened.identity,
            peer_limits: opened.peer_limits,
            codec,
            runtime: Handle::current(),
            served,
            receiving: Mutex::new(Some(receiving)),
            outbound: Mutex::new(Some(opened.outbound)),
            pending: Mutex::new(Pending::default()),
            ledger: opened.ledger,
            closed: OnceLock::new(),
            catalog: opened.peer_catalog,
            routes: RwLock::new(Vec::new()),
            calls: Arc::new(Semaphore::new(
                u32_len(opened.peer_limits.max_in_flight).min(Semaphore::MAX_PERMITS),
            )),
            this: Weak::clone(this),
            feeds: Mutex::new(Feeds::default()),
            sinks: Mutex::new(HashMap::new()),
            window: Feed::window(limits.max_buffered),
            bytes: Arc::new(Semaphore::new(bytes.min(Semaphore::MAX_PERMITS))),
            clock: rest.clock,
            clock_offset: opened.clock_offset,
            lease: Mutex::new(Some(rest.lease)),
            kicked: AtomicBool::new(false),
            ended: watch::Sender::new(false),
        })
    }

    /// Leaves word for the driver that there is something to do, and wakes it.
    pub(crate) fn wake_driver(&self) {
        // Release: pairs with the swap in `register_driver`; what is to be done was done before.
        self.kicked.store(true, Ordering::Release);
        self.ledger.driver().wake();
    }

    /// Makes `waker` the driver's, and returns whether there is work already: word that was left before, credit to
    /// give back, or frames. From here on every one of these wakes it, or finds the peer armed.
    pub(crate) fn register_driver(&self, waker: &Waker) -> Result<bool, Error> {
        self.ledger.driver().register(waker);
        let kicked = self.kicked.swap(false, Ordering::AcqRel);
        Ok(self.arm()? || kicked || self.ledger.is_due())
    }

    pub(crate) const fn calls(&self) -> &Arc<Semaphore> {
        &self.calls
    }

    pub(crate) const fn bytes(&self) -> &Arc<Semaphore> {
        &self.bytes
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
        let address = std::ptr::from_ref(descriptor).addr();
        let find = |routes: &Routes| {
            routes.iter().find(|(at, _)| *at == address).map(|(_, route)| Arc::clone(route))
        };
        let known = find(&self.routes.read().unwrap_or_else(PoisonError::into_inner));
        let route = known.unwrap_or_else(|| {
            let route = Arc::new(self.catalog.resolve(descriptor));
            let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
            if find(&routes).is_none() {
                routes.push((address, Arc::clone(&route)));
            }
            route
        });
        match &*route {
            Ok(route) => found(route),
            Err(error) => Err(error.clone()),
        }
    }

    /// Takes a slot for a call, sends its request, and leaves its caller's waker in the table (C2).
    pub(crate) fn begin_call(
        &self,
        content: Content,
        route: (u16, u16),
        deadline: u64,
        permit: Option<OwnedSemaphorePermit>,
        waker: &Waker,
    ) -> Result<CallId, Error> {
        let id = lock(&self.pending).insert(waker.clone());
        let id = id.map_err(|reason| Error::Closed { reason, maybe_executed: false })?;
        let request =
            Outgoing::new(Kind::Request, id.0, content, (route.0, route.1, deadline), permit);
        self.send(|outbound| {
            outbound.push(request);
            Ok(())
        });
        Ok(id)
    }

    /// Sends a ping whose pong completes the returned call.
    pub(crate) fn begin_ping(&self, waker: &Waker) -> Result<CallId, Error> {
        let id = lock(&self.pending).insert(waker.clone());
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
        content: Content,
        after_event: u64,
        publish: bool,
    ) {
        let response = Outgoing::new(Kind::Response, id, content, (status.code(), 0, 0), None)
            .after_event(after_event);
        self.with_outbound(|outbound| {
            outbound.push(response);
            let pumped = outbound.pump(publish);
            self.after_pump(pumped)
        });
    }

    /// Looks for the answer to `id`, leading the receiving for the length of this step if nobody else does.
    pub(crate) fn poll_answer(&self, id: CallId, waker: &Waker) -> Option<Result<Answer, Error>> {
        if let Some(outcome) = lock(&self.pending).poll(id, waker) {
            return Some(outcome);
        }
        // The waker is registered (C2); if somebody else leads, that wakes us.
        let mut guard = self.receiving.try_lock().ok()?;
        let receiving = guard.as_mut()?;
        match self.lead(receiving, id) {
            Ok(answer) => answer.map(Ok),
            Err(error) => {
                drop(guard);
                self.fail(&error);
                lock(&self.pending).poll(id, waker)
            }
        }
    }

    /// Drains, and polls a while for `id`'s answer.
    fn lead(&self, receiving: &mut Receiving, id: CallId) -> Result<Option<Answer>, Error> {
        receiving.inbound.receiver.disarm();
        let (mut answer, mut woke, mut frames) = (None, false, 0);
        let mut polling: Option<(Instant, Duration)> = None;
        loop {
            while frames < LEAD_FRAMES
                && self.closed().is_none()
                && let Some(incoming) = receiving.inbound.next()?
            {
                frames += 1;
                match self.handle(incoming, Some(id))? {
                    Handled::Mine(mine) => answer = Some(mine),
                    Handled::Serve(job) => {
                        self.served.take_in(job)?;
                        self.wake_driver();
                    }
                    Handled::Woke => woke = true,
                    Handled::Nothing => {}
                }
            }
            // Others have work now, or we have: polling on would keep them from it.
            if answer.is_some() || woke || frames >= LEAD_FRAMES || self.closed().is_some() {
                break;
            }
            let (since, budget) = *polling.get_or_insert_with(|| {
                let worth = receiving.inbound.receiver.worth_polling();
                (Instant::now(), receiving.caller.budget(worth))
            });
            if budget.is_zero() {
                break;
            }
            if !poll_ring(&mut receiving.inbound, since, budget)? {
                receiving.caller.miss();
                polling = None;
                break;
            }
        }
        if let Some((since, budget)) = polling
            && answer.is_some()
            && !budget.is_zero()
        {
            receiving.caller.hit(since.elapsed());
        }
        self.leave(receiving)?;
        Ok(answer)
    }

    /// Leaves the receiving half as C1 asks.
    fn leave(&self, receiving: &mut Receiving) -> Result<(), Error> {
        // The driver may have left records behind that are consumed and not yet released.
        receiving.inbound.receiver.release()?;
        if receiving.inbound.receiver.arm()? {
            self.wake_driver();
        }
        Ok(())
    }

    /// One step of the driver: takes and serves what is there.
    pub(crate) fn turn(self: &Arc<Self>, frames: usize) -> Result<Turn, Error> {
        let mut unpublished = false;
        let mut turn = Turn::More;
        for _ in 0..frames {
            // What comes behind a goodbye is for nobody.
            if self.closed().is_some() {
                turn = Turn::Empty;
                break;
            }
            let handled = {
                let Ok(mut guard) = self.receiving.try_lock() else {
                    turn = Turn::Led;
                    break;
                };
                let Some(receiving) = guard.as_mut() else {
                    turn = Turn::Empty;
                    break;
                };
                receiving.inbound.receiver.disarm();
                let Some(incoming) = receiving.inbound.next()? else {
                    turn = Turn::Empty;
                    break;
                };
                self.handle(incoming, None)?
            };
            if let Handled::Serve(job) = handled {
                unpublished |= self.serve(job);
            }
        }
        if let Ok(mut guard) = self.receiving.try_lock()
            && let Some(receiving) = guard.as_mut()
        {
            receiving.inbound.receiver.release()?;
        }
        if unpublished {
            self.with_outbound(|outbound| outbound.publish().map(|()| false));
        }
        Ok(turn)
    }

    /// How long the driver should poll before it sleeps.
    pub(crate) fn poll_budget(&self) -> Duration {
        let Ok(mut guard) = self.receiving.try_lock() else { return Duration::ZERO };
        let Some(receiving) = guard.as_mut() else { return Duration::ZERO };
        let worth = receiving.inbound.receiver.worth_polling();
        receiving.driver.budget(worth)
    }

    /// Polls the ring for a `slice` of the `budget` that began at `since`.
    pub(crate) fn poll_slice(
        &self,
        since: Instant,
        budget: Duration,
        slice: Duration,
    ) -> Result<Polled, Error> {
        if budget.is_zero() {
            return Ok(Polled::GaveUp);
        }
        let Ok(mut guard) = self.receiving.try_lock() else { return Ok(Polled::GaveUp) };
        let Some(receiving) = guard.as_mut() else { return Ok(Polled::GaveUp) };
        let spent = since.elapsed();
        if budget <= spent {
            receiving.driver.miss();
            return Ok(Polled::GaveUp);
        }
        if poll_ring(&mut receiving.inbound, Instant::now(), slice.min(budget - spent))? {
            receiving.driver.hit(since.elapsed());
            return Ok(Polled::Ready);
        }
        Ok(Polled::Again)
    }

    /// Arms the receiving half for the driver's sleep; returns whether there is work after all.
    fn arm(&self) -> Result<bool, Error> {
        // Not `try_lock`: a leader that has armed and still holds the lock would let us sleep on a ring that we have
        // taken already, with its frame unread. It is done within one bounded step.
        let mut guard = lock(&self.receiving);
        let Some(receiving) = guard.as_mut() else { return Ok(false) };
        // The turn before may have left this to a leader that came too late to do it.
        receiving.inbound.receiver.release()?;
        Ok(receiving.inbound.receiver.arm()?)
    }

    /// Sends what waits, after room, credit, or something to say has come; returns whether to call again soon.
    pub(crate) fn pump(&self) -> bool {
        self.with_outbound(|outbound| {
            let pumped = outbound.pump(true)?;
            Ok(pumped == Pumped::More)
        })
    }

    /// The peer's process is gone: takes what it still said, waiting for a leader to be done with its step.
    pub(crate) fn last_words(self: &Arc<Self>) -> Result<(), Error> {
        loop {
            match self.turn(LEAD_FRAMES)? {
                Turn::Empty => return Ok(()),
                Turn::More => {}
                Turn::Led => drop(lock(&self.receiving)),
            }
        }
    }

    /// What a frame means. Requests are handed back: only the driver serves.
    fn handle(&self, incoming: Incoming, mine: Option<CallId>) -> Result<Handled, Error> {
        match incoming {
            Incoming::Request { id, head, content, charge } => {
                return Ok(Handled::Serve(Job { id, head, content, charge }));
            }
            Incoming::Response { id, head, content, charge } => {
                return self.handle_response(CallId(id), head, content, charge, mine);
            }
            Incoming::Aborted { id, request: false } => {
                let head = Head { selector: Status::Cancelled.code(), ..Head::default() };
                return self.handle_response(
                    CallId(id),
                    head,
                    Content::default(),
                    Charge::none(),
                    mine,
                );
            }
            Incoming::Aborted { id, request: true } => self.acknowledge_cancel(id),
            Incoming::Cancel(id) => self.cancel_served(id)?,
            Incoming::Credit(bytes) => {
                self.send(|outbound| {
                    outbound.add_credit(bytes);
                    Ok(())
                });
            }
            Incoming::Ping(id) => self.send(|outbound| outbound.push_control(Kind::Pong, id)),
            Incoming::Pong(id) => {
                let answer = Answer {
                    status: Status::Ok,
                    content: Content::default(),
                    charge: Charge::none(),
                };
                return self.complete(CallId(id), answer, mine);
            }
            Incoming::Goodbye(reason) => {
                self.close(CloseReason::Peer(reason));
                self.wake_driver();
            }
            Incoming::Event { id, head, content, charge } => {
                self.handle_event(id, &head, content, charge)?;
                return Ok(Handled::Woke);
            }
            Incoming::Subscribe { id, service, event, window } => {
                self.handle_subscribe(id, (service, event), window)?;
            }
            Incoming::Unsubscribe(id) => self.handle_unsubscribe(id),
            Incoming::EventAck { id, values } => self.handle_event_ack(id, values)?,
            Incoming::EventEnd { id, reason } => self.handle_event_end(id, reason),
            Incoming::Part => {}
            Incoming::Handshake { .. } => {
                return Err(Error::Protocol("a handshake frame after the handshake".to_owned()));
            }
        }
        Ok(Handled::Nothing)
    }

    fn handle_response(
        &self,
        id: CallId,
        head: Head,
        content: Content,
        charge: Charge,
        mine: Option<CallId>,
    ) -> Result<Handled, Error> {
        let Some(status) = Status::from_code(head.selector) else {
            return Err(Error::Protocol("an unknown response status".to_owned()));
        };
        let handled = self.complete(id, Answer { status, content, charge }, mine)?;
        self.calls.add_permits(1);
        Ok(handled)
    }

    fn complete(&self, id: CallId, answer: Answer, mine: Option<CallId>) -> Result<Handled, Error> {
        let completed = lock(&self.pending).complete(id, answer, mine);
        match completed {
            Ok(Completed::Mine(answer)) => Ok(Handled::Mine(answer)),
            Ok(Completed::Other(waker)) => {
                if let Some(waker) = waker {
                    waker.wake();
                }
                Ok(Handled::Woke)
            }
            Ok(Completed::Nobody) => Ok(Handled::Nothing),
            Err(_) => Err(Error::Protocol("an answer to a call that was not waiting".to_owned())),
        }
    }

    /// The peer's caller is gone: stops the handler, or takes the response back as far as it has not left. [wire.cancel]
    fn cancel_served(&self, id: u64) -> Result<(), Error> {
        if self.served.cancel(id) {
            self.acknowledge_cancel(id);
            return Ok(());
        }
        let mut guard = lock(&self.outbound);
        let Some(outbound) = guard.as_mut() else { return Ok(()) };
        let withdrawn = outbound.withdraw_response(id)?;
        drop(guard);
        match withdrawn {
            Withdrawn::Unsent => self.acknowledge_cancel(id),
            Withdrawn::Partly => self.send(|_| Ok(())),
            // The answer crossed the cancel; it is the acknowledgement.
            Withdrawn::Sent => {}
        }
        Ok(())
    }

    fn acknowledge_cancel(&self, id: u64) {
        self.respond(id, Status::Cancelled, Content::default(), 0, true);
    }

    /// The caller of `id` is gone: takes its request back or cancels it at the peer.
    pub(crate) fn abandon(&self, id: CallId) {
        let mut unsent = false;
        self.send(|outbound| {
            match outbound.withdraw_request(id)? {
                Withdrawn::Unsent => unsent = true,
                Withdrawn::Partly => {}
                Withdrawn::Sent => outbound.push_control(Kind::Cancel, id.0)?,
            }
            Ok(())
        });
        let answer = lock(&self.pending).abandon(id, unsent);
        if unsent {
            self.calls.add_permits(1);
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
        match step(outbound) {
            Ok(more) => more,
            Err(error) => {
                drop(guard);
                self.fail(&error);
                false
            }
        }
    }

    /// Bytes that wait to be sent.
    pub(crate) fn queued(&self) -> u64 {
        lock(&self.outbound).as_ref().map_or(0, Outbound::queued)
    }

    /// Calls and pings in the table, messages half received, and requests being served; for tests and gauges.
    pub(crate) fn load(&self) -> Load {
        Load {
            calls: lock(&self.pending).len(),
            partial_messages: lock(&self.receiving)
                .as_ref()
                .map_or(0, |r| r.inbound.partial_count()),
            handlers: self.served.len(),
            subscriptions: lock(&self.feeds).len() + lock(&self.sinks).len(),
            queued_bytes: self.queued(),
        }
    }

    /// Ends the connection because of an error, telling the peer what it did wrong.
    pub(crate) fn fail(&self, error: &Error) {
        let farewell = error.to_string();
        self.end(CloseReason::Failed(farewell.clone()), &farewell);
    }

    /// Ends the connection on this side's wish, telling the peer.
    pub(crate) fn disconnect(&self, farewell: &str) {
        self.end(CloseReason::Local, farewell);
    }

    /// Says goodbye and closes.
    fn end(&self, reason: CloseReason, farewell: &str) {
        self.close_with(reason, |outbound| {
            outbound.clear();
            outbound.push_goodbye(farewell);
            // One attempt; the driver has a little more patience.
            if let Err(error) = outbound.pump(true) {
                tracing::debug!(%error, "could not say goodbye");
            }
        });
        self.wake_driver();
    }

    /// Tries once more to say goodbye; returns whether there is still reason to.
    pub(crate) fn retry_goodbye(&self) -> bool {
        let mut guard = lock(&self.outbound);
        let Some(outbound) = guard.as_mut() else { return false };
        outbound.has_goodbye() && outbound.pump(true).is_ok() && outbound.has_goodbye()
    }

    /// Fails everything that waits. The halves stay until the driver takes them down.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.close_with(reason, |_| ());
    }

    /// Closes, with some last words. The sending half is locked meanwhile, so that the driver, who takes it down once
    /// it sees the reason, does not do so before they are spoken.
    fn close_with(&self, reason: CloseReason, last_words: impl FnOnce(&mut Outbound)) {
        let mut guard = lock(&self.outbound);
        if self.closed.set(reason).is_err() {
            return;
        }
        let mut unsent = Vec::new();
        if let Some(outbound) = guard.as_mut() {
            unsent = outbound.unsent_requests();
            last_words(outbound);
        }
        drop(guard);
        let Some(reason) = self.closed.get() else { return };
        self.calls.close();
        self.bytes.close();
        let wakers = lock(&self.pending).close(reason, &unsent);
        wakers.into_iter().for_each(Waker::wake);
        feed::end_all(lock(&self.feeds).take(), reason);
    }

    /// Frees the region, the descriptors and the place at the server. The driver's last step.
    pub(crate) fn take_down(&self) {
        self.close(CloseReason::RuntimeGone);
        self.served.cancel_all();
        drop(std::mem::take(&mut *lock(&self.sinks)));
        let receiving = lock(&self.receiving).take();
        let outbound = lock(&self.outbound).take();
        drop((receiving, outbound));
        drop(lock(&self.lease).take());
        self.ended.send_replace(true);
    }

    /// Completes when everything has been taken down.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as this connection, so the only way to complete is the value.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
    }
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
    /// Bytes that wait to be sent, with a constant per message.
    pub queued_bytes: u64,
}

/// How a slice of polling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Ready,
    Again,
    GaveUp,
}

/// Polls until a frame is there (`true`) or `budget` is spent.
fn poll_ring(inbound: &mut Inbound, since: Instant, budget: Duration) -> Result<bool, Error> {
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if inbound.receiver.is_ready()? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        if since.elapsed() >= budget {
            return Ok(false);
        }
    }
}

/// Locks; a panic elsewhere has left the protected state whole, because no step panics half-way.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
