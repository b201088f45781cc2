//! The raising side's state of a subscriber at the other end of a connection.
//!
//! Up to a window of values are in flight: sent, and not acknowledged by the subscriber. Further values wait in the backlog, which overflows
//! as the event says; so do values that are raised while the connection is backed up. So a slow or stopped subscriber costs a bounded
//! backlog, and blocks nothing else.
//!
//! The window is exceeded in two cases. Values that a handler raised are sent before its answer, as its caller may read them only after the
//! call. And waiting values are sent before the connection is shut down in good order. In both cases the subscriber enforces a bound
//! ([`Window::takes`]).
//!
//! A dropped value leaves a gap in the numbers. If no value follows the gap, a mark does: as soon as all waiting values were sent, the
//! subscriber is told the number of the next value. [wire.event.lag]

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::outbound::{Outbound, Outgoing};
use witrpc_core::session::window::{VALUE_COST, Window};
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::wire::fields::{u32_len, u64_len};
use witrpc_core::wire::frame::Kind;

use crate::context::{CallContext, RaisedTo};
use crate::events::backlog::{Account, Backlog, Overflow, Pushed, Room};
use crate::events::subscriber::Registration;
use crate::link::ending::Ends;
use crate::link::halves::Link;
use crate::link::host::Host;
use crate::link::sending::Sends;
use crate::locks::{self, Mutex, MutexGuard, Rank};

/// The interface by which a subscriber uses its connection.
pub(crate) trait SubscriberHost: Host {
    /// Notes that values of this subscriber wait for room in the sending queue only, and not for an acknowledgement. Called once until the
    /// subscriber is [resumed](RemoteSubscriber::resume).
    fn hold_back(&self, subscription: u32);
}

/// Queues a value for a subscriber of the peer. Returns its position in the event lane, which is valid while it waits.
fn send_event(host: &dyn SubscriberHost, id: u32, number: u64, content: Content) -> u64 {
    let event = Outgoing::new(Kind::Event, u64::from(id), content, (0, 0, number), None);
    push_event(host, |outbound| outbound.push_event(event))
}

/// Queues a mark with the number of the subscriber's next value. `last` is the position of its last mark.
fn send_mark(host: &dyn SubscriberHost, id: u32, number: u64, last: u64) -> u64 {
    push_event(host, |outbound| outbound.push_event_mark(id, number, last))
}

fn push_event(host: &dyn SubscriberHost, push: impl FnOnce(&mut Outbound) -> u64) -> u64 {
    let mut place = 0;
    host.with_outbound(|outbound| {
        place = push(outbound);
        CallContext::note_event(host.link().id, place);
        let pumped = outbound.pump(true);
        host.after_pump(pumped)
    });
    place
}

/// One subscriber.
pub(crate) struct RemoteSubscriber {
    connection: Weak<dyn SubscriberHost>,
    codec: Codec,
    id: u32,
    window: Window,
    /// The limit of the backlog, in bytes.
    share: u64,
    /// The account of all subscribers of the connection.
    account: Arc<Account>,
    max_message_size: u64,
    state: Mutex<State>,
}

struct State {
    backlog: Backlog<Content>,
    /// The values in flight, oldest first, and the sum of their sizes.
    under_way: VecDeque<UnderWay>,
    under_way_bytes: u64,
    /// The number of the next value, as the subscriber knows it once everything that was sent has arrived.
    told: u64,
    /// The position of the last mark in the event lane, until it was sent.
    mark: u64,
    /// The subscriber is gone: nothing more is sent.
    ended: bool,
    /// The connection has it in the list of subscribers that wait for room.
    held_back: bool,
    room: Option<Arc<Room>>,
}

/// A value that was sent, and not acknowledged.
#[derive(Clone, Copy, Debug)]
struct UnderWay {
    size: u64,
    /// Its position in the event lane, which is valid while it waits.
    event: u64,
}

/// The subscriber acknowledged more than it was sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooManyAcks;

impl fmt::Debug for RemoteSubscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSubscriber").field("id", &self.id).finish_non_exhaustive()
    }
}

