//! The raising side's state of a subscriber at the other end of a connection.
//!
//! Up to a window of values are in flight: sent, and not acknowledged by the subscriber. Further values wait in the backlog, which overflows
//! as the event says; so do values that are raised while so many are queued that they could not be dropped any more. What waits, what is
//! queued and what is kept of values in flight is on one account for all subscribers of a connection
//! ([`EventRoom`](crate::link::event_room::EventRoom)). So slow or stopped subscribers cost a bounded amount, and block nothing else.
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
use witrpc_core::values::content::{Content, Kept};
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::fields::len_u64;
use witrpc_core::wire::frame::Kind;

use crate::context::{CallContext, RaisedTo};
use crate::events::backlog::{Backlog, Cost, ENTRY, Overflow, Pushed, Room, Waiting};
use crate::events::subscriber::{Encoded, Registration};
use crate::link::ending::Ends;
use crate::link::event_room::EventRoom;
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

    /// Notes that somebody waits until there is room for a value for this subscriber. He looks once more after this, and is
    /// [told](RemoteSubscriber::tell_of_room) once there is some.
    fn crowd_out(&self, subscription: u32);
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
    /// The room of all subscribers of the connection.
    event_room: Arc<EventRoom>,
    max_message_size: u64,
    state: Mutex<State>,
    /// A weak reference to this value.
    this: Weak<Self>,
}

struct State {
    backlog: Backlog<Kept>,
    under_way: AllUnderWay,
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

/// What an entry of [`AllUnderWay`] takes, in a queue that grows by doubling.
const UNDER_WAY: u64 = 2 * size_of::<UnderWay>() as u64;
/// Entries for which room is kept while there are none.
const SPARE_ENTRIES: usize = 16;

/// The values in flight, oldest first.
struct AllUnderWay {
    values: VecDeque<UnderWay>,
    /// The sum of their sizes.
    bytes: u64,
    room: Arc<EventRoom>,
}

impl AllUnderWay {
    const fn new(room: Arc<EventRoom>) -> Self {
        Self { values: VecDeque::new(), bytes: 0, room }
    }

    fn push(&mut self, value: UnderWay) {
        self.room.charge(UNDER_WAY);
        self.bytes += value.size;
        self.values.push_back(value);
    }

    fn pop(&mut self) -> Option<UnderWay> {
        let value = self.values.pop_front()?;
        self.room.discharge(UNDER_WAY);
        self.bytes -= value.size;
        if self.values.is_empty() && self.values.capacity() > SPARE_ENTRIES {
            self.values = VecDeque::new();
        }
        Some(value)
    }

    fn take(&mut self) -> VecDeque<UnderWay> {
        self.room.discharge(UNDER_WAY * len_u64(self.values.len()));
        self.bytes = 0;
        std::mem::take(&mut self.values)
    }
}

impl Drop for AllUnderWay {
    fn drop(&mut self) {
        drop(self.take());
    }
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
    /// A subscriber with this window.
    pub(crate) fn new(
        connection: Weak<dyn SubscriberHost>,
        link: &Link,
        id: u32,
        window: Window,
    ) -> Arc<Self> {
        let event_room = Arc::clone(&link.sending.events);
        let state = State {
            backlog: Backlog::new(Overflow::default(), 1, 1),
            under_way: AllUnderWay::new(Arc::clone(&event_room)),
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
            event_room,
            max_message_size: link.peer_limits.max_message_size,
            state: Mutex::new(Rank::Subscription, state),
            this: Weak::clone(this),
        })
    }

    /// Applies the event's settings, before the first value.
    pub(crate) fn configure(&self, overflow: Overflow, capacity: usize, room: Arc<Room>) {
        let mut state = self.state.lock();
        state.backlog = Backlog::new(overflow, capacity, self.window.bytes)
            .within(Arc::clone(&self.event_room));
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
    pub(crate) fn deliver(self: &Arc<Self>, encoded: &mut Encoded) -> Result<(), &'static str> {
        let Some(connection) = self.connection.upgrade() else { return Ok(()) };
        let content = &encoded.content;
        let lendable = connection.link().lending.lendable(content);
        let (size, resources) = (content.size() - lendable, content.stream_count());
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
            && !self.event_room.queue_is_full()
            && self.event_room.left() > 0
        {
            let number = state.backlog.number();
            self.send(&mut state, &connection, number, content.copy());
            // If it could not be sent.
            self.mark(&mut state, &*connection);
            return Ok(());
        }
        self.queue(state, connection, encoded, lendable);
        Ok(())
    }

