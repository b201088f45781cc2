//! An arena in memory of this process alone: what is lent there is copied when it is sent.
//!
//! It stands for the transport's arena where nothing may cross as a reference: on a sealed connection, and with a peer that does not know
//! loans. So a program that lends runs there, too, within the same bounds.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use witrpc_core::transport::{Arena, PIECE_ALIGNMENT, Piece};
use witrpc_core::values::loans::{Budget, Share};
use witrpc_core::wire::fields::len_u64;

type OnFree = OnceLock<Box<dyn Fn() + Send + Sync>>;

/// The arena.
pub(super) struct HeapArena {
    budget: Arc<Budget>,
    freed: Arc<OnFree>,
}

impl std::fmt::Debug for HeapArena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeapArena").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl HeapArena {
    pub(super) fn new(capacity: u64) -> Self {
        Self { budget: Budget::new(capacity), freed: Arc::default() }
    }
}

impl Arena for HeapArena {
    fn capacity(&self) -> u64 {
        self.budget.capacity()
    }

    fn used(&self) -> u64 {
        self.budget.used()
    }

    fn allocate(&self, len: usize) -> Option<Box<dyn Piece>> {
        let share = self.budget.take(len_u64(len))?;
        let taken = Taken { share: Some(share), freed: Arc::clone(&self.freed) };
        Some(Box::new(HeapPiece::new(len, taken)?))
    }

    fn locate(&self, _bytes: &[u8]) -> Option<u64> {
        None
    }

    fn on_free(&self, freed: Box<dyn Fn() + Send + Sync>) {
        // Only the first counts.
        drop(self.freed.set(freed));
    }
}

/// Gives a piece's share back, and then tells of it.
pub(crate) struct Taken {
    share: Option<Share>,
    freed: Arc<OnFree>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        drop(self.share.take());
        if let Some(freed) = self.freed.get() {
            freed();
        }
    }
}

/// Memory of this process that is aligned as a piece is, and what gives it back.
pub(crate) struct HeapPiece<T> {
    memory: Vec<u8>,
    start: usize,
    len: usize,
    pub(crate) taken: T,
}

impl<T> HeapPiece<T> {
    /// `None` if there cannot be so much.
    pub(crate) fn new(len: usize, taken: T) -> Option<Self> {
        let memory = vec![0; len.checked_add(PIECE_ALIGNMENT - 1)?];
        let start = memory.as_ptr().align_offset(PIECE_ALIGNMENT).min(PIECE_ALIGNMENT - 1);
        Some(Self { memory, start, len, taken })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..][..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.len]
    }
}

impl<T> std::fmt::Debug for HeapPiece<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HeapPiece").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Piece for HeapPiece<Taken> {
    fn bytes(&self) -> &[u8] {
        self.bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes_mut()
    }

    fn freeze(self: Box<Self>) -> Bytes {
        Bytes::from_owner(Frozen(*self))
    }
}

struct Frozen(HeapPiece<Taken>);

impl AsRef<[u8]> for Frozen {
    fn as_ref(&self) -> &[u8] {
        self.0.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{Arena, HeapArena, PIECE_ALIGNMENT};

    #[test]
    fn pieces_are_aligned_and_come_back() {
        let (arena, freed) = (HeapArena::new(1 << 20), Arc::new(AtomicU32::new(0)));
        let count = Arc::clone(&freed);
        arena.on_free(Box::new(move || {
            count.fetch_add(1, Ordering::Relaxed);
        }));
        let mut piece = arena.allocate(1000).unwrap();
        piece.bytes_mut().fill(7);
        assert_eq!(piece.bytes().as_ptr().align_offset(PIECE_ALIGNMENT), 0);
        assert!(arena.used() >= 1000 && arena.allocate(1 << 20).is_none());
        let frozen = piece.freeze();
        let part = frozen.slice(10..20);
        drop(frozen);
        assert_eq!((&part[..], freed.load(Ordering::Relaxed)), (&[7; 10][..], 0));
        drop(part);
        assert_eq!((arena.used(), freed.load(Ordering::Relaxed)), (0, 1));
        drop(arena.allocate(1 << 20).unwrap());
        assert_eq!(freed.load(Ordering::Relaxed), 2);
    }
}
