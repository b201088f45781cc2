//! Mutexes and atomics: those of the standard library, or loom's when a model is checked.
//!
//! Only for [`reception`](crate::link::reception) and its model; nothing else runs under loom.

use std::sync::PoisonError;

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
#[cfg(all(loom, test))]
pub(crate) use witrpc_core::sync::AtomicWaker;

/// Locks, and ignores poisoning: no step panics half-way, so the protected state is consistent.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
