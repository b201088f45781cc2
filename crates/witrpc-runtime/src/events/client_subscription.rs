//! The client's side of a subscription. It belongs to the client, and is carried from one connection to the next.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker, ready};

use witrpc_core::contract::descriptor::{EventDescriptor, ServiceDescriptor};
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::ledger::Charge;
use witrpc_core::session::window::Window;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;
use witrpc_core::{CloseReason, Error};

use crate::events::error::EventError;
use crate::events::subscriber::EventValue;
use crate::link::fairness::{Step, poll_counted};
use crate::link::host::Host;
use crate::link::sending::Sends;
use crate::locks::{self, Mutex, Rank, WakerPlace};
use crate::streams::reader::StreamReader;

/// The window, in values: enough for a burst, and little memory.
const WINDOW_VALUES: u32 = 256;
/// How many windows of values from earlier connections an unread subscription keeps: enough for some restarts of a server.
const EARLIER_WINDOWS: u32 = 4;

/// The interface by which a subscription uses its connection.
pub(crate) trait SubscriptionHost: Host {
    /// Removes the subscription with this id from the table. Returns whether it was there.
    fn forget_subscription(&self, id: u32) -> bool;
}

/// What can be subscribed at: a client, which keeps its subscriptions across connections; or the peer of one connection.
pub(crate) trait Subscribable: Send + Sync + fmt::Debug {
    fn codec(&self) -> &Codec;

    /// This side's `max_buffered`.
    fn max_buffered(&self) -> u64;

    /// Adds a new subscription.
    fn add_subscription(&self, subscription: &Arc<ClientSubscription>);

    /// Removes a subscription.
    fn remove_subscription(&self, subscription: &Arc<ClientSubscription>);

    /// The client, which must live until the resources of its values have been fetched.
    fn kept_by_resources(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>>;
}

/// Subscribes to the contract's event at `index`.
pub(crate) fn subscribe(
    callee: Arc<dyn Subscribable>,
    descriptor: &'static ServiceDescriptor,
    index: usize,
) -> SubscriptionHandle {
    let subscription = Arc::new(ClientSubscription {
        descriptor,
        index,
        max_buffered: callee.max_buffered(),
        state: Mutex::new(Rank::Subscription, State::default()),
    });
    callee.add_subscription(&subscription);
    SubscriptionHandle { callee, subscription }
}

/// One subscription. The connection pushes values; the [`SubscriptionHandle`] takes them.
pub(crate) struct ClientSubscription {
    pub(crate) descriptor: &'static ServiceDescriptor,
    pub(crate) index: usize,
    /// This side's `max_buffered`.
    max_buffered: u64,
    state: Mutex<State>,
}

impl fmt::Debug for ClientSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSubscription")
            .field("event", &self.event().name)
            .finish_non_exhaustive()
    }
}

/// Many fields: they change together, under one lock, with each value.
#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    /// The number of values at the front of the queue that arrived over earlier connections.
    earlier: usize,
    /// The expected number of the next value, on the connection over which it arrives.
    expected: u64,
    /// The connection from which values arrive, and the id of the subscription there.
    origin: Option<(Weak<dyn SubscriptionHost>, u32)>,
    /// Whether there was a connection before this one.
    connected_before: bool,
    /// Values that were taken and not acknowledged yet, and their bytes.
    taken: u32,
    taken_bytes: u64,
    waiting: usize,
    waiting_bytes: u64,
    ended: bool,
    waker: WakerPlace,
}

enum Item {
    Value {
        number: u64,
        content: Content,
    },
    /// The number of the next value: earlier values that have not arrived will not arrive.
    Mark(u64),
    Other(EventError),
}

/// The server sent more than the window allows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

