//! An arena within one process: both sides reach its pieces by their offsets, which are no addresses.
//!
//! Each piece is an allocation of its own. The table has those that are taken, and a weak reference to each that was frozen: only these are lent.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use witrpc_core::transport::{Arena, PIECE_ALIGNMENT, PeerArena, Piece};
use witrpc_core::wire::fields::{len_u64, u64_len};

use crate::link::heap_arena::HeapPiece;

/// The arena, as both sides see it.
pub(super) struct MemoryArena {
    capacity: u64,
    /// Whether the peer reads in place.
    is_trusted: bool,
    /// By offset.
    pieces: Mutex<BTreeMap<u64, Entry>>,
    freed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    this: Weak<Self>,
}

/// A piece that is taken.
struct Entry {
    /// With what alignment adds.
    len: u64,
    frozen: Weak<Frozen>,
}

/// A piece that nobody writes to any more.
type Frozen = HeapPiece<Place>;

impl std::fmt::Debug for MemoryArena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryArena").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl MemoryArena {
    pub(super) fn new(capacity: u64, is_trusted: bool) -> Arc<Self> {
        let (pieces, freed) = (Mutex::default(), OnceLock::new());
        Arc::new_cyclic(|this| Self {
            capacity,
            is_trusted,
            pieces,
            freed,
            this: Weak::clone(this),
        })
    }

    fn pieces(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frozen pieces, with their offsets.
    fn frozen(&self) -> Vec<(u64, Arc<Frozen>)> {
        let pieces = self.pieces();
        let frozen = |(offset, entry): (&u64, &Entry)| Some((*offset, entry.frozen.upgrade()?));
        pieces.iter().filter_map(frozen).collect()
    }

    /// The piece that these bytes are in, and where they begin there. A peer may refer to bytes that are in none.
    fn find(&self, offset: u64, len: usize) -> Option<(Arc<Frozen>, usize)> {
        assert!(
            offset.checked_add(len_u64(len)).is_some_and(|end| end <= self.capacity),
            "bytes outside of the arena"
        );
        let pieces = self.pieces();
        let (from, entry) = pieces.range(..=offset).next_back()?;
        let (frozen, start) = (entry.frozen.upgrade()?, u64_len(offset - from));
        (start + len <= frozen.bytes().len()).then_some((frozen, start))
    }

    fn address(&self, bytes: &[u8]) -> Option<u64> {
        let at = |bytes: &[u8]| bytes.as_ptr().addr();
        let within = |(offset, piece): (u64, Arc<Frozen>)| {
            let start = at(bytes).checked_sub(at(piece.bytes()))?;
            (start + bytes.len() <= piece.bytes().len()).then_some(offset + len_u64(start))
        };
        if bytes.is_empty() { None } else { self.frozen().into_iter().find_map(within) }
    }
}

impl Arena for MemoryArena {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn used(&self) -> u64 {
        self.pieces().values().map(|entry| entry.len).sum()
    }

    fn allocate(&self, len: usize) -> Option<Box<dyn Piece>> {
        let taken = len_u64(len.checked_next_multiple_of(PIECE_ALIGNMENT)?);
        let arena = self.this.upgrade()?;
        let mut pieces = self.pieces();
        let mut offset = 0;
        for (at, entry) in &*pieces {
            if at - offset >= taken {
                break;
            }
            offset = at + entry.len;
        }
        if taken > self.capacity.saturating_sub(offset) {
            return None;
        }
        pieces.insert(offset, Entry { len: taken, frozen: Weak::new() });
        drop(pieces);
        Some(Box::new(MemoryPiece(HeapPiece::new(len, Place { arena, offset })?)))
    }

    fn locate(&self, bytes: &[u8]) -> Option<u64> {
        self.address(bytes)
    }

    fn on_free(&self, freed: Box<dyn Fn() + Send + Sync>) {
        // Only the first counts.
        drop(self.freed.set(freed));
    }
}

