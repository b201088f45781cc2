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
//! Resources of values (`streams::resource`) are bounded by number, on their way and in the backlog: a value that has some waits while
//! too many of those before it have not been fetched.
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
use crate::link::sending::Sends;
use crate::locks::{self, Mutex, MutexGuard, Rank};
use crate::streams::host::StreamHost;
use crate::streams::producer::start_resources;
use crate::streams::unfetched::{MOST, Sender};
use crate::streams::writing::{Added, Refused, WritesStreams};

/// The interface by which a subscriber uses its connection.
pub(crate) trait SubscriberHost: StreamHost {
    /// Notes that values of this subscriber wait for room in the sending queue only, and not for an acknowledgement. Called once until the
    /// subscriber is [resumed](RemoteSubscriber::resume).
    fn hold_back(&self, subscription: u32);
}

/// Queues a value for a subscriber of the peer. Returns its position in the event lane, which is valid while it waits, and its resources.
fn send_event(
    host: &dyn SubscriberHost,
    id: u32,
    number: u64,
    mut content: Content,
) -> Result<(u64, Vec<Added>), Refused> {
    if !content.has_streams() {
        return Ok((
            push_event(host, |outbound| event_at(outbound, id, number, content)),
            Vec::new(),
        ));
    }
    let mut announced = Ok(Vec::new());
    let place = push_event(host, |outbound| {
        announced = host.announce_streams(outbound, &mut content);
        match announced {
            Ok(_) => event_at(outbound, id, number, content),
            Err(_) => {
                locks::dispose(content);
                0
            }
        }
    });
    announced.map(|added| (place, added))
}

fn event_at(outbound: &mut Outbound, id: u32, number: u64, content: Content) -> u64 {
    outbound.push_event(Outgoing::new(Kind::Event, u64::from(id), content, (0, 0, number), None))
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
    /// A weak reference to this value.
    this: Weak<Self>,
}

