//! Mutexes and atomics: those of the standard library, or loom's when a model is checked.
//!
//! Only for [`reception`](crate::link::reception) and its model; nothing else runs under loom.

#[cfg(not(all(loom, test)))]
pub(crate) use crate::locks::{Mutex, MutexGuard};
#[cfg(all(loom, test))]
pub(crate) use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(all(loom, test)))]
pub(crate) use std::sync::atomic::{AtomicBool, Ordering};

/// loom's mutex, with the shape of [`locks::Mutex`](crate::locks::Mutex). It has no rank: loom runs all threads of a model on one.
#[cfg(all(loom, test))]
#[derive(Debug)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(all(loom, test))]
pub(crate) use loom::sync::MutexGuard;

#[cfg(all(loom, test))]
impl<T> Mutex<T> {
    pub(crate) fn new(_: crate::locks::Rank, value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok()
    }
}