impl PeerArena for MemoryArena {
    fn capacity(&self) -> u64 {
        self.capacity
    }

    fn copy(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        match self.find(offset, len) {
            Some((piece, start)) => out.extend_from_slice(&piece.bytes()[start..][..len]),
            None => out.resize(out.len() + len, 0),
        }
    }

    fn in_place(
        self: Arc<Self>,
        offset: u64,
        len: usize,
        guard: Arc<dyn Any + Send + Sync>,
    ) -> Option<Bytes> {
        let found = self.is_trusted.then(|| self.find(offset, len))?;
        Some(match found {
            Some((piece, start)) => {
                Bytes::from_owner(Shared { piece, _guard: Some(guard) }).slice(start..start + len)
            }
            None => Bytes::from_owner(Nothing { zeros: vec![0; len], _guard: guard }),
        })
    }

    fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    fn locate(&self, bytes: &[u8]) -> Option<u64> {
        self.address(bytes)
    }
}

/// The place of a piece, given back when it is dropped.
struct Place {
    arena: Arc<MemoryArena>,
    offset: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.arena.pieces().remove(&self.offset);
        if let Some(freed) = self.arena.freed.get() {
            freed();
        }
    }
}

#[derive(Debug)]
struct MemoryPiece(HeapPiece<Place>);

impl Piece for MemoryPiece {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }

    fn freeze(self: Box<Self>) -> Bytes {
        let piece = Arc::new(self.0);
        let Place { arena, offset } = &piece.taken;
        if let Some(entry) = arena.pieces().get_mut(offset) {
            entry.frozen = Arc::downgrade(&piece);
        }
        Bytes::from_owner(Shared { piece, _guard: None })
    }
}

/// Keeps a frozen piece, and perhaps a loan.
struct Shared {
    piece: Arc<Frozen>,
    _guard: Option<Arc<dyn Any + Send + Sync>>,
}

/// What a peer has lent that has no piece there.
struct Nothing {
    zeros: Vec<u8>,
    _guard: Arc<dyn Any + Send + Sync>,
}

impl AsRef<[u8]> for Nothing {
    fn as_ref(&self) -> &[u8] {
        &self.zeros
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.piece.bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Arena, MemoryArena, PIECE_ALIGNMENT, PeerArena};

    #[test]
    fn pieces_are_apart_and_both_sides_find_them() {
        let arena = MemoryArena::new(1024, true);
        let taken: Vec<_> = [100, 200, 300].map(|len| arena.allocate(len).unwrap()).into();
        assert_eq!(arena.used(), 128 + 256 + 320);
        assert!(arena.allocate(321).is_none(), "the rest");
        let mut taken = taken.into_iter();
        let (first, mut second) = (taken.next().unwrap(), taken.next().unwrap());
        assert_eq!(second.bytes().as_ptr().align_offset(PIECE_ALIGNMENT), 0);
        drop(first);
        assert!(arena.allocate(65).is_some(), "where the first was");
        second.bytes_mut().fill(7);
        let second = second.freeze();
        let part = second.slice(50..60);
        let offset = Arena::locate(&*arena, &part).unwrap();
        assert_eq!(offset, 128 + 50);
        let (mut copied, guard) = (vec![1], Arc::new(()));
        arena.copy(offset, 10, &mut copied);
        assert_eq!(copied, [&[1][..], &[7; 10]].concat());
        let there = Arc::clone(&arena).in_place(offset, 10, Arc::clone(&guard) as _).unwrap();
        drop((second, part));
        assert_eq!((&there[..], Arc::strong_count(&guard)), (&[7; 10][..], 2));
        assert_eq!(PeerArena::locate(&*arena, &there[3..]), Some(offset + 3));
        drop(there);
        assert_eq!(Arc::strong_count(&guard), 1);
        drop(taken);
        assert_eq!(arena.used(), 0);
        assert!(MemoryArena::new(64, false).in_place(0, 1, guard).is_none());
    }
}
