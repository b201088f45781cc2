//! The backlog of a subscriber, and what happens when it overflows.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::locks::{Mutex, Rank, later};
use crate::streams::unfetched::MOST;

/// What happens when a value is raised and a subscriber's backlog is full: in values
/// ([`Event::with_capacity`](crate::Event::with_capacity)) or in bytes. Other subscribers are not affected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// [`raise`](crate::Event::raise) waits for room, at most this long. Then the value is dropped for each subscriber whose backlog is
    /// still full. [`raise`](crate::Event::raise) blocks its thread; in a task, use [`raise_async`](crate::Event::raise_async).
    Block(Duration),
    /// The subscriber's connection is closed. A subscriber in the same process only loses its subscription.
    Disconnect,
    /// The new value is dropped.
    DropNewest,
    /// The value that has waited longest is dropped.
    #[default]
    DropOldest,
}

/// Where raising tasks wait for room under [`Overflow::Block`].
#[derive(Debug)]
pub(crate) struct Room {
    /// How often room was made.
    times: Mutex<u64>,
    condvar: Condvar,
    changed: Notify,
    /// Tasks that wait for `changed`, or are about to.
    tasks: AtomicUsize,
}

impl Room {
    pub(super) fn new() -> Arc<Self> {
        let (condvar, changed) = (Condvar::new(), Notify::new());
        let (times, tasks) = (Mutex::new(Rank::Room, 0), AtomicUsize::new(0));
        Arc::new(Self { times, condvar, changed, tasks })
    }

    /// There may be room now.
    pub(crate) fn made(self: &Arc<Self>) {
        *self.times.lock() += 1;
        self.condvar.notify_all();
        // Relaxed: a task that joins looks under the lock under which the room was made. If it came first, we see it; else it sees
        // the room.
        if self.tasks.load(Ordering::Relaxed) > 0 {
            let room = Arc::clone(self);
            later(move || room.changed.notify_waiters());
        }
    }

    /// Blocks until nobody is `behind`; returns `false` at the deadline.
    pub(super) fn wait_until(&self, deadline: Instant, behind: impl Fn() -> bool) -> bool {
        loop {
            // Before the look, which is taken with no lock held: room that is made after it changes the number.
            let before = *self.times.lock();
            if !behind() {
                return true;
            }
            let mut times = self.times.lock();
            while *times == before {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return false;
                }
                times = times.wait_timeout(&self.condvar, left);
            }
        }
    }

    /// For a task that is about to look whether there is room, and to wait for some. It is counted, and has its
    /// [`notified`](RoomWait::notified), before it looks; so room that is made after the look is not missed.
    pub(super) fn join(self: &Arc<Self>) -> RoomWait {
        self.tasks.fetch_add(1, Ordering::Relaxed);
        RoomWait(Arc::clone(self))
    }
}

/// A task that waits for room.
pub(super) struct RoomWait(Arc<Room>);

impl RoomWait {
    pub(super) fn notified(&self) -> Notified<'_> {
        self.0.changed.notified()
    }
}

impl Drop for RoomWait {
    fn drop(&mut self) {
        self.0.tasks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bytes that wait for all subscribers of one connection together.
#[derive(Debug)]
pub(crate) struct Account {
    /// Relaxed throughout: it orders no other data, and each backlog may exceed it by one value.
    used: AtomicU64,
    most: u64,
}

impl Account {
    pub(crate) fn new(most: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), most })
    }

    fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.most
    }
}

/// Values that wait for a subscriber, with their numbers (V1). Bounded by their count, their total cost and their resources. One value may
/// always wait; more are also bounded by what the connection's other subscribers have left of its account.
#[derive(Debug)]
pub(crate) struct Backlog<V> {
    waiting: VecDeque<Waiting<V>>,
    /// Their total cost, in bytes.
    cost: u64,
    /// The number of their resources.
    resources: usize,
    next: u64,
    overflow: Overflow,
    capacity: usize,
    most_cost: u64,
    account: Option<Arc<Account>>,
}

impl<V> Drop for Backlog<V> {
    fn drop(&mut self) {
        self.spend_less(self.cost);
    }
}

#[derive(Debug)]
pub(crate) struct Waiting<V> {
    pub(crate) number: u64,
    pub(crate) value: V,
    cost: u64,
    resources: usize,
}

/// The result of [`Backlog::push`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    Kept,
    Dropped,
    /// The subscriber must be disconnected.
    Disconnect,
}

impl<V> Backlog<V> {
    pub(crate) const fn new(overflow: Overflow, capacity: usize, most_cost: u64) -> Self {
        let waiting = VecDeque::new();
        let (cost, resources, next) = (0, 0, 0);
        Self { waiting, cost, resources, next, overflow, capacity, most_cost, account: None }
    }

