//! The slots for clients: how many there are, how many are taken, and the record of that in the lock file.

use std::{
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use witrpc_core::text::Escaped;

use super::MemoryMappedFile;
use super::lock::MARK;
use super::os::lock::write_at;
use super::record::Record;
use crate::sys::Owner;

/// The slots for clients. They outlast a [`Door`](super::Door): while a server stops and starts to listen, its clients stay connected
/// and keep their slots. Clones share the slots.
#[derive(Clone, Debug)]
pub struct ClientSlots {
    free: Arc<Semaphore>,
    board: Arc<Board>,
}

impl ClientSlots {
    /// As many slots as the endpoint's `max_clients`.
    #[must_use]
    pub fn of(file: &MemoryMappedFile) -> Self {
        let clients = usize::try_from(file.max_clients).unwrap_or(usize::MAX);
        Self {
            free: Arc::new(Semaphore::new(clients.min(Semaphore::MAX_PERMITS))),
            board: Arc::new(Board { max_clients: file.max_clients, state: Mutex::default() }),
        }
    }

    pub(super) fn try_take(&self) -> Option<Lease> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        self.board.change(|state| state.taken += 1);
        Some(Lease { board: Arc::clone(&self.board), _permit: permit })
    }

    /// Until a slot is free.
    pub(super) async fn wait(&self) {
        drop(self.free.acquire().await);
    }

    /// Keeps the record up to date in this lock file from now on, or in none. `[seg.file.record]`
    pub(super) fn post_in(&self, lock: Option<File>) {
        self.board.change(|state| state.lock = lock.map(|file| (Owner::here(), file)));
    }
}

/// A client's slot; free again when dropped.
#[derive(Debug)]
pub(super) struct Lease {
    board: Arc<Board>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.board.change(|state| state.taken -= 1);
    }
}

#[derive(Debug)]
struct Board {
    max_clients: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: u32,
    /// A descriptor for writing only; the lock does not depend on it.
    lock: Option<(Owner, File)>,
}

impl Board {
    /// Makes a change, and writes the record before the next change.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state: MutexGuard<'_, State> =
            self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let Some((owner, lock)) = &state.lock else { return };
        if !owner.is_here() {
            return; // The record belongs to the parent.
        }
        let (process_id, clients) = (std::process::id(), state.taken);
        let record = Record { process_id, clients, max_clients: self.max_clients }.encode();
        if let Err(error) = write_at(lock, record.as_bytes(), MARK.len() as u64) {
            tracing::warn!(error = %Escaped(&error), "could not update the record in the lock file");
        }
    }
}
