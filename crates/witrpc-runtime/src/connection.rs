//! A connection: a link, and a part for each feature. Only this module composes them. A part knows neither the connection nor the other
//! parts; it declares what it needs of its connection as a trait.
//!
//! | part | what it keeps | what is done with it |
//! |---|---|---|
//! | [`link`](crate::link) | the two halves of the session with their locks | sending, leading, the driver's turns, ending |
//! | [`calls`](crate::calls) | calls that were made, routes | `calls::making` |
//! | [`serving`](crate::serving) | calls that were taken, services | `serving::serve` |
//! | [`events`](crate::events) | subscriptions, ours and the peer's | `events::subscribing`, `events::publishing` |
//! | [`streams`](crate::streams) | streams, read and written | `streams::reading`, `streams::writing`, `streams::adopting` |
//!
//! Everything is a bounded step without an await; the one task that sleeps is the [driver](crate::link::driver). The receiving half is
//! drained by a caller that waits for its answer (it *leads* for the length of one poll), or by the driver. No task holds that role
//! between polls.
//!
//! # Locks
//!
//! [`locks`](crate::locks) says in which order they are taken. A lock is held for one bounded step. The longest is a leader's polling (see
//! [`poller`](crate::link::poller)); others do not wait for it, but leave.

mod frames;
pub(crate) mod load;
mod peer;

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tokio::time::Instant;
use witrpc_core::contract::descriptor::ServiceDescriptor;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Holdings;
use witrpc_core::limits::shares::{CALL, STREAM, SUBSCRIPTION};
use witrpc_core::limits::{Limits, Pool};
use witrpc_core::session::inbound::Incoming;
use witrpc_core::session::outbound::{Outbound, Part};
use witrpc_core::session::pending::CallId;
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::fields::{len_u64, u32_len};
use witrpc_core::wire::frame::Nesting;
use witrpc_core::{CloseReason, Error, fail_point};

use self::load::{Load, Memory};
use self::peer::ConnectedPeer;
use crate::calls::callee::PeerCallee;
use crate::calls::host::CallHost;
use crate::calls::table::CallsMade;
use crate::context::{CallContext, Known, Peer, SharedLease, SideChannel};
use crate::events::client_subscription::{ClientSubscription, SubscriptionHost};
use crate::events::host::EventHost;
use crate::events::publishing::Publishes;
use crate::events::remote_subscriber::{EventSubscriber, SubscriberHost};
use crate::events::subscriber::Registration;
use crate::events::subscribing::Subscribes;
use crate::events::table::Events;
use crate::link::ending::{Ends, say_goodbye};
use crate::link::halves::{Link, Receiving};
use crate::link::handshake::{Opened, Rest};
use crate::link::host::{Drained, Handled, Host, Request, Wanted};
use crate::link::sending::Sends as _;
use crate::link::turns::Driven;
use crate::locks::{Mutex, Rank};
use crate::serving::host::ServeHost;
use crate::serving::serve::Serves;
use crate::serving::table::CallsTaken;
use crate::streams::host::StreamHost;
use crate::streams::reading::ReadsStreams;
use crate::streams::table::Streams;

/// A connection to a peer.
pub(crate) struct Connection {
    link: Link,
    calls: CallsMade,
    serving: CallsTaken,
    events: Events,
    streams: Streams,
    /// The peer, as handlers see it.
    peer: Peer,
    /// Our clock, and the offset to the peer's; `None` if the two share no clock.
    clock: (fn() -> u64, Option<u64>),
    lease: Lease,
    /// Becomes true when everything has been released.
    ended: watch::Sender<bool>,
    /// A weak reference to this value.
    this: Weak<Self>,
}

/// The transport's lease, until the connection has ended.
struct Lease {
    has_side_channel: bool,
    inner: Mutex<Option<Box<dyn Any + Send + Sync>>>,
}

