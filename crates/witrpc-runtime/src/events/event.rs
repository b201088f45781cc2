//! [`Event`]: what a service raises and its clients subscribe to.
//!
//! An event is local (the service's own, made by [`Event::new`]) or remote (a client's view of one). Its subscribers
//! are in [`local_subscriber`](crate::events::local_subscriber) (within this process) and
//! [`remote_subscriber`](crate::events::remote_subscriber) (at the other end of a connection). How a client receives values is in
//! [`client_subscription`](crate::events::client_subscription). This file decides which subscribers get a value, and what happens when
//! one does not keep up.
//!
//! # Invariants
//!
//! - **V1** Values reach every subscriber in the order in which they were raised, with increasing numbers. A value that is dropped for a
//!   subscriber leaves a gap in the numbers of that subscriber only.
//! - **V2** Raising never waits for a subscriber, except under [`Overflow::Block`], and then no longer than its limit.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::coop::consume_budget;
use witrpc_core::Error;
use witrpc_core::values::serializer::Codec;

use crate::events::backlog::{Overflow, Room};
use crate::events::local_subscriber::LocalSubscriber;
use crate::events::remote_event::{RemoteEvent, RemoteSubscription};
use crate::events::remote_subscriber::{Attached, EventSubscriber, RemoteSubscriber};
use crate::events::subscriber::{EventValue, Prepared, Registration, Subscriber};
use crate::events::subscription::Subscription;
use crate::link::timers;
use crate::locks::{self, Mutex, Rank};

/// The default capacity for each subscriber, in values.
const DEFAULT_CAPACITY: usize = 1024;

/// An event of a service: values that the service pushes to its subscribers.
///
/// The service keeps it in a field and calls [`raise`](Self::raise). Clones of an `Event` are the same event, so a task can raise it
/// through a clone. A client gets the event from its handle and calls [`subscribe`](Self::subscribe).
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use witrpc::Event;
///
/// let progress = Event::new();
/// let mut values = progress.subscribe();
/// progress.raise(0.5).unwrap();
/// assert_eq!(values.next().await, Some(Ok(0.5)));
/// # });
/// ```
pub struct Event<T> {
    inner: Inner<T>,
}

enum Inner<T> {
    Local(Arc<Local<T>>),
    Remote(RemoteEvent, PhantomData<fn() -> T>),
}

impl<T> Clone for Event<T> {
    fn clone(&self) -> Self {
        let inner = match &self.inner {
            Inner::Local(local) => Inner::Local(Arc::clone(local)),
            Inner::Remote(remote, marker) => Inner::Remote(remote.clone(), *marker),
        };
        Self { inner }
    }
}

impl<T> fmt::Debug for Event<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.inner {
            Inner::Local(local) => f
                .debug_struct("Event")
                .field("overflow", &local.overflow)
                .field("capacity", &local.capacity)
                .field("subscribers", &local.count.load(Ordering::Relaxed))
                .finish(),
            Inner::Remote(remote, _) => remote.fmt(f),
        }
    }
}

impl<T: EventValue> Default for Event<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Event<T> {
    pub(crate) const fn remote(remote: RemoteEvent) -> Self {
        Self { inner: Inner::Remote(remote, PhantomData) }
    }
}

