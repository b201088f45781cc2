//! [`Event`]: what a service raises and its clients subscribe to.
//!
//! An event is local (the service's own, made by [`Event::new`]) or remote (a client's view of one). Subscribers are
//! sinks; those within this process are in [`local`](crate::event), those at the other end of a connection in
//! [`sink`](crate::sink), and how a client receives is in [`feed`](crate::feed). This file decides who gets what, and
//! what happens when a subscriber does not keep up.
//!
//! # Invariants
//!
//! - **V1** Values reach every subscriber in the order in which they were raised, with rising numbers; a value that is
//!   dropped leaves a hole in the numbers, and only that subscriber sees it.
//! - **V2** Raising never waits for a subscriber, except under [`Overflow::Block`], and then no longer than it says.

use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::lock;
use crate::error::Error;
use crate::feed::RemoteEvent;
use crate::sink::{Encoded, RemoteSink};
use crate::subscription::{LocalFeed, Subscription};

/// Values that wait for one subscriber, unless the event says otherwise.
const DEFAULT_CAPACITY: usize = 1024;

/// What an event can carry.
pub trait EventValue: Clone + Serialize + DeserializeOwned + Send + 'static {}

impl<T: Clone + Serialize + DeserializeOwned + Send + 'static> EventValue for T {}

/// What happens when a value is raised and a subscriber has [`capacity`](Event::with_capacity) values waiting.
///
/// Other subscribers are not affected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Whoever raises waits until there is room, up to this long; then the value is dropped for the subscribers that
    /// are still behind. [`raise`](Event::raise) blocks its thread; use [`raise_async`](Event::raise_async) in a task.
    Block(Duration),
    /// The subscriber's connection is closed.
    Disconnect,
    /// The new value is dropped.
    DropNewest,
    /// The value that has waited longest is dropped.
    #[default]
    DropOldest,
}

/// An event of a service.
///
/// A service owns it as a field and raises it; a clone is the same event, for a task that raises it. A client gets it
/// from the generated client and subscribes.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use witrpc_core::Event;
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

impl<T: EventValue> Event<T> {
    /// An event with [`Overflow::DropOldest`] and room for 1024 values per subscriber.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Overflow::default(), DEFAULT_CAPACITY)
    }

    /// Sets what happens when a subscriber does not keep up.
    ///
    /// To be called on a fresh event: existing clones and subscribers keep what they have.
    #[must_use]
    pub fn with_overflow(self, overflow: Overflow) -> Self {
        let capacity = self.settings().map_or(DEFAULT_CAPACITY, |local| local.capacity);
        Self::with(overflow, capacity)
    }

    /// Sets how many values may wait for one subscriber, at least one.
    ///
    /// To be called on a fresh event: existing clones and subscribers keep what they have.
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
            sinks: Mutex::new(Sinks { next: 0, list: Vec::new() }),
            room: Arc::new(Room::default()),
        };
        Self { inner: Inner::Local(Arc::new(local)) }
    }

    pub(crate) const fn remote(remote: RemoteEvent) -> Self {
        Self { inner: Inner::Remote(remote, PhantomData) }
    }

    /// Gives `value` to every subscriber. Costs next to nothing when there is none.
    ///
    /// Never waits, except under [`Overflow::Block`]. Within a handler, the value reaches the caller that the handler
    /// answers, if it subscribed, before the answer does.
    ///
    /// # Errors
    ///
    /// [`Error::RemoteEvent`] on a client's view of an event: only the service raises it. [`Error::Serialize`] if the
    /// value cannot be serialized for a subscriber; the others have it.
    pub fn raise(&self, value: T) -> Result<(), Error> {
        let local = self.local()?;
        if !local.has_subscribers() {
            return Ok(());
        }
        let Overflow::Block(limit) = local.overflow else { return local.deliver(&value) };
        let deadline = Instant::now() + limit;
        while local.is_behind() && local.room.wait_until(deadline, || local.is_behind()) {}
        local.deliver(&value)
    }

    /// [`raise`](Self::raise) that waits without blocking the thread.
    ///
    /// # Errors
    ///
    /// As [`raise`](Self::raise).
    pub async fn raise_async(&self, value: T) -> Result<(), Error> {
        let local = self.local()?;
        if let Overflow::Block(limit) = local.overflow {
            let deadline = tokio::time::Instant::now() + limit;
            loop {
                let changed = local.room.changed.notified();
                if !local.is_behind() || tokio::time::timeout_at(deadline, changed).await.is_err() {
                    break;
                }
            }
        }
        if local.has_subscribers() { local.deliver(&value) } else { Ok(()) }
    }

    /// Subscribes: the stream has every value raised from now on, for as long as it is kept.
    ///
    /// On a client, the subscription is in force at the server before any call made after it runs; while there is no
    /// connection it waits for one.
    #[must_use = "dropping the subscription ends it"]
    pub fn subscribe(&self) -> Subscription<T> {
        match &self.inner {
            Inner::Remote(remote, _) => Subscription::remote(remote.subscribe()),
            Inner::Local(local) => {
                let feed = LocalFeed::new(local.overflow, local.capacity, Arc::clone(&local.room));
                let registration = local.add(Arc::clone(&feed) as Arc<dyn Sink<T>>);
                Subscription::local(feed, registration)
            }
        }
    }

    /// Subscribers at this end: none of a remote event's are known.
    #[must_use]
    pub fn subscriber_count(&self) -> usize {
        self.settings().map_or(0, |local| local.count.load(Ordering::Relaxed))
    }

    /// Adds a subscriber at the other end of a connection. `None` if the event is itself a remote one.
    pub(crate) fn attach(&self, sink: Arc<RemoteSink>) -> Option<Registration> {
        let local = self.local().ok()?;
        sink.configure(local.overflow, local.capacity, Arc::clone(&local.room));
        Some(local.add(Arc::new(Typed(sink))))
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
    sinks: Mutex<Sinks<T>>,
    room: Arc<Room>,
}