impl ClientSubscription {
    pub(crate) fn event(&self) -> &'static EventDescriptor {
        &self.descriptor.events[self.index]
    }

    /// The window for the server, for a client with this `max_buffered`.
    pub(crate) const fn window(max_buffered: u64) -> Window {
        Window { values: WINDOW_VALUES, bytes: max_buffered / 16 + 1 }
    }

    /// Attaches the subscription to a connection, from which its values arrive from now on.
    pub(crate) fn begin(&self, connection: Weak<dyn SubscriptionHost>, id: u32) {
        let mut state = self.state.lock();
        if state.connected_before {
            state.earlier += state.waiting_here();
            state.drop_earlier(Self::window(self.max_buffered).bytes * u64::from(EARLIER_WINDOWS));
            if !matches!(state.queue.back(), Some(Item::Other(EventError::Reconnected))) {
                state.queue.push_back(Item::Other(EventError::Reconnected));
            }
        }
        state.connected_before = true;
        state.origin = Some((connection, id));
        (state.taken, state.taken_bytes) = (0, 0);
        (state.waiting, state.waiting_bytes) = (0, 0);
        state.waker.wake();
    }

    pub(crate) fn push(
        &self,
        number: u64,
        content: Content,
        charge: Charge,
        window: Window,
    ) -> Result<(), Overrun> {
        // From here on the window bounds the value, and not the connection's account: an unread subscription blocks no call.
        drop(charge);
        let mut state = self.state.lock();
        let size = content.size();
        if !window.takes(state.waiting, state.waiting_bytes) {
            return Err(Overrun);
        }
        state.waiting += 1;
        state.waiting_bytes += size;
        state.queue.push_back(Item::Value { number, content });
        state.waker.wake();
        Ok(())
    }

    /// Notes that values before this number that have not arrived will not arrive. At most one mark waits after each value.
    pub(crate) fn mark(&self, number: u64) {
        let mut state = self.state.lock();
        if state.ended {
            return;
        }
        match state.queue.back_mut() {
            Some(Item::Mark(last)) => *last = number.max(*last),
            _ => state.queue.push_back(Item::Mark(number)),
        }
        state.waker.wake();
    }

    /// Ends the subscription; `last` is its last item.
    pub(crate) fn end(&self, last: EventError) {
        let mut state = self.state.lock();
        if !std::mem::replace(&mut state.ended, true) {
            state.queue.push_back(Item::Other(last));
            state.waker.wake();
        }
    }

    /// The memory of the queued items.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> Held {
        let item = |item: &Item| match item {
            Item::Value { content, .. } => content.held(),
            Item::Mark(_) | Item::Other(_) => Held::plain::<Item>(1),
        };
        self.state.lock().queue.iter().map(item).sum()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.state.lock().ended
    }
}

impl State {
    /// The number of values in the queue that arrived over this connection.
    fn waiting_here(&self) -> usize {
        let values = self.queue.iter().filter(|item| matches!(item, Item::Value { .. }));
        values.count() - self.earlier
    }

    /// Drops the oldest values if too many arrived over earlier connections. So an unread subscription does not grow with every
    /// reconnection.
    fn drop_earlier(&mut self, most_bytes: u64) {
        let most = witrpc_core::wire::fields::u32_len(WINDOW_VALUES * EARLIER_WINDOWS);
        let size = |item: &Item| match item {
            Item::Value { content, .. } => content.size(),
            Item::Mark(_) | Item::Other(_) => 0,
        };
        let (mut bytes, mut lost) = (self.queue.iter().map(size).sum::<u64>(), 0);
        while self.earlier > most || (bytes > most_bytes && self.earlier > 0) {
            match self.queue.pop_front() {
                Some(Item::Value { number, content }) => {
                    self.earlier -= 1;
                    bytes -= content.size();
                    // The number is untrusted.
                    lost += number.saturating_sub(self.expected).saturating_add(1);
                    self.expected = number.saturating_add(1);
                }
                Some(Item::Mark(number)) => {
                    lost += number.saturating_sub(self.expected);
                    self.expected = number.max(self.expected);
                }
                Some(Item::Other(EventError::Lagged(before))) => lost += before,
                Some(Item::Other(_)) => self.expected = 0, // Another mark is behind the values.
                None => self.earlier = 0,
            }
        }
        if lost > 0 {
            self.queue.push_front(Item::Other(EventError::Lagged(lost)));
        }
    }

    /// Notes that a value was taken. Returns the acknowledgement to send, if it is due: connection, id and count.
    fn take(&mut self, size: u64, window: Window) -> Option<(Arc<dyn SubscriptionHost>, u32, u32)> {
        if self.earlier > 0 {
            // Its connection is gone; this connection's server does not know of it.
            self.earlier -= 1;
            return None;
        }
        self.taken += 1;
        self.taken_bytes += size;
        let due = self.taken >= (window.values / 2).max(1) || self.taken_bytes >= window.bytes / 2;
        if !due {
            return None;
        }
        let taken = std::mem::take(&mut self.taken);
        self.waiting = self.waiting.saturating_sub(witrpc_core::wire::fields::u32_len(taken));
        self.waiting_bytes =
            self.waiting_bytes.saturating_sub(std::mem::take(&mut self.taken_bytes));
        let (connection, id) = self.origin.as_ref()?;
        Some((connection.upgrade()?, *id, taken))
    }
}

/// The handle of the subscriber of a [`ClientSubscription`].
pub(crate) struct SubscriptionHandle {
    callee: Arc<dyn Subscribable>,
    subscription: Arc<ClientSubscription>,
}

impl fmt::Debug for SubscriptionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.subscription.fmt(f)
    }
}