impl Lease {
    fn new(lease: Box<dyn Any + Send + Sync>) -> Self {
        let has_side_channel = lease.is::<SharedLease>();
        Self { has_side_channel, inner: Mutex::new(Rank::Lease, Some(lease)) }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("closed", &self.link.closed())
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection over an open session. The caller spawns its driver.
    pub(crate) fn new(
        opened: Opened,
        rest: Rest,
        limits: Limits,
        codec: Codec,
        calls_taken: CallsTaken,
        keep_subscriptions: bool,
    ) -> Arc<Self> {
        let calls = u32_len(opened.peer_limits.max_in_flight);
        let calls_taken = calls_taken.with_features(&opened.features);
        let clock = (rest.clock, opened.clock_offset);
        let callee_codec = codec.clone();
        let (link, catalog, identity) = Link::new(opened, &rest, limits, codec);
        Arc::new_cyclic(|this: &Weak<Self>| {
            let callee = ConnectedPeer::new(Weak::clone(this), callee_codec, limits.max_buffered);
            let callee = Arc::new(PeerCallee(Arc::new(callee)));
            let known = Known { identity, proof: rest.proof };
            let peer = Peer::new(link.id, rest.peer_process_id, callee, known);
            let returning = Weak::clone(this);
            link.lending.connect(move |loan, share| {
                if let Some(connection) = returning.upgrade() {
                    connection.send(|outbound| {
                        outbound.return_loan(loan, share);
                        Ok(())
                    });
                }
            });
            if !calls_taken.is_empty() {
                calls_taken.admission.drivers.add(Weak::clone(this) as _);
            }
            Self {
                link,
                calls: CallsMade::new(calls, catalog),
                serving: calls_taken,
                events: Events::new(
                    ClientSubscription::window(limits.max_buffered),
                    keep_subscriptions,
                ),
                streams: Streams::new(limits.windows()),
                peer,
                clock,
                lease: Lease::new(rest.lease),
                ended: watch::Sender::new(false),
                this: Weak::clone(this),
            }
        })
    }

    /// The other side.
    pub(crate) const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Ends the connection in good order: sends waiting events as far as there is room, and tells subscribers of those that were not sent.
    pub(crate) fn end_in_order(&self, goodbye: &str) {
        if self.link.closed().is_some() {
            return;
        }
        self.events.flush();
        let marks = self.events.finish();
        self.close_with(CloseReason::Local, |outbound| {
            outbound.clear();
            for (subscription, number) in marks {
                outbound.push_last_mark(subscription, number);
            }
            say_goodbye(outbound, goodbye);
        });
        self.link.wake_driver();
    }

    /// Sends waiting values to the peer's subscribers, up to their bounds. Returns whether all were sent.
    pub(crate) fn flush_events(&self) -> bool {
        self.events.flush()
    }

    /// Completes when everything has been released.
    pub(crate) async fn ended(&self) {
        // The sender lives as long as this connection, so the only way to complete is the value.
        drop(self.ended.subscribe().wait_for(|ended| *ended).await);
    }

    /// The memory that is held for the peer. `None` once the connection has ended.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> Option<Holdings> {
        let mut holdings = Holdings::default();
        // One lock at a time.
        (holdings.partial, holdings.charged) = self.link.receiving.look(|r| r.inbound.held())?;
        holdings.queued = self.link.sending.outbound.lock().as_ref()?.held();
        (holdings.answers, holdings.slots) = self.calls.held();
        (holdings.requests, holdings.handlers) = self.serving.held();
        self.streams.held(&mut holdings);
        holdings.subscribed = self.events.held();
        Some(holdings)
    }

    /// The calls that wait for an answer: their ids, and the names of their methods.
    pub(crate) fn calls_under_way(&self) -> Vec<(u64, String)> {
        self.calls.under_way()
    }

