//! The account of the values for the peer's subscribers: those that wait in backlogs, those that are queued, and what is kept of those
//! that were sent and not acknowledged. One bound for all subscriptions of a connection. [limits](witrpc_core::limits::shares)

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// See the module. Each thread that raises a value may exceed it by that value.
#[derive(Debug)]
pub(crate) struct EventRoom {
    /// Bytes of backlogs, and of values on their way.
    charged: AtomicU64,
    /// Bytes of the sending queue; changed under the lock of the sending half only.
    queued: AtomicU64,
    most: u64,
    /// Somebody waits until there is room.
    is_wanted: AtomicBool,
}

impl EventRoom {
    pub(crate) const fn new(most: u64) -> Self {
        let (charged, queued) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { charged, queued, most, is_wanted: AtomicBool::new(false) }
    }

    /// What is in it.
    pub(crate) fn used(&self) -> u64 {
        self.charged.load(Ordering::SeqCst) + self.queued.load(Ordering::SeqCst)
    }

    /// The bytes that are free.
    pub(crate) fn left(&self) -> u64 {
        self.most.saturating_sub(self.used())
    }

    /// Whether so much is queued that further values wait in backlogs, where they can still be dropped.
    pub(crate) fn queue_is_full(&self) -> bool {
        self.queued.load(Ordering::SeqCst) > self.most / 2
    }

    pub(crate) fn charge(&self, bytes: u64) {
        self.charged.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn discharge(&self, bytes: u64) {
        // SeqCst: see `want`.
        self.charged.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// So much is queued now. Returns whether the queue has just ceased to be full, or room is there that somebody waits for.
    pub(crate) fn set_queued(&self, bytes: u64) -> bool {
        let before = self.queued.load(Ordering::Relaxed);
        if before == bytes {
            return false;
        }
        self.queued.store(bytes, Ordering::SeqCst);
        (before > self.most / 2 && bytes <= self.most / 2) || self.is_due()
    }

    /// Somebody waits until there is room. He looks once more after this. All accesses are sequentially consistent: either he sees room that
    /// is made meanwhile, or whoever makes it sees that it is wanted.
    pub(crate) fn want(&self) {
        self.is_wanted.store(true, Ordering::SeqCst);
    }

    /// Whether there is room that somebody waits for.
    pub(crate) fn is_due(&self) -> bool {
        self.is_wanted.load(Ordering::SeqCst) && self.left() > 0
    }

    /// The same, for whoever tells all who wait.
    pub(crate) fn take_due(&self) -> bool {
        self.is_due() && self.is_wanted.swap(false, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::EventRoom;

    #[test]
    fn who_wants_room_is_told_once_there_is_some() {
        let room = EventRoom::new(100);
        assert!(!room.set_queued(51) && room.queue_is_full());
        room.charge(60);
        assert_eq!((room.used(), room.left()), (111, 0));
        room.want();
        assert!(!room.take_due());
        assert!(room.set_queued(50), "the queue is not full any more");
        assert!(!room.is_due());
        room.discharge(11);
        assert!(room.is_due() && room.set_queued(49));
        assert!(room.take_due() && !room.take_due());
        assert!(!room.set_queued(0));
    }
}
