//! One side of a channel in memory: what its peer has signalled, and the task to wake.

use std::sync::atomic::{AtomicU8, Ordering};

use witrpc_core::sync::AtomicWaker;
use witrpc_core::transport::Wake;

/// Wakes one side.
#[derive(Debug, Default)]
pub(super) struct Side {
    /// [`NOTIFIED`], [`GONE`], or both.
    signals: AtomicU8,
    pub(super) waker: AtomicWaker,
}

/// The side was notified, and has not looked since.
const NOTIFIED: u8 = 1;
/// The peer is gone.
pub(super) const GONE: u8 = 2;

impl Side {
    pub(super) fn notify(&self) {
        self.signal(NOTIFIED);
    }

    pub(super) fn signal(&self, signal: u8) {
        // Release: SIGNAL(side), pairs with the acquire in `take`. What was published before is visible to who finds the signal.
        self.signals.fetch_or(signal, Ordering::Release);
        self.waker.wake();
    }

    /// What the side was told since the last look.
    pub(super) fn take(&self) -> Option<Wake> {
        // Acquire: pairs with SIGNAL(side).
        let signals = self.signals.load(Ordering::Acquire);
        if signals & NOTIFIED != 0 {
            self.signals.fetch_and(!NOTIFIED, Ordering::Acquire);
            return Some(Wake::Rung);
        }
        (signals & GONE != 0).then_some(Wake::PeerGone)
    }
}