    /// The current load, for tests and metrics.
    pub(crate) fn load(&self) -> Load {
        // One lock at a time: within one expression they would all be held to its end, in an order of their own.
        let calls = self.calls.in_flight();
        let partial_count = |r: &Receiving| r.inbound.partial_count();
        let partial_messages = self.link.receiving.look(partial_count).unwrap_or(0);
        let own = self.events.subscription_count();
        let subscriptions = own + self.events.subscriber_count();
        let read = self.streams.read_count();
        let sending = |o: &Outbound| (o.open_stream_count(), o.queued());
        let (written, queued_bytes) =
            self.link.sending.outbound.lock().as_ref().map_or((0, 0), sending);
        let (handlers, streams) = (self.serving.len(), read + written);
        let mut memory = self.memory();
        memory.tables = SUBSCRIPTION * len_u64(self.events.subscriber_count())
            + STREAM * len_u64(streams)
            + CALL * len_u64(handlers + partial_messages);
        Load { calls, partial_messages, handlers, subscriptions, streams, queued_bytes, memory }
    }

    /// What is held for the peer, without the tables. Nothing, once the connection has ended.
    fn memory(&self) -> Memory {
        let charged = |r: &Receiving| Pool::ALL.map(|pool| r.inbound.charged(pool));
        let Some([requests, answers, items]) = self.link.receiving.look(charged) else {
            return Memory::default();
        };
        let (windows, events) = (self.streams.windows_used(), self.link.sending.events.used());
        let queued = |o: &Outbound| [Part::Responses, Part::Items].map(|part| o.queued_of(part));
        let (lent, borrowed) = (self.link.lending.lent(), self.link.lending.borrowed());
        let outbound = self.link.sending.outbound.lock();
        let [responses, own_items] = outbound.as_ref().map_or([0; 2], queued);
        Memory {
            requests,
            answers,
            items,
            windows,
            responses,
            events,
            own_items,
            tables: 0,
            lent,
            borrowed,
        }
    }
}

impl Host for Connection {
    fn link(&self) -> &Link {
        &self.link
    }

    fn this(&self) -> Weak<dyn Host> {
        Weak::clone(&self.this) as _
    }

    fn handle(
        &self,
        incoming: Incoming,
        wanted: Wanted,
        drained: &mut Drained,
    ) -> Result<Handled, Error> {
        frames::handle(self, incoming, wanted, drained)
    }

    fn put_aside(&self, request: Request) -> Result<(), Error> {
        self.take_in(request)
    }

    fn has_more_to_pump(&self) -> bool {
        self.streams.has_unread()
    }

    fn before_pump(&self, outbound: &mut Outbound) {
        self.cancel_unread(outbound);
    }

    fn end_parts(&self, reason: &CloseReason, unsent: &HashSet<CallId>) {
        self.link.lending.close();
        self.calls.close(reason, unsent);
        self.streams.close(reason);
        self.end_subscriptions(reason);
    }

    fn has_woken_caller(&self) -> bool {
        self.calls.has_woken_caller()
    }
}

impl StreamHost for Connection {
    fn streams(&self) -> &Streams {
        &self.streams
    }

    fn handler_context(&self) -> CallContext {
        self.context(None, Nesting::Outer)
    }

    fn side_channel(&self) -> Option<SideChannel> {
        let lease = self.lease.inner.lock();
        let shared = lease.as_ref()?.downcast_ref::<SharedLease>()?;
        Some(Arc::clone(&shared.side_channel))
    }

    fn has_side_channel(&self) -> bool {
        self.lease.has_side_channel
    }

    fn stream_host(&self) -> Weak<dyn StreamHost> {
        Weak::clone(&self.this) as _
    }
}

impl SubscriptionHost for Connection {
    fn forget_subscription(&self, id: u32) -> bool {
        self.events.forget_subscription(id)
    }
}

impl SubscriberHost for Connection {
    fn hold_back(&self, subscription: u32) {
        self.events.hold_back(subscription);
        if !self.link.sending.events.queue_is_full() {
            self.link.wake_driver();
        }
    }

    fn crowd_out(&self, subscription: u32) {
        self.events.crowd_out(subscription);
        self.link.sending.events.want();
    }
}