struct Sinks<T> {
    next: u64,
    list: Vec<(u64, Arc<dyn Sink<T>>)>,
}

impl<T: EventValue> Local<T> {
    fn has_subscribers(&self) -> bool {
        // Acquire: pairs with the release in `add`, so whoever knows of a subscription raises to it.
        self.count.load(Ordering::Acquire) > 0
    }

    fn is_behind(&self) -> bool {
        lock(&self.sinks).list.iter().any(|(_, sink)| sink.is_full())
    }

    /// The lock is held throughout: that is what gives all subscribers one order (V1).
    fn deliver(&self, value: &T) -> Result<(), Error> {
        let sinks = lock(&self.sinks);
        let mut encoded = Encoded::default();
        let mut result = Ok(());
        for (_, sink) in &sinks.list {
            if let Err(error) = sink.deliver(value, &mut encoded) {
                result = Err(error);
            }
        }
        result
    }

    fn add(self: &Arc<Self>, sink: Arc<dyn Sink<T>>) -> Registration {
        let mut sinks = lock(&self.sinks);
        let id = sinks.next;
        sinks.next += 1;
        sinks.list.push((id, sink));
        self.count.store(sinks.list.len(), Ordering::Release);
        drop(sinks);
        let event = Arc::downgrade(self);
        Registration(Some(Box::new(move || {
            let Some(event) = event.upgrade() else { return };
            let mut sinks = lock(&event.sinks);
            let at = sinks.list.iter().position(|(other, _)| *other == id);
            let removed = at.map(|at| sinks.list.remove(at));
            event.count.store(sinks.list.len(), Ordering::Release);
            drop(sinks);
            drop(removed);
            // Whoever waited for this subscriber need not any more.
            event.room.made();
        })))
    }
}

/// A subscriber as an event sees it.
pub(crate) trait Sink<T>: Send + Sync {
    /// Takes a value, or drops one, as the event's [`Overflow`] says. Never waits.
    fn deliver(&self, value: &T, encoded: &mut Encoded) -> Result<(), Error>;

    /// Whether the next value would overflow.
    fn is_full(&self) -> bool;
}

/// A connection's subscriber, given the type of its values.
struct Typed(Arc<RemoteSink>);

impl<T: EventValue> Sink<T> for Typed {
    fn deliver(&self, value: &T, encoded: &mut Encoded) -> Result<(), Error> {
        self.0.deliver(encoded.get(self.0.codec(), value)?);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.0.is_full()
    }
}

/// Ends a subscription at its event when dropped.
pub(crate) struct Registration(Option<Box<dyn FnOnce() + Send>>);

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration")
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

/// Where those who raise under [`Overflow::Block`] wait for room.
#[derive(Debug, Default)]
pub(crate) struct Room {
    lock: Mutex<()>,
    condvar: Condvar,
    changed: tokio::sync::Notify,
}

impl Room {
    /// There may be room now.
    pub(crate) fn made(&self) {
        // Taking the lock orders this after the check of whoever is about to wait.
        drop(lock(&self.lock));
        self.condvar.notify_all();
        self.changed.notify_waiters();
    }

    /// Blocks until there may be room; returns `false` at the deadline.
    fn wait_until(&self, deadline: Instant, behind: impl Fn() -> bool) -> bool {
        let guard = lock(&self.lock);
        if !behind() {
            return true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        drop(self.condvar.wait_timeout(guard, left));
        true
    }
}

/// Values that wait for a subscriber, with their numbers (V1).
#[derive(Debug)]
pub(crate) struct Backlog<V> {
    waiting: VecDeque<(u64, V)>,
    next: u64,
    overflow: Overflow,
    capacity: usize,
}

/// What a [`Backlog`] made of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Kept,
    Dropped,
    /// The subscriber must go.
    Disconnect,
}

impl<V> Backlog<V> {
    pub(crate) const fn new(overflow: Overflow, capacity: usize) -> Self {
        Self { waiting: VecDeque::new(), next: 0, overflow, capacity }
    }

    /// The number of a value that is not queued.
    pub(crate) const fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(crate) fn push(&mut self, value: V) -> Pushed {
        let number = self.number();
        if self.is_full() {
            match self.overflow {
                Overflow::DropOldest => drop(self.waiting.pop_front()),
                Overflow::DropNewest | Overflow::Block(_) => return Pushed::Dropped,
                Overflow::Disconnect => return Pushed::Disconnect,
            }
        }
        self.waiting.push_back((number, value));
        Pushed::Kept
    }

    /// The number of the value that has waited longest.
    pub(crate) fn front_number(&self) -> Option<u64> {
        self.waiting.front().map(|(number, _)| *number)
    }

    pub(crate) fn pop(&mut self) -> Option<(u64, V)> {
        self.waiting.pop_front()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= self.capacity
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}
