//! Arenas: memory in which one side of a connection lends payloads to the other. `[seg.inherited.arenas]`
//!
//! A side writes to its [own](Lendable) and gives out pieces of it; it only reads its [peer's](Readable). Pieces are multiples of 64 bytes, of
//! which a free list in private memory keeps account. Files, seals and sizes are the business of `inherited`.
//!
//! # Invariants
//!
//! - **A1** A mapping is as long as its file was when it was mapped, and lives as long as anything that points into it (an `Arc`).
//! - **A2** No byte is in two pieces at a time: a piece is taken off the free list when it is made, and put back once, when it is dropped. So
//!   whoever has a piece for himself has its bytes for himself in this process.
//! - **A3** No other process writes to what this one lends: it cannot map the memory for writing, or the user has promised it
//!   ([`TrustedPeer`]), or it is the host that has made the memory, which its worker trusts.
//! - **A4** No reference to a byte of the peer's arena exists, unless the user has promised the same of that ([`TrustedPeer`]). Bytes are copied.
//! - **A5** In a forked child nothing is taken, given back, or written: the parent goes on using both memory and list. What the child writes to a
//!   piece it writes to a copy. What it reads of pieces may change, as its parent owns them.
//!
//! The lock of the free list is a leaf: nothing is called while it is held.

use std::any::Any;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use range_alloc::RangeAllocator;
use witrpc_core::transport::{Arena, PIECE_ALIGNMENT, PeerArena, Piece};

use crate::copying;
use crate::region::{Mapping, Rights, copy_streaming};
use crate::sys::Owner;

/// The most bytes that one side can lend: as a region.
pub(crate) const LARGEST: u64 = 64 << 30;
/// Pieces are so many bytes, or a multiple.
const UNIT: u64 = PIECE_ALIGNMENT as u64;

/// The user's promise that no process that can connect writes to memory while it is lent to or by this one.
#[derive(Clone, Copy, Debug)]
pub struct TrustedPeer(());

impl TrustedPeer {
    /// Promises it.
    ///
    /// # Safety
    ///
    /// From now on no other process that has a connection to this one writes to a byte of an arena while this process has a reference
    /// to it: neither to what it lends, nor to what was lent to this process. This is about whatever the other program does, and not only about what it does
    /// by witrpc.
    #[must_use]
    pub const unsafe fn promised() -> Self {
        Self(())
    }
}

/// Memory of this side, before it is known whether the peer is trusted.
#[derive(Debug)]
pub(crate) struct Lendable {
    map: Mapping,
    is_closed: bool,
}

impl Lendable {
    /// Maps a file of `size` bytes. Then `close` keeps other processes from writing to it, and returns whether that was possible.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn map(
        file: &File,
        size: u64,
        close: impl FnOnce(&File) -> io::Result<bool>,
    ) -> io::Result<Self> {
        let map = Mapping::of_file(file, size, Rights::Write)?;
        Ok(Self { is_closed: close(file)?, map })
    }

    /// The arena, if A3 holds.
    pub(crate) fn arena(self, trusted: Option<TrustedPeer>) -> Option<Arc<dyn Arena>> {
        let may_lend = self.is_closed || trusted.is_some(); // A3
        may_lend.then(|| Arc::new(OwnArena::new(self.map)) as Arc<dyn Arena>)
    }
}

/// Memory of the peer, before it is known whether it is trusted.
#[derive(Debug)]
pub(crate) struct Readable(Mapping);

impl Readable {
    /// Maps a file of `size` bytes.
    ///
    /// # Errors
    ///
    /// Whatever the system says.
    pub(crate) fn map(file: &File, size: u64) -> io::Result<Self> {
        Ok(Self(Mapping::of_file(file, size, Rights::Read)?))
    }

    pub(crate) fn arena(self, trusted: Option<TrustedPeer>) -> Arc<dyn PeerArena> {
        Arc::new(PeerMapping { map: self.0, trusted })
    }
}

/// Where the bytes `offset .. offset + len` of a mapping begin.
///
/// # Panics
///
/// If they are not within it.
fn start(map: &Mapping, offset: u64, len: usize) -> *mut u8 {
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let is_within = offset <= map.len() && len <= map.len() - offset;
    assert!(is_within, "a range leaves the arena");
    map.as_mut_ptr().wrapping_add(offset)
}

/// The offset of these bytes, if they are within a mapping.
fn locate(map: &Mapping, bytes: &[u8]) -> Option<u64> {
    let offset = bytes.as_ptr().addr().checked_sub(map.as_ptr().addr())?;
    let is_within = !bytes.is_empty() && offset < map.len() && bytes.len() <= map.len() - offset;
    is_within.then_some(offset as u64)
}

/// A size that is mapped.
fn capacity(map: &Mapping) -> u64 {
    map.len() as u64
}

/// The arena of this side.
#[derive(Debug)]
struct OwnArena(Arc<Memory>);

struct Memory {
    map: Mapping,
    owner: Owner,
    free: Mutex<RangeAllocator<u64>>,
    /// Changed with the list, and read without it.
    used: AtomicU64,
    freed: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("map", &self.map)
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl OwnArena {
    fn new(map: Mapping) -> Self {
        let whole = capacity(&map);
        Self(Arc::new(Memory {
            map,
            owner: Owner::here(),
            free: Mutex::new(RangeAllocator::new(0..whole - whole % UNIT)),
            used: AtomicU64::new(0),
            freed: OnceLock::new(),
        }))
    }
}

impl Memory {
    fn free(&self) -> MutexGuard<'_, RangeAllocator<u64>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, len: usize) -> Option<Range<u64>> {
        // The list doubles what it is asked for.
        let bytes = u64::try_from(len).ok().filter(|bytes| *bytes <= capacity(&self.map))?;
        let bytes = bytes.max(1).next_multiple_of(UNIT);
        let mut free = self.free();
        let taken = free.allocate_range(bytes).ok()?;
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Some(taken)
    }

