//! Loans: blobs that cross as a reference to memory which both sides can reach, and not as bytes. [wire.loans]
//!
//! A message that is to be sent has a [`Lent`] for each of them: the entry of the message's extension, and what keeps the memory as it is. A
//! received one has a [`LentBlob`] for each, from which the value that refers to it is read.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::wire::message::LoanEntry;

/// What a loan counts at least, in bytes of the arena: so that there are not many more of them than pages. [wire.loans.bound]
pub const LEAST_SHARE: u64 = 4096;

/// How much of an arena can be lent at a time. Each side keeps its own count of the same loans: a lender lends no more, and a borrower ends the
/// connection if it does.
#[derive(Debug)]
pub struct Budget {
    capacity: u64,
    used: AtomicU64,
}

impl Budget {
    #[must_use]
    pub fn new(capacity: u64) -> Arc<Self> {
        Arc::new(Self { capacity, used: AtomicU64::new(0) })
    }

    /// A share for a loan of this many bytes, if it is left.
    #[must_use]
    pub fn take(self: &Arc<Self>, len: u64) -> Option<Share> {
        let bytes = len.max(LEAST_SHARE.min(self.capacity));
        let add = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.capacity);
        // Relaxed: a count, which orders no other data.
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.ok().map(|_| Share { budget: Arc::clone(self), bytes })
    }

    #[must_use]
    pub const fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The bytes of all shares.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// A part of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        // Relaxed: see `take`.
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A blob of a message that is to be sent, which crosses as a reference.
#[derive(Debug)]
pub struct Lent {
    pub entry: LoanEntry,
    pub source: LentSource,
}

/// Whose memory it is in.
pub enum LentSource {
    /// In an arena of ours: the bytes are lent until the peer returns the loan.
    Ours(Bytes, Share),
    /// In memory that the peer has lent: the guard keeps that loan until the message has been sent.
    Peers(Loan),
}

impl fmt::Debug for LentSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours(..) => "Ours",
            Self::Peers(_) => "Peers",
        })
    }
}

/// A blob of a received message that has crossed as a reference.
pub trait LentBlob: fmt::Debug + Send {
    /// The bytes for the value that refers to it; `None` if another value has them already, and they cannot be shared. Called again if a
    /// value was discarded, as by an untagged enum that tries its variants.
    fn read(&mut self) -> Option<Bytes>;

    /// What keeps the loan, if its bytes are copied.
    fn copied_loan(&self) -> Option<Loan>;
}

/// What keeps a loan of the peer.
pub type Loan = Arc<dyn Any + Send + Sync>;

/// The loans of a message.
#[derive(Debug)]
pub enum Loans {
    /// Of one that is to be sent, in the order of their blobs.
    Outgoing(Vec<Lent>),
    /// As on the wire.
    Table(Vec<LoanEntry>),
    /// Of a received one, by the indexes of their blobs.
    Incoming(Vec<(u32, Box<dyn LentBlob>)>),
}

impl Default for Loans {
    fn default() -> Self {
        Self::Table(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, LEAST_SHARE};

    #[test]
    fn shares_are_never_more_than_the_budget() {
        let budget = Budget::new(3 * LEAST_SHARE);
        let small = [1, LEAST_SHARE].map(|len| budget.take(len).unwrap());
        assert_eq!(budget.used(), 2 * LEAST_SHARE);
        assert!(budget.take(LEAST_SHARE + 1).is_none() && budget.take(u64::MAX).is_none());
        let last = budget.take(0).unwrap();
        assert!(budget.take(0).is_none());
        drop((small, last));
        assert_eq!(budget.used(), 0);
        // Of an arena that is smaller than a share.
        let small = Budget::new(64);
        assert!(small.take(64).is_some() && small.take(65).is_none());
    }
}
