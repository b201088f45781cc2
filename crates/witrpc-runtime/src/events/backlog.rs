//! The backlog of a subscriber, and what happens when it overflows.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::link::event_room::EventRoom;
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

/// What a value takes in a backlog in addition to its own memory: its entry there, in a queue that grows by doubling, and its allocation.
pub(super) const ENTRY: u64 = 128;
/// A backlog may have this many times what all backlogs of its connection have left. So a subscriber that does not take its values has two
/// thirds of the room if it is alone, and *n* of them leave a part in 1 + 2 · *n* to the others.
const TIMES_THE_REST: u64 = 2;
/// Entries for which a backlog keeps room while it is empty.
const SPARE_ENTRIES: usize = 16;

/// What a value is charged for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    /// For the subscriber's window, in bytes. [wire.event.ack]
    pub(crate) size: u64,
    /// The memory that it takes, for the room of the connection.
    pub(crate) memory: u64,
    pub(crate) resources: usize,
}

/// Values that wait for a subscriber, with their numbers (V1). Bounded by their count, the subscriber's window, their resources, and what
/// all subscribers of the connection have left of its room for events.
#[derive(Debug)]
pub(crate) struct Backlog<V> {
    waiting: VecDeque<Waiting<V>>,
    /// Their total size, for the window.
    size: u64,
    /// Their total memory.
    memory: u64,
    /// The number of their resources.
    resources: usize,
    next: u64,
    overflow: Overflow,
    capacity: usize,
    most_size: u64,
    room: Option<Arc<EventRoom>>,
}

impl<V> Drop for Backlog<V> {
    fn drop(&mut self) {
        self.discharge(self.memory);
    }
}

#[derive(Debug)]
pub(crate) struct Waiting<V> {
    pub(crate) number: u64,
    pub(crate) value: V,
    cost: Cost,
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
    pub(crate) const fn new(overflow: Overflow, capacity: usize, most_size: u64) -> Self {
        let waiting = VecDeque::new();
        let (size, memory, resources, next) = (0, 0, 0, 0);
        let room = None;
        Self { waiting, size, memory, resources, next, overflow, capacity, most_size, room }
    }