struct State {
    backlog: Backlog<Content>,
    /// The values in flight, oldest first, and the sum of their sizes.
    under_way: VecDeque<UnderWay>,
    under_way_bytes: u64,
    /// Resources of values that were sent, which the subscriber has not fetched.
    unfetched: usize,
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
            unfetched: 0,
            told: 0,
            mark: 0,
            ended: false,
            held_back: false,
            room: None,
        };
        Arc::new_cyclic(|this| Self {
            connection,
            codec: link.codec.clone(),
            id,
            window,
            share: share.min(window.bytes),
            account: Arc::clone(account),
            max_message_size: link.peer_limits.max_message_size,
            state: Mutex::new(Rank::Subscription, state),
            this: Weak::clone(this),
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
    ///
    /// # Errors
    ///
    /// What is wrong with the connection that cannot carry the value, and what to do.
    pub(crate) fn deliver(self: &Arc<Self>, content: &Content) -> Result<(), &'static str> {
        let Some(connection) = self.connection.upgrade() else { return Ok(()) };
        let (size, resources) = (content.size(), content.stream_count());
        let carried = connection.can_carry(content);
        let mut state = self.state.lock();
        if size > self.max_message_size || carried.is_err() {
            let number = state.backlog.number();
            self.mark(&mut state, &*connection);
            drop(state);
            if let Err(Refused::NoSideChannel(advice)) = carried {
                return Err(advice);
            }
            let limit = self.max_message_size;
            locks::later(move || {
                tracing::warn!(
                    number,
                    size,
                    limit,
                    "dropped an event value that is larger than the subscriber accepts"
                );
            });
            return Ok(());
        }
        if state.backlog.is_empty()
            && state.may_send(self.window)
            && state.has_room_for(resources)
            && !connection.link().is_backed_up()
        {
            let number = state.backlog.number();
            self.send(&mut state, &connection, number, content.copy());
            // If it could not be sent.
            self.mark(&mut state, &*connection);
            return Ok(());
        }
        self.queue(state, connection, content);
        Ok(())
    }

    /// Adds a value to the backlog, or drops one.
    fn queue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        connection: Arc<dyn SubscriberHost>,
        content: &Content,
    ) {
        let cost = (content.size() + VALUE_COST, content.stream_count());
        let mut dropped = Vec::new();
        let pushed = state.backlog.push(content.copy(), cost, &mut dropped);
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

    /// Sends a value, or drops it if its resources are beyond the limit of the connection. Called under the lock, so that numbers are sent in
    /// order.
    fn send(
        &self,
        state: &mut State,
        connection: &Arc<dyn SubscriberHost>,
        number: u64,
        content: Content,
    ) {
        let size = content.size();
        let (event, resources) = match send_event(&**connection, self.id, number, content) {
            Ok(sent) => sent,
            Err(refused) => {
                let reason = refused.to_string();
                locks::later(move || {
                    tracing::warn!(number, reason, "dropped an event value that cannot be sent");
                });
                return;
            }
        };
        state.under_way.push_back(UnderWay { size, event });
        state.under_way_bytes += size;
        state.told = number + 1;
        // A mark that still waits is ahead of this value, and stays as it is: the next one gets its own place behind it.
        state.mark = 0;
        if resources.is_empty() {
            return;
        }
        state.unfetched += resources.len();
        let Some(this) = self.this.upgrade() else { return };
        let connection = Arc::clone(connection);
        locks::later(move || start_resources(&*connection, resources, &(this as Arc<dyn Sender>)));
    }

    /// If values wait for room in the sending queue only, has the connection send them later.
    fn hold_back(&self, state: &mut State, connection: &dyn SubscriberHost) {
        let waits = !state.backlog.is_empty() && state.may_send_first(self.window);
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
        self.send_waiting(state, &connection);
        Ok(())
    }

    /// Sends what waited for room in the connection's queue.
    pub(crate) fn resume(&self) {
        let Some(connection) = self.connection.upgrade() else { return };
        let mut state = self.state.lock();
        state.held_back = false;
        self.send_waiting(state, &connection);
    }

    fn send_waiting(&self, mut state: MutexGuard<'_, State>, connection: &Arc<dyn SubscriberHost>) {
        while state.may_send_first(self.window) && !connection.link().is_backed_up() {
            let Some(waiting) = state.backlog.pop() else { break };
            self.send(&mut state, connection, waiting.number, waiting.value);
        }
        self.mark(&mut state, &**connection);
        self.hold_back(&mut state, &**connection);
        self.made_room(state);
    }

    /// Sends waiting values, also beyond the window, up to the bound. Returns the position of the last one in the event lane, and
    /// whether all were sent.
    fn flush_to(&self, connection: &Arc<dyn SubscriberHost>) -> (u64, bool) {
        let mut state = self.state.lock();
        while self.may_flush(&state) {
            let Some(waiting) = state.backlog.pop() else { break };
            self.send(&mut state, connection, waiting.number, waiting.value);
        }
        self.mark(&mut state, &**connection);
        let value = state.under_way.back().map_or(0, |value| value.event);
        let (last, done) = (value.max(state.mark), state.backlog.is_empty());
        self.made_room(state);
        (last, done)
    }

    /// Sends waiting values up to the bound. Returns whether all were sent.
    pub(crate) fn flush_all(&self) -> bool {
        self.connection.upgrade().is_none_or(|connection| self.flush_to(&connection).1)
    }

    /// Whether one more value may be sent beyond the window. This is bounded by the share, too: each value in flight costs memory here, and
    /// the subscriber may have chosen any window.
    fn may_flush(&self, state: &State) -> bool {
        let most = Window { bytes: self.share, ..self.window };
        let takes = most.takes(state.under_way.len(), state.under_way_bytes);
        (takes || state.may_send(self.window))
            && state.has_room_for(state.backlog.front_resources())
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
        self.connection.upgrade().map_or(0, |connection| self.flush_to(&connection).0)
    }
}

impl Sender for RemoteSubscriber {
    fn was_fetched(&self) {
        let mut state = self.state.lock();
        state.unfetched -= 1;
        if let Some(connection) = self.connection.upgrade() {
            self.send_waiting(state, &connection);
        }
    }
}

impl State {
    fn may_send(&self, window: Window) -> bool {
        window.is_open(self.under_way.len(), self.under_way_bytes)
    }

    /// Whether a value with so many resources may be sent.
    const fn has_room_for(&self, resources: usize) -> bool {
        resources == 0 || self.unfetched < MOST
    }

    /// Whether the value that has waited longest may be sent.
    fn may_send_first(&self, window: Window) -> bool {
        self.may_send(window) && self.has_room_for(self.backlog.front_resources())
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