impl RemoteSubscriber {
    /// A subscriber whose backlog is limited to `share` bytes, and to what is left of the `account`.
    pub(crate) fn new(
        connection: Weak<dyn SubscriberHost>,
        link: &Link,
        id: u32,
        window: Window,
        share: u64,
        account: &Arc<Account>,
    ) -> Arc<Self> {
        let state = State {
            backlog: Backlog::new(Overflow::default(), 1, 1),
            under_way: VecDeque::new(),
            under_way_bytes: 0,
            told: 0,
            mark: 0,
            ended: false,
            held_back: false,
            room: None,
        };
        Arc::new(Self {
            connection,
            codec: link.codec.clone(),
            id,
            window,
            share: share.min(window.bytes),
            account: Arc::clone(account),
            max_message_size: link.peer_limits.max_message_size,
            state: Mutex::new(Rank::Subscription, state),
        })
    }

    /// Applies the event's settings, before the first value.
    pub(crate) fn configure(&self, overflow: Overflow, capacity: usize, room: Arc<Room>) {
        let mut state = self.state.lock();
        state.backlog =
            Backlog::new(overflow, capacity, self.share).within(Arc::clone(&self.account));
        state.room = Some(room);
    }

    pub(crate) const fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Sends the value, or queues it, or drops one.
    pub(crate) fn deliver(self: &Arc<Self>, content: &Content) {
        let Some(connection) = self.connection.upgrade() else { return };
        let size = content.size();
        let mut state = self.state.lock();
        if size > self.max_message_size {
            let number = state.backlog.number();
            self.mark(&mut state, &*connection);
            drop(state);
            let limit = self.max_message_size;
            locks::later(move || {
                tracing::warn!(
                    number,
                    size,
                    limit,
                    "dropped an event value that is larger than the subscriber accepts"
                );
            });
            return;
        }
        if state.backlog.is_empty()
            && state.may_send(self.window)
            && !connection.link().is_backed_up()
        {
            let number = state.backlog.number();
            state.send(&*connection, self.id, number, content.copy());
            return;
        }
        let mut dropped = Vec::new();
        let pushed = state.backlog.push(content.copy(), size + VALUE_COST, &mut dropped);
        if pushed == Pushed::Disconnect {
            drop(state);
            locks::let_go(connection, |connection| {
                connection.disconnect(
                    "a subscriber did not keep up with an event (Overflow::Disconnect)",
                );
            });
            return;
        }
        self.hold_back(&mut state, &*connection);
        drop(state);
        if !dropped.is_empty() {
            locks::dispose(dropped);
        }
        let this: Arc<dyn RaisedTo> = Arc::clone(self) as _;
        CallContext::note_subscriber(connection.link().id, &this);
    }

    /// If values wait for room in the sending queue only, has the connection send them later.
    fn hold_back(&self, state: &mut State, connection: &dyn SubscriberHost) {
        let waits = !state.backlog.is_empty() && state.may_send(self.window);
        if waits && !std::mem::replace(&mut state.held_back, true) {
            connection.hold_back(self.id);
        }
    }

    /// The subscriber is gone: drops its backlog, and returns the positions of its values that may wait in the event lane.
    pub(crate) fn end(&self) -> impl Iterator<Item = u64> {
        let mut state = self.state.lock();
        state.ended = true;
        let under_way = std::mem::take(&mut state.under_way);
        let waiting = state.backlog.take();
        let mark = state.mark;
        drop(state);
        locks::dispose(waiting);
        under_way.into_iter().map(|value| value.event).chain([mark])
    }

    pub(crate) fn is_full(&self) -> bool {
        self.state.lock().backlog.is_full()
    }