    /// Charges the backlog to an account that several backlogs share.
    pub(crate) fn within(mut self, account: Arc<Account>) -> Self {
        self.account = Some(account);
        self
    }

    /// Takes the number for a value that is not queued.
    pub(crate) const fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// The number of the next value.
    pub(crate) const fn next_number(&self) -> u64 {
        self.next
    }

    /// Queues a value of this cost in bytes, with so many resources, or drops one as the overflow policy says. Dropped values are moved into
    /// `dropped`.
    pub(crate) fn push(
        &mut self,
        value: V,
        (cost, resources): (u64, usize),
        dropped: &mut Vec<V>,
    ) -> Pushed {
        let number = self.number();
        while self.is_full() {
            match self.overflow {
                Overflow::DropOldest => match self.pop() {
                    Some(oldest) => dropped.push(oldest.value),
                    None => break,
                },
                Overflow::DropNewest | Overflow::Block(_) => {
                    dropped.push(value);
                    return Pushed::Dropped;
                }
                Overflow::Disconnect => {
                    dropped.push(value);
                    return Pushed::Disconnect;
                }
            }
        }
        self.cost += cost;
        self.resources += resources;
        if let Some(account) = &self.account {
            account.used.fetch_add(cost, Ordering::Relaxed);
        }
        self.waiting.push_back(Waiting { number, value, cost, resources });
        Pushed::Kept
    }

    /// The number of the value that has waited longest.
    pub(crate) fn front_number(&self) -> Option<u64> {
        self.waiting.front().map(|waiting| waiting.number)
    }

    /// The resources of the value that has waited longest.
    pub(crate) fn front_resources(&self) -> usize {
        self.waiting.front().map_or(0, |waiting| waiting.resources)
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting<V>> {
        let first = self.waiting.pop_front()?;
        self.spend_less(first.cost);
        self.resources -= first.resources;
        Some(first)
    }

    fn spend_less(&mut self, cost: u64) {
        self.cost -= cost;
        if let Some(account) = &self.account {
            account.used.fetch_sub(cost, Ordering::Relaxed);
        }
    }

    /// The values that wait.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.waiting.iter().map(|waiting| &waiting.value)
    }

    /// Takes all values: the subscriber is gone.
    pub(crate) fn take(&mut self) -> VecDeque<Waiting<V>> {
        self.spend_less(self.cost);
        self.resources = 0;
        std::mem::take(&mut self.waiting)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.waiting.len() >= self.capacity
            || self.cost >= self.most_cost
            || self.resources >= MOST
            || (!self.waiting.is_empty() && self.account.as_ref().is_some_and(|a| a.is_full()))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Account;
    use super::Backlog;
    use super::MOST;
    use super::Overflow;
    use super::Pushed;

    /// Holds for any number of subscriptions of a connection.
    #[test]
    fn what_waits_for_subscribers_of_one_connection_is_within_one_account() {
        let account = Account::new(1000);
        let backlog =
            |overflow| Backlog::new(overflow, 100, 800).within(std::sync::Arc::clone(&account));
        let mut dropped = Vec::new();
        let mut first = backlog(Overflow::DropNewest);
        assert_eq!(first.push(1, (800, 0), &mut dropped), Pushed::Kept);
        assert_eq!(first.push(2, (1, 0), &mut dropped), Pushed::Dropped, "its share is used up");
        let mut second = backlog(Overflow::DropOldest);
        for value in 3..6 {
            assert_eq!(second.push(value, (200, 0), &mut dropped), Pushed::Kept);
        }
        assert_eq!(dropped, [2, 3, 4], "beyond the account, one value waits");
        let mut third = backlog(Overflow::Disconnect);
        assert_eq!(third.push(6, (500, 0), &mut dropped), Pushed::Kept);
        assert_eq!(third.push(7, (1, 0), &mut dropped), Pushed::Disconnect);
        drop(first);
        assert_eq!(third.push(8, (100, 0), &mut dropped), Pushed::Kept);
        assert_eq!(second.pop().map(|waiting| waiting.value), Some(5));
        assert_eq!(third.take().len(), 2);
        assert!(!account.is_full() && account.used.load(super::Ordering::Relaxed) == 0);
    }

    #[test]
    fn a_backlog_is_full_once_its_values_have_the_most_resources() {
        let mut dropped = Vec::new();
        let mut backlog = Backlog::new(Overflow::DropOldest, 1000, 1000);
        for value in 0..3 {
            assert_eq!(backlog.push(value, (1, MOST - 1), &mut dropped), Pushed::Kept);
            assert_eq!(backlog.push(value, (1, 0), &mut dropped), Pushed::Kept);
        }
        assert_eq!(dropped, [0, 0, 1], "two with resources are too many for a third value");
        assert_eq!(backlog.front_resources(), 0);
        while backlog.pop().is_some() {}
        assert_eq!((backlog.resources, backlog.is_full()), (0, false));
    }
}