impl EventHost for Connection {
    fn events(&self) -> &Events {
        &self.events
    }

    fn event_route(
        &self,
        contract: &'static ServiceDescriptor,
        event: usize,
    ) -> Result<(u16, u16), Error> {
        self.calls.event_route(contract, event)
    }

    fn attach(
        &self,
        service: u16,
        event: u16,
        subscriber: EventSubscriber,
    ) -> Result<Registration, String> {
        self.serving.subscribe(&self.peer, service, event, subscriber)
    }

    fn subscription_host(&self) -> Weak<dyn SubscriptionHost> {
        Weak::clone(&self.this) as _
    }

    fn subscriber_host(&self) -> Weak<dyn SubscriberHost> {
        Weak::clone(&self.this) as _
    }
}

impl CallHost for Connection {
    fn calls(&self) -> &CallsMade {
        &self.calls
    }

    fn deadline_for_peer(&self, left: u64) -> u64 {
        let (clock, offset) = self.clock;
        let deadline = match offset {
            Some(offset) => clock().saturating_add(left).wrapping_add(offset),
            None => left,
        };
        deadline.max(1)
    }

    fn call_host(&self) -> Weak<dyn CallHost> {
        Weak::clone(&self.this) as _
    }
}

impl ServeHost for Connection {
    fn serving(&self) -> &CallsTaken {
        &self.serving
    }

    fn time_left(&self, deadline: u64) -> Option<u64> {
        let (clock, offset) = self.clock;
        if offset.is_none() {
            return Some(deadline);
        }
        deadline.checked_sub(clock()).filter(|left| *left > 0)
    }

    fn context(&self, deadline: Option<Instant>, nesting: Nesting) -> CallContext {
        CallContext::new(self.peer.clone(), deadline, nesting)
    }

    fn caller(&self) -> &Peer {
        &self.peer
    }
}

impl Driven for Connection {
    type Spare = Option<CallContext>;

    fn note_next_request(&self, id: u64) {
        self.serving.begin_in_place(id);
    }

    fn attach_subscribers(&self) {
        Publishes::attach_subscribers(self);
    }

    fn serve(self: &Arc<Self>, request: Request, publish: bool, spare: &mut Self::Spare) -> bool {
        self.serve_in_place(request, publish, spare)
    }

    fn serve_deferred(self: &Arc<Self>, spare: &mut Self::Spare) {
        Publishes::attach_subscribers(&**self);
        self.serve_put_aside(spare);
    }

    fn resume_events(&self) {
        let room = &self.link.sending.events;
        if !room.queue_is_full() {
            self.events.resume();
        }
        if room.take_due() {
            self.events.tell_crowded_out();
        }
    }

    fn end_turn_of_lines(&self) {
        self.link.sending.queue.end_turn(|| self.calls.end_turn_of_lines());
    }

    fn awaits_more_than_an_answer(&self) -> bool {
        !self.serving.is_empty()
            || self.calls.in_flight() > 1
            || self.events.subscription_count() > 0
            || self.streams.are_busy()
    }

    fn is_busy(&self) -> bool {
        self.serving.admission.is_busy()
    }

    fn has_put_aside(&self) -> bool {
        let room = &self.link.sending.events;
        (self.serving.has_deferred() && !self.link.is_backed_up())
            || (self.events.has_held_back() && !room.queue_is_full())
            || room.is_due()
    }

    /// Releases the region, the descriptors and the slot at the server.
    fn take_down(&self) {
        self.close(CloseReason::RuntimeGone);
        self.serving.cancel_all();
        self.events.drop_subscribers();
        let receiving = self.link.receiving.take();
        let outbound = self.link.sending.outbound.lock().take();
        drop((receiving, outbound));
        fail_point::at("connection.unmapped");
        let lease = self.lease.inner.lock().take();
        drop(lease);
        fail_point::at("connection.ended");
        self.ended.send_replace(true);
    }
}
