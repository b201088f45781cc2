//! Whose mutexes and atomics these are: the system's, or loom's when a model is checked.
//!
//! Only what [`reception`](crate::link::reception) rests on, and what its model needs; everything else is never run under loom.

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

/// Locks; a panic elsewhere has left the protected state whole, because no step panics half-way.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