    /// Adds a value to the backlog, or drops one.
    fn queue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State>,
        connection: Arc<dyn SubscriberHost>,
        encoded: &mut Encoded,
        lendable: u64,
    ) {
        let kept = encoded.keep();
        // What is in an arena takes none of the account.
        let cost = Cost {
            size: encoded.content.size() - lendable + VALUE_COST,
            memory: kept.footprint() - lendable + ENTRY,
            resources: encoded.content.stream_count(),
        };
        let mut dropped = Vec::new();
        let pushed = state.backlog.push(kept, cost, &mut dropped);
        if pushed == Pushed::Disconnect {
            drop(state);
            locks::let_go(connection, |connection| {
                connection.disconnect(
                    "a subscriber did not keep up with an event (Overflow::Disconnect)",
                );
            });
            return;
        }
        // If there is no room for any value.
        self.mark(&mut state, &*connection);
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
        mut content: Content,
    ) {
        connection.link().lending.prepare(&mut content);
        let (size, limit) = (content.size(), self.max_message_size);
        if size > limit {
            // It could be lent as it was raised, and more is lent now.
            locks::dispose(content);
            locks::later(move || {
                tracing::warn!(
                    number,
                    size,
                    limit,
                    "dropped an event value, as there is too much lent to lend more"
                );
            });
            return;
        }
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
        state.under_way.push(UnderWay { size, event });
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

    /// Sends the value that has waited longest. Returns `false` if none waits.
    fn send_first(&self, state: &mut State, connection: &Arc<dyn SubscriberHost>) -> bool {
        let Some(Waiting { number, value, .. }) = state.backlog.pop() else { return false };
        let (content, shared) = value.into_content();
        if let Some(shared) = shared {
            locks::dispose(shared); // It may be the last one meanwhile.
        }
        self.send(state, connection, number, content);
        true
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
        let under_way = state.under_way.take();
        let waiting = state.backlog.take();
        let mark = state.mark;
        drop(state);
        locks::dispose(waiting);
        under_way.into_iter().map(|value| value.event).chain([mark])
    }

    /// Whether the next value would overflow. If that is because others have all of the room, the event is told once there is some.
    pub(crate) fn is_full(&self) -> bool {
        let state = self.state.lock();
        if state.backlog.is_full() && state.backlog.is_empty() {
            if let Some(connection) = self.connection.upgrade() {
                connection.crowd_out(self.id);
            }
        }
        state.backlog.is_full()
    }

    /// There is room for values.
    pub(crate) fn tell_of_room(&self) {
        self.made_room(self.state.lock());
    }

    /// The memory of the backlog, and of the entries for values in flight.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> (Held, Held) {
        let state = self.state.lock();
        let waiting = state.backlog.values().map(Kept::held).sum();
        (waiting, Held::plain::<UnderWay>(state.under_way.values.len()))
    }

    /// The subscriber has acknowledged this many values: sends what waited for that.
    pub(crate) fn acknowledge(&self, values: u32) -> Result<(), TooManyAcks> {
        let Some(connection) = self.connection.upgrade() else { return Ok(()) };
        let mut state = self.state.lock();
        for _ in 0..values {
            state.under_way.pop().ok_or(TooManyAcks)?;
        }
        self.send_waiting(state, &connection);
        if self.event_room.is_due() {
            connection.link().wake_driver();
        }
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
        while state.may_send_first(self.window)
            && !self.event_room.queue_is_full()
            && self.send_first(&mut state, connection)
        {}
        self.mark(&mut state, &**connection);
        self.hold_back(&mut state, &**connection);
        self.made_room(state);
    }

    /// Sends waiting values, also beyond the window, up to the bound. Returns the position of the last one in the event lane, and
    /// whether all were sent.
    fn flush_to(&self, connection: &Arc<dyn SubscriberHost>) -> (u64, bool) {
        let mut state = self.state.lock();
        while self.may_flush(&state) && self.send_first(&mut state, connection) {}
        self.mark(&mut state, &**connection);
        let value = state.under_way.values.back().map_or(0, |value| value.event);
        let (last, done) = (value.max(state.mark), state.backlog.is_empty());
        self.made_room(state);
        (last, done)
    }

    /// Sends waiting values up to the bound. Returns whether all were sent.
    pub(crate) fn flush_all(&self) -> bool {
        self.connection.upgrade().is_none_or(|connection| self.flush_to(&connection).1)
    }

    /// Whether one more value may be sent beyond the window. It stays on the account, where it has been while it waited.
    fn may_flush(&self, state: &State) -> bool {
        self.window.takes(state.under_way.values.len(), state.under_way.bytes)
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
        window.is_open(self.under_way.values.len(), self.under_way.bytes)
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