impl<T: EventValue> Event<T> {
    /// Makes an event with [`Overflow::DropOldest`] and a capacity of 1024 values per subscriber.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Overflow::default(), DEFAULT_CAPACITY)
    }

    /// Sets what happens when a subscriber does not keep up. Default [`Overflow::DropOldest`].
    ///
    /// Call it on a new event: it returns another event, which existing clones and subscribers do not belong to.
    #[must_use]
    pub fn with_overflow(self, overflow: Overflow) -> Self {
        let capacity = self.settings().map_or(DEFAULT_CAPACITY, |local| local.capacity);
        Self::with(overflow, capacity)
    }

    /// Sets how many values can wait for one subscriber. 0 counts as 1. Default 1024.
    ///
    /// Values that wait for subscribers in another process are also limited in bytes: all that wait for the subscriptions of one client, to an
    /// eighth of the server's `with_max_buffered`, and what waits for one subscription, to twice of what is left of that, and to a sixteenth of the client's
    /// `with_max_buffered`. While there is any room, a value can wait whatever its size.
    ///
    /// Call it on a new event: it returns another event, which existing clones and subscribers do not belong to.
    #[must_use]
    pub fn with_capacity(self, values: usize) -> Self {
        let overflow = self.settings().map_or_else(Overflow::default, |local| local.overflow);
        Self::with(overflow, values.max(1))
    }

    fn with(overflow: Overflow, capacity: usize) -> Self {
        let local = Local {
            overflow,
            capacity,
            count: AtomicUsize::new(0),
            subscribers: Mutex::new(Rank::Event, Subscribers::new()),
            room: Room::new(),
        };
        Self { inner: Inner::Local(Arc::new(local)) }
    }

    /// Sends `value` to every subscriber. Does almost nothing if there is none.
    ///
    /// It waits only under [`Overflow::Block`], and then blocks the thread.
    ///
    /// If a handler raises values and its caller has subscribed, the values arrive before the handler's response. This holds for as many
    /// values as the event's [capacity](Self::with_capacity); the number of values dropped beyond that arrives before the response, too.
    /// Values that together are larger than a sixteenth of `with_max_buffered` (the client's or the server's) may arrive after the response, or
    /// be dropped.
    ///
    /// # Errors
    ///
    /// [`Error::RemoteEvent`] if the event comes from a client's handle: only the service can raise it. [`Error::Serialize`] if the
    /// value cannot be serialized for one of the subscribers, [`Error::Unsupported`] if the connection to one of them cannot carry it; the
    /// others receive it.
    pub fn raise(&self, value: T) -> Result<(), Error> {
        let local = self.local()?;
        if !local.has_subscribers() {
            return Ok(());
        }
        let Overflow::Block(limit) = local.overflow else { return local.deliver(&value) };
        let deadline = timers::system_deadline(limit);
        local.room.wait_until(deadline, || local.is_behind());
        local.deliver(&value)
    }

    /// Like [`raise`](Self::raise), but waits without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`raise`](Self::raise). [`Error::NoRuntime`] if it has to wait and there is no tokio runtime with timers; then no subscriber
    /// receives the value.
    pub async fn raise_async(&self, value: T) -> Result<(), Error> {
        consume_budget().await;
        let local = self.local()?;
        if let Overflow::Block(limit) = local.overflow {
            let deadline = timers::deadline(limit);
            let room = local.room.join();
            loop {
                let changed = room.notified();
                if !local.is_behind() {
                    break;
                }
                timers::check("raise_async() of an event with Overflow::Block")?;
                if tokio::time::timeout_at(deadline, changed).await.is_err() {
                    break;
                }
            }
        }
        if local.has_subscribers() { local.deliver(&value) } else { Ok(()) }
    }

    /// Subscribes. The subscription yields every value that is raised from now on. Dropping it unsubscribes.
    ///
    /// On a client, the subscription takes effect at the server before any call that the client makes afterwards. If the client is not
    /// connected, the subscription takes effect when it connects.
    #[must_use = "dropping the subscription ends it"]
    pub fn subscribe(&self) -> Subscription<T> {
        match &self.inner {
            Inner::Remote(remote, _) => match remote.subscribe() {
                RemoteSubscription::One(handle) => Subscription::remote(handle),
                RemoteSubscription::Merged(merged) => Subscription::merged(merged),
            },
            Inner::Local(local) => {
                let subscription =
                    LocalSubscriber::new(local.overflow, local.capacity, Arc::clone(&local.room));
                let registration = local.add(Arc::clone(&subscription) as Arc<dyn Subscriber<T>>);
                Subscription::local(subscription, registration)
            }
        }
    }

    /// Returns the number of subscribers. Always 0 if the event comes from a client's handle.
    #[must_use]
    pub fn subscriber_count(&self) -> usize {
        self.settings().map_or(0, |local| local.count.load(Ordering::Relaxed))
    }

    /// Adds a subscriber at the other end of a connection. `None` if the event is itself a remote one.
    pub(crate) fn attach(&self, subscriber: Arc<RemoteSubscriber>) -> Option<Registration> {
        let local = self.local().ok()?;
        subscriber.configure(local.overflow, local.capacity, Arc::clone(&local.room));
        Some(local.add(Arc::new(Typed(subscriber))))
    }

    fn local(&self) -> Result<&Arc<Local<T>>, Error> {
        match &self.inner {
            Inner::Local(local) => Ok(local),
            Inner::Remote(remote, _) => Err(Error::RemoteEvent { event: remote.name() }),
        }
    }

    fn settings(&self) -> Option<&Arc<Local<T>>> {
        self.local().ok()
    }
}

/// A service's own event.
struct Local<T> {
    overflow: Overflow,
    capacity: usize,
    /// The length of the list, to be read without its lock.
    count: AtomicUsize,
    subscribers: Mutex<Subscribers<T>>,
    room: Arc<Room>,
}

