//! [`Loan`]: memory that is written in place, and sent without being copied.

use std::fmt;
use std::ops::{Deref, DerefMut};

use witrpc_core::Blob;
use witrpc_core::transport::Piece;

/// Memory of a connection in which a payload is written where its receiver reads it. [`freeze`](Self::freeze) makes it a [`Blob`], which
/// crosses its connection as a reference.
///
/// Its bytes are aligned to 64. They are not cleared: they may contain what was lent before. Dropping it gives the memory back.
///
/// [`WitClient::lend`](crate::WitClient::lend) and [`CallContext::lend`](crate::CallContext::lend) return one; see the guide's chapter on blobs.
pub struct Loan {
    /// `None` if it has no bytes.
    piece: Option<Box<dyn Piece>>,
}

impl Loan {
    pub(super) const fn new(piece: Option<Box<dyn Piece>>) -> Self {
        Self { piece }
    }

    /// Makes a blob of it, without copying. It can be cloned, sliced, sent several times and kept, as any other. The memory is given back when the
    /// last of its clones is gone, on both sides.
    ///
    /// Sent over another connection than the one that lent it, the blob is copied.
    #[must_use = "the memory is given back with the blob"]
    pub fn freeze(self) -> Blob {
        self.piece.map_or_else(Blob::new, |piece| Blob::from(piece.freeze()))
    }
}

impl fmt::Debug for Loan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loan({} bytes)", self.len())
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.piece.as_ref().map_or(&[], |piece| piece.bytes())
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.piece.as_mut().map_or(&mut [], |piece| piece.bytes_mut())
    }
}

impl From<Loan> for Blob {
    fn from(loan: Loan) -> Self {
        loan.freeze()
    }
}
