//! One direction of the transport in memory: a queue of records, bounded in bytes.
//!
//! The lock protects what the two ends share. The atomics are written under it, and are read also without it, by a look that need not be
//! exact: it sees a state that was true a moment ago. An end that is about to sleep looks once more under the lock, so it misses
//! nothing. Therefore all accesses are relaxed: the lock orders them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use witrpc_core::transport::{Arena, PeerArena, RecordReceiver, RecordSender, TransportError};
use witrpc_core::wire::fields::{len_u64, u32_len};

use crate::transport::memory::arena::MemoryArena;
use crate::transport::memory::side::Side;

/// In front of each record: its length.
const PREFIX: usize = size_of::<u32>();
/// A larger buffer is freed once it is empty.
const LARGEST_KEPT: usize = 64 << 10;
/// The receiver may hold back this part of the capacity.
const HELD_BACK: usize = 16;

/// What the two ends share.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// Records that were published, and that the receiver has not fetched.
    unread: Mutex<Vec<u8>>,
    /// Records that were ever published.
    published: AtomicU64,
    /// Bytes of records that were ever released.
    released: AtomicU64,
    /// The receiver is to be notified of the next record. Only the receiver sets it.
    reader_asleep: AtomicBool,
    /// The sender is to be notified of room. Only the sender sets it.
    writer_asleep: AtomicBool,
    /// In which the sender lends.
    arena: Option<Arc<MemoryArena>>,
}