    fn give_back(&self, taken: Range<u64>) {
        let mut free = self.free();
        self.used.fetch_sub(taken.end - taken.start, Ordering::Relaxed);
        free.free_range(taken);
        drop(free);
        if let Some(freed) = self.freed.get() {
            freed();
        }
    }
}

impl Arena for OwnArena {
    fn capacity(&self) -> u64 {
        capacity(&self.0.map)
    }

    fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    fn allocate(&self, len: usize) -> Option<Box<dyn Piece>> {
        let memory = &self.0;
        // A5; also, a thread that does not exist here may have had the lock.
        if !memory.owner.is_here() {
            return None;
        }
        let taken = memory.take(len)?;
        let memory = Arc::clone(memory);
        Some(Box::new(OwnPiece { owner: memory.owner, memory, taken, len, copy: None }))
    }

    fn locate(&self, bytes: &[u8]) -> Option<u64> {
        locate(&self.0.map, bytes)
    }

    fn on_free(&self, freed: Box<dyn Fn() + Send + Sync>) {
        // Only the first counts.
        drop(self.0.freed.set(freed));
    }
}

/// A piece of the arena of this side.
#[derive(Debug)]
struct OwnPiece {
    memory: Arc<Memory>,
    owner: Owner,
    taken: Range<u64>,
    /// At most as many as are taken.
    len: usize,
    /// A5: in a forked child that writes to it.
    copy: Option<Vec<u8>>,
}

impl Piece for OwnPiece {
    fn bytes(&self) -> &[u8] {
        if let Some(copy) = &self.copy {
            return copy;
        }
        let start = start(&self.memory.map, self.taken.start, self.len);
        // SAFETY: A1: mapped while `self` lives. They were zero at first, so they are initialised. A2 and A3: nobody writes to them, but by
        // `bytes_mut`, which borrows `self` for that.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        if !self.owner.is_here() && self.copy.is_none() {
            self.copy = Some(self.bytes().to_vec()); // A5
        }
        if let Some(copy) = &mut self.copy {
            return copy;
        }
        let start = start(&self.memory.map, self.taken.start, self.len);
        // SAFETY: as in `bytes`; and `self` is borrowed exclusively, and is the only one that has them (A2).
        unsafe { std::slice::from_raw_parts_mut(start, self.len) }
    }

    fn freeze(self: Box<Self>) -> Bytes {
        Bytes::from_owner(*self)
    }
}

impl AsRef<[u8]> for OwnPiece {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for OwnPiece {
    fn drop(&mut self) {
        // A5
        if self.owner.is_here() {
            self.memory.give_back(self.taken.clone());
        }
    }
}

/// The arena of the peer.
#[derive(Debug)]
struct PeerMapping {
    map: Mapping,
    trusted: Option<TrustedPeer>,
}

impl PeerArena for PeerMapping {
    fn capacity(&self) -> u64 {
        capacity(&self.map)
    }

    fn copy(&self, offset: u64, len: usize, out: &mut Vec<u8>) {
        let from = start(&self.map, offset, len).cast_const();
        out.reserve(len);
        let to = out.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        if copying::bypasses_caches(out.capacity(), len) {
            // SAFETY: A4: `from` is good for `len` bytes; `to` is too, by `reserve`, and is private memory.
            unsafe { copy_streaming(from, to, len) };
        } else {
            // SAFETY: as above.
            unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
        }
        let len = out.len() + len;
        // SAFETY: within the capacity by `reserve`, and just initialised up to here.
        unsafe { out.set_len(len) };
    }

    fn in_place(
        self: Arc<Self>,
        offset: u64,
        len: usize,
        guard: Arc<dyn Any + Send + Sync>,
    ) -> Option<Bytes> {
        let promise = self.trusted?;
        Some(Bytes::from_owner(LentBytes {
            arena: self,
            offset,
            len,
            _guard: guard,
            _promise: promise,
        }))
    }

    fn is_trusted(&self) -> bool {
        self.trusted.is_some()
    }

    fn locate(&self, bytes: &[u8]) -> Option<u64> {
        locate(&self.map, bytes)
    }
}

/// Bytes of the peer's where they are.
struct LentBytes {
    arena: Arc<PeerMapping>,
    offset: u64,
    len: usize,
    /// As long as it lives they are lent.
    _guard: Arc<dyn Any + Send + Sync>,
    /// A4
    _promise: TrustedPeer,
}

impl AsRef<[u8]> for LentBytes {
    fn as_ref(&self) -> &[u8] {
        let start = start(&self.arena.map, self.offset, self.len);
        // SAFETY: A1: `start` is good for `self.len` bytes while `self` lives. They were zero at first, so they are initialised. A4: it is promised
        // that nobody writes to them as long as they are lent.
        unsafe { std::slice::from_raw_parts(start, self.len) }
    }
}

/// For tests, which write to nothing that is lent.
#[cfg(test)]
pub(crate) fn trusted() -> Option<TrustedPeer> {
    // SAFETY: they do not.
    Some(unsafe { TrustedPeer::promised() })
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