impl SubscriptionHandle {
    pub(crate) fn poll<T: EventValue>(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<T, EventError>>> {
        let size = |next: &Option<Result<Content, EventError>>| match next {
            Some(Ok(content)) => content.size(),
            Some(Err(_)) | None => 0,
        };
        let next = ready!(poll_counted(cx, Step::Value, |cx| self.take(cx), size));
        Poll::Ready(next.map(|content| self.decode(content?)))
    }

    fn take(&self, cx: &Context<'_>) -> Poll<Option<Result<Content, EventError>>> {
        locks::with_clone(cx.waker(), |clone| self.look(cx.waker(), clone))
    }

    /// What is there. `None` if that is nothing, and leaving the waker takes a clone.
    fn look(
        &self,
        waker: &Waker,
        clone: &mut Option<Waker>,
    ) -> Option<Poll<Option<Result<Content, EventError>>>> {
        let mut state = self.subscription.state.lock();
        let expected = state.expected;
        while let Some(Item::Mark(number)) = state.queue.front() {
            if *number > expected {
                break;
            }
            state.queue.pop_front();
        }
        match state.queue.front() {
            Some(Item::Value { number, .. } | Item::Mark(number)) if *number > expected => {
                let (number, lost) = (*number, *number - expected);
                state.expected = number;
                return Some(Poll::Ready(Some(Err(EventError::Lagged(lost)))));
            }
            Some(_) => {}
            None if state.ended => return Some(Poll::Ready(None)),
            None => return state.waker.leave(waker, clone).then_some(Poll::Pending),
        }
        Some(match state.queue.pop_front() {
            Some(Item::Value { number, content }) => {
                // The number is untrusted.
                state.expected = number.saturating_add(1);
                let window = ClientSubscription::window(self.subscription.max_buffered);
                let ack = state.take(content.size(), window);
                drop(state);
                if let Some((connection, id, taken)) = ack {
                    connection.send(|outbound| {
                        outbound.acknowledge_event(id, taken);
                        Ok(())
                    });
                }
                Poll::Ready(Some(Ok(content)))
            }
            Some(Item::Other(other)) => {
                if other == EventError::Reconnected {
                    state.expected = 0;
                }
                Poll::Ready(Some(Err(other)))
            }
            Some(Item::Mark(_)) | None => Poll::Pending,
        })
    }

    fn decode<T: EventValue>(&self, mut content: Content) -> Result<T, EventError> {
        locks::assert_none_is_held("a value is deserialized");
        let codec = self.callee.codec();
        for resource in content.incoming_mut() {
            if let Some(reader) = resource.inner_mut::<StreamReader>() {
                reader.keep(Arc::clone(&self.callee).kept_by_resources());
            }
        }
        let arrived = content.take_arrived();
        codec.deserialize(content.body(), arrived).map_err(|reason| {
            EventError::Malformed(Error::Deserialize {
                what: format!(
                    "event {}.{}",
                    self.subscription.descriptor.name,
                    self.subscription.event().name
                ),
                serializer: codec.name().to_owned(),
                reason: reason.to_string(),
            })
        })
    }
}

#[cfg(all(feature = "json", any(test, fuzzing)))]
impl SubscriptionHandle {
    pub(crate) fn held(&self) -> Held {
        self.subscription.held()
    }
}

impl Drop for SubscriptionHandle {
    fn drop(&mut self) {
        let mut state = self.subscription.state.lock();
        state.ended = true;
        let origin = state.origin.take();
        let queue = std::mem::take(&mut state.queue);
        let waker = state.waker.take();
        drop(state);
        drop((queue, waker));
        if let Some((connection, id)) = origin {
            if let Some(connection) = connection.upgrade() {
                if connection.forget_subscription(id) {
                    connection.send(|outbound| {
                        outbound.unsubscribe(id);
                        Ok(())
                    });
                }
            }
        }
        self.callee.remove_subscription(&self.subscription);
    }
}

/// The subscriptions of one connection, by id.
#[derive(Debug, Default)]
pub(crate) struct ClientSubscriptions {
    next: u32,
    live: std::collections::HashMap<u32, Arc<ClientSubscription>>,
}

impl ClientSubscriptions {
    /// Adds a subscription; ids are never used again within a connection. `None` once there are no more.
    pub(crate) fn add(&mut self, subscription: Arc<ClientSubscription>) -> Option<u32> {
        let id = self.next;
        self.next = id.checked_add(1)?;
        self.live.insert(id, subscription);
        Some(id)
    }

    /// The subscription with this id; `Err` if there never was one.
    pub(crate) fn get(&self, id: u64) -> Result<Option<&Arc<ClientSubscription>>, Overrun> {
        let id = u32::try_from(id).map_err(|_| Overrun)?;
        if id >= self.next {
            return Err(Overrun);
        }
        Ok(self.live.get(&id))
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Arc<ClientSubscription>> {
        self.live.remove(&id)
    }

    /// Takes all subscriptions: they end with this connection, or are carried to the next.
    pub(crate) fn take(&mut self) -> Vec<Arc<ClientSubscription>> {
        self.live.drain().map(|(_, subscription)| subscription).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }
}

/// Ends subscriptions together with their connection.
pub(crate) fn end_all(subscriptions: Vec<Arc<ClientSubscription>>, reason: &CloseReason) {
    for subscription in subscriptions {
        subscription.end(EventError::Closed(reason.clone()));
    }
}
