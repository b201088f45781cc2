//! Arenas: memory in which a side writes payloads that its peer reads there, so that they are not copied through the ring.
//!
//! A connection has at most one arena per direction. The side that lends takes pieces of its own arena ([`Arena`]), and tells its peer where they
//! are. The peer reads them ([`PeerArena`]), by copying or in place. A transport makes both, and is responsible for their soundness; which
//! pieces are lent is kept by the layers above.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// The alignment of every piece of an arena, in bytes.
pub const PIECE_ALIGNMENT: usize = 64;

/// Memory of this side that its peer can read. The functions may be called from any thread, and with locks of the connection held.
pub trait Arena: fmt::Debug + Send + Sync + 'static {
    /// The size of the arena, in bytes.
    fn capacity(&self) -> u64;

    /// The bytes that pieces take at the moment, with what alignment adds.
    fn used(&self) -> u64;

    /// Takes a piece of `len` bytes, if so many are free in a row. Its first byte is aligned to [`PIECE_ALIGNMENT`]. Its contents are not
    /// specified: it may contain what was lent before.
    fn allocate(&self, len: usize) -> Option<Box<dyn Piece>>;

    /// Returns the offset of these bytes in the arena, if they are in a piece of it. They are borrowed from that piece, which is therefore still
    /// taken. An empty slice is in no piece.
    fn locate(&self, bytes: &[u8]) -> Option<u64>;

    /// Sets the function that is called each time that a piece was given back, with no lock of the arena held. Only the first counts.
    fn on_free(&self, freed: Box<dyn Fn() + Send + Sync>);
}

/// A piece of an [`Arena`]. Nobody else writes to its bytes. Dropping it, or the last clone of what it was frozen into, gives it back.
pub trait Piece: fmt::Debug + Send + Sync + 'static {
    /// The bytes.
    fn bytes(&self) -> &[u8];

    /// The bytes, to be written.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Makes it immutable and shareable, without copying.
    fn freeze(self: Box<Self>) -> Bytes;
}

/// Memory of the peer that this side reads.
pub trait PeerArena: fmt::Debug + Send + Sync + 'static {
    /// The size of the arena, in bytes.
    fn capacity(&self) -> u64;

    /// Appends bytes `offset .. offset + len` to `out`. The peer may be writing to them: what is appended may be a mixture, but does not change
    /// afterwards.
    ///
    /// # Panics
    ///
    /// If the range is not within the arena.
    fn copy(&self, offset: u64, len: usize, out: &mut Vec<u8>);

    /// Returns bytes `offset .. offset + len` where they are, if this side trusts its peer not to write to what it has lent. The last clone of
    /// them drops `guard`, and the arena stays mapped until then.
    ///
    /// # Panics
    ///
    /// If the range is not within the arena.
    fn in_place(
        self: Arc<Self>,
        offset: u64,
        len: usize,
        guard: Arc<dyn Any + Send + Sync>,
    ) -> Option<Bytes>;

    /// Whether [`in_place`](Self::in_place) returns bytes.
    fn is_trusted(&self) -> bool;

    /// Returns the offset of these bytes in the arena, if they are in it. An empty slice is in no arena.
    fn locate(&self, bytes: &[u8]) -> Option<u64>;
}