    /// Charges the backlog to the room that several backlogs share.
    pub(crate) fn within(mut self, room: Arc<EventRoom>) -> Self {
        self.room = Some(room);
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

    /// Queues a value, or drops one as the overflow policy says. Dropped values are moved into `dropped`.
    pub(crate) fn push(&mut self, value: V, cost: Cost, dropped: &mut Vec<V>) -> Pushed {
        let number = self.number();
        while self.is_full() {
            match self.overflow {
                Overflow::DropOldest => match self.pop() {
                    Some(oldest) => dropped.push(oldest.value),
                    // Others have all of the room.
                    None => {
                        dropped.push(value);
                        return Pushed::Dropped;
                    }
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
        self.size += cost.size;
        self.memory += cost.memory;
        self.resources += cost.resources;
        if let Some(room) = &self.room {
            room.charge(cost.memory);
        }
        self.waiting.push_back(Waiting { number, value, cost });
        Pushed::Kept
    }

    /// The number of the value that has waited longest.
    pub(crate) fn front_number(&self) -> Option<u64> {
        self.waiting.front().map(|waiting| waiting.number)
    }

    /// The resources of the value that has waited longest.
    pub(crate) fn front_resources(&self) -> usize {
        self.waiting.front().map_or(0, |waiting| waiting.cost.resources)
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting<V>> {
        let first = self.waiting.pop_front()?;
        self.size -= first.cost.size;
        self.resources -= first.cost.resources;
        self.discharge(first.cost.memory);
        if self.waiting.is_empty() && self.waiting.capacity() > SPARE_ENTRIES {
            self.waiting = VecDeque::new();
        }
        Some(first)
    }

    fn discharge(&mut self, memory: u64) {
        self.memory -= memory;
        if let Some(room) = &self.room {
            room.discharge(memory);
        }
    }

    /// The values that wait.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.waiting.iter().map(|waiting| &waiting.value)
    }

    /// Takes all values: the subscriber is gone.
    pub(crate) fn take(&mut self) -> VecDeque<Waiting<V>> {
        self.discharge(self.memory);
        (self.size, self.resources) = (0, 0);
        std::mem::take(&mut self.waiting)
    }

    pub(crate) fn is_full(&self) -> bool {
        let is_beyond_share =
            |room: &EventRoom| self.memory >= room.left().saturating_mul(TIMES_THE_REST);
        self.waiting.len() >= self.capacity
            || self.size >= self.most_size
            || self.resources >= MOST
            || self.room.as_deref().is_some_and(is_beyond_share)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Backlog;
    use super::Cost;
    use super::EventRoom;
    use super::MOST;
    use super::Overflow;
    use super::Pushed;
    use super::SPARE_ENTRIES;

    const fn of(memory: u64) -> Cost {
        Cost { size: 1, memory, resources: 0 }
    }

    fn backlog(room: &std::sync::Arc<EventRoom>, overflow: Overflow) -> Backlog<u32> {
        Backlog::new(overflow, 100, 1000).within(std::sync::Arc::clone(room))
    }

    /// Holds for any number of subscriptions of a connection.
    #[test]
    fn what_waits_for_subscribers_of_one_connection_has_one_bound() {
        let room = std::sync::Arc::new(EventRoom::new(900));
        let mut dropped = Vec::new();
        let mut first = backlog(&room, Overflow::DropNewest);
        for value in 0..10 {
            first.push(value, of(100), &mut dropped);
        }
        assert_eq!((first.memory, room.left()), (600, 300), "two thirds");
        let mut second = backlog(&room, Overflow::DropOldest);
        dropped.clear();
        for value in 10..20 {
            assert_eq!(second.push(value, of(100), &mut dropped), Pushed::Kept);
        }
        assert_eq!((second.memory, room.left()), (200, 100), "two thirds of what is left");
        assert_eq!(dropped, [10, 11, 12, 13, 14, 15, 16, 17]);
        let mut others: Vec<_> = (0..100).map(|_| backlog(&room, Overflow::DropOldest)).collect();
        let kept = others.iter_mut().map(|other| other.push(0, of(10), &mut dropped));
        assert_eq!(kept.filter(|pushed| *pushed == Pushed::Kept).count(), 10, "until all is used");
        assert_eq!(room.used(), 900);
        let mut fussy = backlog(&room, Overflow::Disconnect);
        assert_eq!(fussy.push(6, of(1), &mut dropped), Pushed::Disconnect);
        drop(first);
        assert_eq!(fussy.push(8, of(1000), &mut dropped), Pushed::Kept, "the last one of any size");
        assert_eq!(second.pop().map(|waiting| waiting.value), Some(18));
        assert_eq!(fussy.take().len(), 1);
        drop((second, others));
        assert_eq!(room.used(), 0);
    }

    #[test]
    fn an_empty_backlog_keeps_no_memory() {
        let mut backlog = Backlog::new(Overflow::DropNewest, 1000, 1000);
        for value in 0..1000 {
            assert_eq!(backlog.push(value, Cost::default(), &mut Vec::new()), Pushed::Kept);
        }
        while backlog.pop().is_some() {}
        assert!(backlog.waiting.capacity() <= SPARE_ENTRIES);
    }

    #[test]
    fn a_backlog_is_full_once_its_values_have_the_most_resources() {
        let mut dropped = Vec::new();
        let mut backlog = Backlog::new(Overflow::DropOldest, 1000, 1000);
        for value in 0..3 {
            let many = Cost { resources: MOST - 1, ..of(1) };
            assert_eq!(backlog.push(value, many, &mut dropped), Pushed::Kept);
            assert_eq!(backlog.push(value, of(1), &mut dropped), Pushed::Kept);
        }
        assert_eq!(dropped, [0, 0, 1], "two with resources are too many for a third value");
        assert_eq!(backlog.front_resources(), 0);
        while backlog.pop().is_some() {}
        assert_eq!((backlog.resources, backlog.is_full()), (0, false));
    }
}
