//! The places for clients: how many there are, who has one, and the record of that in the lock file.

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

/// The places for clients. They outlast a [`Door`](super::Door): who is connected stays so while a server stops and
/// starts to listen, and still counts. Clones share the places.
#[derive(Clone, Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    board: Arc<Board>,
}

impl Places {
    /// As many places as the endpoint's `max_clients`.
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

    /// Until a place is free.
    pub(super) async fn wait(&self) {
        drop(self.free.acquire().await);
    }

    /// From now on the record is kept up to date in this lock file; in none if `None`. `[seg.file.record]`
    pub(super) fn post_in(&self, lock: Option<File>) {
        self.board.change(|state| state.lock = lock.map(|file| (Owner::here(), file)));
    }
}

/// A client's place; free again when dropped.
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
    /// Whether it is still open has nothing to do with the lock.
    lock: Option<(Owner, File)>,
}

impl Board {
    /// Changes something, and writes it down before anybody else changes more.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state: MutexGuard<'_, State> =
            self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let Some((owner, lock)) = &state.lock else { return };
        if !owner.is_here() {
            return; // It says what the parent has.
        }
        let (process_id, clients) = (std::process::id(), state.taken);
        let record = Record { process_id, clients, max_clients: self.max_clients }.encode();
        if let Err(error) = write_at(lock, record.as_bytes(), MARK.len() as u64) {
            tracing::warn!(error = %Escaped(&error), "the lock file's record could not be written");
        }
    }
}