impl Pipe {
    pub(super) fn new(arena: Option<Arc<MemoryArena>>) -> Self {
        Self { arena, ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end.
pub(super) struct MemorySender {
    pipe: Arc<Pipe>,
    peer: Arc<Side>,
    capacity: usize,
    /// Records that were pushed, and not published; and how many.
    batch: Vec<u8>,
    batched: u64,
    /// Bytes of records that were ever pushed.
    pushed: u64,
}

impl MemorySender {
    pub(super) const fn new(pipe: Arc<Pipe>, peer: Arc<Side>, capacity: usize) -> Self {
        Self { pipe, peer, capacity, batch: Vec::new(), batched: 0, pushed: 0 }
    }

    fn fits(&self, len: usize, spare: usize) -> bool {
        let released = self.pipe.released.load(Ordering::Relaxed);
        self.pushed - released + len_u64(len + spare) <= len_u64(self.capacity)
    }
}

impl RecordSender for MemorySender {
    fn max_record(&self) -> usize {
        self.capacity / 4
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn try_push(&mut self, head: &[u8], body: &[u8], spare: usize) -> Result<bool, TransportError> {
        let len = head.len() + body.len();
        if !self.has_room(len, spare)? {
            return Ok(false);
        }
        // A record is at most a quarter of the capacity, which was checked.
        let prefix = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
        self.batch.extend_from_slice(&prefix);
        self.batch.extend_from_slice(head);
        self.batch.extend_from_slice(body);
        self.batched += 1;
        self.pushed += len_u64(len);
        Ok(true)
    }

    fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        Ok(len <= self.max_record() && self.fits(len, spare))
    }

    fn publish(&mut self) -> Result<(), TransportError> {
        if self.batched == 0 {
            return Ok(());
        }
        let batched = std::mem::take(&mut self.batched);
        let pipe = &self.pipe;
        let mut unread = pipe.lock();
        if unread.is_empty() {
            std::mem::swap(&mut *unread, &mut self.batch);
        } else {
            unread.append(&mut self.batch);
        }
        pipe.published.store(pipe.published.load(Ordering::Relaxed) + batched, Ordering::Relaxed);
        let asleep = take(&pipe.reader_asleep);
        drop(unread);
        if asleep {
            self.peer.notify();
        }
        Ok(())
    }

    fn arm(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        let _unread = self.pipe.lock();
        let fits = self.fits(len, spare);
        self.pipe.writer_asleep.store(!fits, Ordering::Relaxed);
        Ok(fits)
    }

    fn disarm(&mut self) {
        let _unread = self.pipe.lock();
        self.pipe.writer_asleep.store(false, Ordering::Relaxed);
    }

    fn arena(&self) -> Result<Arc<dyn Arena>, &'static str> {
        let arena = self.pipe.arena.clone();
        Ok(arena.ok_or("set with_lending(bytes) on the MemoryTransport, which is 0 by default")?)
    }
}

/// The receiving end.
pub(super) struct MemoryReceiver {
    pipe: Arc<Pipe>,
    peer: Arc<Side>,
    /// Records that were fetched; those before `at` were consumed.
    fetched: Vec<u8>,
    at: usize,
    /// The number of records that were ever consumed.
    consumed: u64,
    /// The length of the record that was peeked at.
    current: usize,
    /// Bytes that were consumed and not released.
    freed: u64,
    /// Fewer are not released: the sender never waits for the last of them.
    fewest: u64,
    /// Records from here on are ignored.
    end: u64,
}

impl MemoryReceiver {
    pub(super) fn new(pipe: Arc<Pipe>, peer: Arc<Side>, capacity: usize) -> Self {
        let (consumed, current, freed, end) = (0, 0, 0, u64::MAX);
        let fewest = len_u64(capacity / HELD_BACK);
        Self { pipe, peer, fetched: Vec::new(), at: 0, consumed, current, freed, fewest, end }
    }

    /// Whether a record may be taken. Exact if the lock is held.
    fn has_record(&self) -> bool {
        self.consumed < self.pipe.published.load(Ordering::Relaxed).min(self.end)
    }

    /// Fetches what was published, once everything that was fetched before is consumed.
    fn fetch(&mut self) {
        self.fetched.clear();
        if self.fetched.capacity() > LARGEST_KEPT {
            self.fetched = Vec::new();
        }
        self.at = 0;
        std::mem::swap(&mut *self.pipe.lock(), &mut self.fetched);
    }
}

impl RecordReceiver for MemoryReceiver {
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError> {
        if !self.has_record() {
            return Ok(None);
        }
        if self.at == self.fetched.len() {
            self.fetch();
        }
        let rest = self.fetched.get(self.at..).unwrap_or_default();
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else { return Ok(None) };
        self.current = u32_len(u32::from_le_bytes(*prefix));
        let known = head.len().min(self.current);
        head[..known].copy_from_slice(&rest[..known]);
        Ok(Some(self.current))
    }

    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        let record = &self.fetched[self.at + PREFIX..][..self.current];
        out.extend_from_slice(&record[from..from + len]);
    }

    fn consume(&mut self) {
        self.at += PREFIX + self.current;
        self.freed += len_u64(self.current);
        self.consumed += 1;
    }

    fn release(&mut self) -> Result<(), TransportError> {
        if self.freed < self.fewest {
            return Ok(());
        }
        let pipe = &self.pipe;
        let unread = pipe.lock();
        let released = pipe.released.load(Ordering::Relaxed) + std::mem::take(&mut self.freed);
        pipe.released.store(released, Ordering::Relaxed);
        let asleep = take(&pipe.writer_asleep);
        drop(unread);
        if asleep {
            self.peer.notify();
        }
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool, TransportError> {
        Ok(self.has_record())
    }

    fn arm(&mut self) -> Result<bool, TransportError> {
        let _unread = self.pipe.lock();
        let ready = self.has_record();
        self.pipe.reader_asleep.store(!ready, Ordering::Relaxed);
        Ok(ready)
    }

    fn disarm(&mut self) {
        // Nobody else sets it.
        if self.pipe.reader_asleep.load(Ordering::Relaxed) {
            let _unread = self.pipe.lock();
            self.pipe.reader_asleep.store(false, Ordering::Relaxed);
        }
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        let _unread = self.pipe.lock();
        self.end = self.end.min(self.pipe.published.load(Ordering::Relaxed));
        Ok(())
    }

    fn worth_polling(&self) -> bool {
        false
    }

    fn arena(&self) -> Option<Arc<dyn PeerArena>> {
        Some(self.pipe.arena.clone()?)
    }
}

/// Clears a flag that is written under the lock. Returns whether it was set.
fn take(flag: &AtomicBool) -> bool {
    let was_set = flag.load(Ordering::Relaxed);
    if was_set {
        flag.store(false, Ordering::Relaxed);
    }
    was_set
}