    /// The memory of the backlog, and of the entries for values in flight.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> (Held, Held) {
        let state = self.state.lock();
        let waiting = state.backlog.values().map(Content::held).sum();
        (waiting, Held::plain::<UnderWay>(state.under_way.len()))
    }

    /// The maximum number of values in flight: those of the window, and as many more as cost twice the share.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn most_under_way(&self) -> usize {
        u32_len(self.window.values) + u64_len(2 * self.share / VALUE_COST) + 1
    }

    /// The subscriber has acknowledged this many values: sends what waited for that.
    pub(crate) fn acknowledge(&self, values: u32) -> Result<(), TooManyAcks> {
        let Some(connection) = self.connection.upgrade() else { return Ok(()) };
        let mut state = self.state.lock();
        for _ in 0..values {
            let value = state.under_way.pop_front().ok_or(TooManyAcks)?;
            state.under_way_bytes -= value.size;
        }
        self.send_waiting(state, &*connection);
        Ok(())
    }

    /// Sends what waited for room in the connection's queue.
    pub(crate) fn resume(&self) {
        let Some(connection) = self.connection.upgrade() else { return };
        let mut state = self.state.lock();
        state.held_back = false;
        self.send_waiting(state, &*connection);
    }

    fn send_waiting(&self, mut state: MutexGuard<'_, State>, connection: &dyn SubscriberHost) {
        while state.may_send(self.window) && !connection.link().is_backed_up() {
            let Some(waiting) = state.backlog.pop() else { break };
            state.send(connection, self.id, waiting.number, waiting.value);
        }
        self.mark(&mut state, connection);
        self.hold_back(&mut state, connection);
        self.made_room(state);
    }

    /// Sends waiting values, also beyond the window, up to the bound. Returns the position of the last one in the event lane, and
    /// whether all were sent.
    fn flush_to(&self, connection: &dyn SubscriberHost) -> (u64, bool) {
        let mut state = self.state.lock();
        while self.may_flush(&state) {
            let Some(waiting) = state.backlog.pop() else { break };
            state.send(connection, self.id, waiting.number, waiting.value);
        }
        self.mark(&mut state, connection);
        let value = state.under_way.back().map_or(0, |value| value.event);
        let (last, done) = (value.max(state.mark), state.backlog.is_empty());
        self.made_room(state);
        (last, done)
    }

    /// Sends waiting values up to the bound. Returns whether all were sent.
    pub(crate) fn flush_all(&self) -> bool {
        self.connection.upgrade().is_none_or(|connection| self.flush_to(&*connection).1)
    }

    /// Whether one more value may be sent beyond the window. This is bounded by the share, too: each value in flight costs memory here, and
    /// the subscriber may have chosen any window.
    fn may_flush(&self, state: &State) -> bool {
        let most = Window { bytes: self.share, ..self.window };
        state.may_send(self.window) || most.takes(state.under_way.len(), state.under_way_bytes)
    }

    /// Stops sending. Drops the backlog, and returns the number of the next value, which the subscriber is told.
    pub(crate) fn finish(&self) -> u64 {
        let mut state = self.state.lock();
        let next = state.backlog.next_number();
        let waiting = state.backlog.take();
        self.made_room(state);
        locks::dispose(waiting);
        next
    }

    /// Queues a mark if values were dropped and none waits that would show it.
    fn mark(&self, state: &mut State, connection: &dyn SubscriberHost) {
        let next = state.backlog.next_number();
        if !state.ended && state.backlog.is_empty() && state.told < next {
            state.mark = send_mark(connection, self.id, next, state.mark);
            state.told = next;
        }
    }

    fn made_room(&self, state: MutexGuard<'_, State>) {
        let room = state.room.clone();
        drop(state);
        if let Some(room) = room {
            room.made();
        }
    }
}

impl RaisedTo for RemoteSubscriber {
    fn id(&self) -> u32 {
        self.id
    }

    fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    fn flush(&self) -> u64 {
        self.connection.upgrade().map_or(0, |connection| self.flush_to(&*connection).0)
    }
}

impl State {
    fn may_send(&self, window: Window) -> bool {
        window.is_open(self.under_way.len(), self.under_way_bytes)
    }

    /// Called under the lock, so that numbers are sent in order.
    fn send(&mut self, connection: &dyn SubscriberHost, id: u32, number: u64, content: Content) {
        let size = content.size();
        let event = send_event(connection, id, number, content);
        self.under_way.push_back(UnderWay { size, event });
        self.under_way_bytes += size;
        self.told = number + 1;
        // A mark that still waits is ahead of this value, and stays as it is: the next one gets its own place behind it.
        self.mark = 0;
    }
}

/// A subscriber that is to be attached to an event.
#[doc(hidden)]
#[derive(Debug)]
pub struct EventSubscriber(pub(crate) Arc<RemoteSubscriber>);

/// The registration of a subscriber at its event; empty if there is no such event.
#[doc(hidden)]
#[derive(Debug)]
pub struct Attached(pub(crate) Option<Registration>);

/// The answer for an event that the service does not have.
#[doc(hidden)]
#[must_use]
pub fn unknown_event(_subscriber: EventSubscriber) -> Attached {
    Attached(None)
}