struct Subscribers<T> {
    next: u64,
    /// In the order of subscribing.
    list: BTreeMap<u64, Arc<dyn Subscriber<T>>>,
    /// How many of them take clones.
    local: usize,
    /// The serializers of the others, each once; and how many have each.
    codecs: Arc<Vec<Codec>>,
    users: Vec<usize>,
}

impl<T> Subscribers<T> {
    fn new() -> Self {
        let (codecs, users) = (Arc::default(), Vec::new());
        Self { next: 0, list: BTreeMap::new(), local: 0, codecs, users }
    }

    fn add(&mut self, subscriber: Arc<dyn Subscriber<T>>) -> u64 {
        match subscriber.codec() {
            None => self.local += 1,
            Some(codec) => match self.position(codec) {
                Some(at) => self.users[at] += 1,
                None => {
                    Arc::make_mut(&mut self.codecs).push(codec.clone());
                    self.users.push(1);
                }
            },
        }
        let id = self.next;
        self.next += 1;
        self.list.insert(id, subscriber);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Arc<dyn Subscriber<T>>> {
        let removed = self.list.remove(&id)?;
        match removed.codec() {
            None => self.local -= 1,
            Some(codec) => {
                let at = self.position(codec)?;
                self.users[at] -= 1;
                if self.users[at] == 0 {
                    self.users.swap_remove(at);
                    Arc::make_mut(&mut self.codecs).swap_remove(at);
                }
            }
        }
        Some(removed)
    }

    fn position(&self, codec: &Codec) -> Option<usize> {
        self.codecs.iter().position(|known| known.name() == codec.name())
    }
}

impl<T: EventValue> Local<T> {
    fn has_subscribers(&self) -> bool {
        // Acquire: pairs with the release in `add`. So a task that knows of a subscription raises to it.
        self.count.load(Ordering::Acquire) > 0
    }

    fn is_behind(&self) -> bool {
        self.subscribers.lock().list.values().any(|subscriber| subscriber.is_full())
    }

    /// The lock is held throughout, which gives all subscribers the same order (V1).
    fn deliver(&self, value: &T) -> Result<(), Error> {
        let subscribers = self.subscribers.lock();
        let (next, local) = (subscribers.next, subscribers.local);
        let codecs = Arc::clone(&subscribers.codecs);
        drop(subscribers);
        let (mut prepared, result) = Prepared::new(value, &codecs, local);
        let (subscribers, mut delivered) = (self.subscribers.lock(), Ok(()));
        for (_, subscriber) in subscribers.list.range(..next) {
            delivered = delivered.and(subscriber.deliver(&mut prepared));
        }
        drop(subscribers);
        let what = || "an event's value".to_owned();
        let unsupported =
            |advice: &'static str| Error::Unsupported { what: what(), advice: advice.to_owned() };
        result.and(delivered.map_err(unsupported))
    }

    fn add(self: &Arc<Self>, subscriber: Arc<dyn Subscriber<T>>) -> Registration {
        let mut subscribers = self.subscribers.lock();
        let id = subscribers.add(subscriber);
        self.count.store(subscribers.list.len(), Ordering::Release);
        drop(subscribers);
        let event = Arc::downgrade(self);
        Registration(Some(Box::new(move || {
            let Some(event) = event.upgrade() else { return };
            let mut subscribers = event.subscribers.lock();
            let removed = subscribers.remove(id);
            event.count.store(subscribers.list.len(), Ordering::Release);
            drop(subscribers);
            // Tasks that waited for this subscriber need not wait any more.
            event.room.made();
            // The user's values, if they were the last that had them.
            locks::dispose((removed, event));
        })))
    }
}

/// A connection's subscriber, with the type of its values.
struct Typed(Arc<RemoteSubscriber>);

impl<T: EventValue> Subscriber<T> for Typed {
    fn codec(&self) -> Option<&Codec> {
        Some(self.0.codec())
    }

    fn deliver(&self, prepared: &mut Prepared<T>) -> Result<(), &'static str> {
        prepared.encoded(self.0.codec()).map_or(Ok(()), |encoded| self.0.deliver(encoded))
    }

    fn is_full(&self) -> bool {
        self.0.is_full()
    }
}

/// Attaches a subscriber to a service's event.
#[doc(hidden)]
#[must_use]
pub fn attach<T: EventValue>(event: &Event<T>, subscriber: EventSubscriber) -> Attached {
    Attached(event.attach(subscriber.0))
}
