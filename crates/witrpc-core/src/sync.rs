//! Whose mutexes and atomics these are: the system's, or loom's when a model is checked.
//!
//! Only what [`reception`](crate::reception) rests on, and what its model needs; everything else is never run under loom.

#[cfg(all(loom, test))]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};
#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, Ordering},
};

#[cfg(not(all(loom, test)))]
pub(crate) use atomic_waker::AtomicWaker;

/// loom's, with the methods of the other.
#[cfg(all(loom, test))]
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(loom::future::AtomicWaker);

#[cfg(all(loom, test))]
impl AtomicWaker {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.0.register_by_ref(waker);
    }

    pub(crate) fn wake(&self) {
        self.0.wake();
    }
}
