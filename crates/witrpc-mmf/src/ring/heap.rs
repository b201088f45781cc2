//! A ring's memory on the heap, in cells whose every access loom, Miri and ThreadSanitizer can see.
//!
//! For tests only. A race on a payload byte, which in mapped memory nobody would notice, fails a loom model here.
//! This and `region` are the modules with `unsafe`.

use std::sync::Arc;

use super::Memory;
use crate::sync::{AtomicU32, AtomicU64, UnsafeCell};
#[cfg(loom)]
use crate::sync::{Ordering, fence};

/// Clones share the bytes.
#[derive(Clone, Debug)]
pub(super) struct Heap {
    shared: Arc<Shared>,
    /// Which fence this side leaves out, to prove that a model needs it.
    #[cfg(loom)]
    pub(super) without: Without,
}

/// A fence to leave out.
#[cfg(loom)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    RingersFence,
    SleepersFence,
}

#[derive(Debug)]
struct Shared {
    tail: AtomicU64,
    producer_cpu: AtomicU32,
    ring_for: AtomicU64,
    head: AtomicU64,
    wake_at: AtomicU64,
    /// Words, not bytes: a record's bounds are words, and loom tracks every cell.
    words: Box<[UnsafeCell<[u8; 8]>]>,
}

// SAFETY: the only field that is not `Sync` is `words`, and R2 gives each of them one owner at a time; loom checks it.
unsafe impl Sync for Shared {}
// SAFETY: cells of plain bytes belong to no thread.
unsafe impl Send for Shared {}

impl Heap {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                tail: AtomicU64::new(0),
                producer_cpu: AtomicU32::new(0),
                ring_for: AtomicU64::new(0),
                head: AtomicU64::new(0),
                wake_at: AtomicU64::new(0),
                words: (0..capacity / 8).map(|_| UnsafeCell::new([0; 8])).collect(),
            }),
            #[cfg(loom)]
            without: Without::Nothing,
        }
    }

    /// Calls `visit(word, from, done, len)` for each piece of `at .. at + len` that lies in one word.
    fn for_each_word(
        &self,
        at: usize,
        len: usize,
        mut visit: impl FnMut(&UnsafeCell<[u8; 8]>, usize, usize, usize),
    ) {
        let mut done = 0;
        while done < len {
            let from = (at + done) % 8;
            let piece = (8 - from).min(len - done);
            visit(&self.shared.words[(at + done) / 8], from, done, piece);
            done += piece;
        }
    }
}

impl Memory for Heap {
    fn tail(&self) -> &AtomicU64 {
        &self.shared.tail
    }

    fn producer_cpu(&self) -> &AtomicU32 {
        &self.shared.producer_cpu
    }

    fn ring_for(&self) -> &AtomicU64 {
        &self.shared.ring_for
    }

    fn head(&self) -> &AtomicU64 {
        &self.shared.head
    }

    fn wake_at(&self) -> &AtomicU64 {
        &self.shared.wake_at
    }

    fn copy_in(&self, at: usize, bytes: &[u8]) {
        self.for_each_word(at, bytes.len(), |word, from, done, piece| {
            word.with_mut(|word| {
                // SAFETY: R2: this range is the producer's until it publishes, and loom would see a second access.
                let word = unsafe { &mut *word };
                word[from..from + piece].copy_from_slice(&bytes[done..done + piece]);
            });
        });
    }

    fn copy_out(&self, at: usize, bytes: &mut [u8]) {
        self.for_each_word(at, bytes.len(), |word, from, done, piece| {
            word.with(|word| {
                // SAFETY: R2: this range is the consumer's until it releases, and loom would see a write to it.
                let word = unsafe { &*word };
                bytes[done..done + piece].copy_from_slice(&word[from..from + piece]);
            });
        });
    }

    fn append_to(&self, at: usize, len: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + len, 0);
        self.copy_out(at, &mut out[start..]);
    }

    #[cfg(loom)]
    fn fence_sleeper(&self) {
        if self.without != Without::SleepersFence {
            fence(Ordering::SeqCst);
        }
    }

    #[cfg(loom)]
    fn fence_notifier(&self) {
        if self.without != Without::RingersFence {
            fence(Ordering::SeqCst);
        }
    }
}
