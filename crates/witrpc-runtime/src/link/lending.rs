//! Lending on a connection: memory for payloads, the blobs that cross as references, and their return. [wire.loans]
//!
//! Which loans there are is kept by [`witrpc_core::session::lending`]. This file locks its tables, and has the loans of a message read, in place or
//! by copying. Copying is done by whoever reads the value, with no lock held. [`loans`](crate::link::loans) has what a connection does with it.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::Notify;
use witrpc_core::Error;
use witrpc_core::session::lending::{self, Borrowed, Lender};
use witrpc_core::transport::{Arena, PeerArena};
use witrpc_core::values::content::Content;
use witrpc_core::values::loans::{Budget, LentBlob, Loan, Share};
use witrpc_core::values::spare;
use witrpc_core::wire::fields::{len_u64, u64_len};
use witrpc_core::wire::handshake::LOANS;
use witrpc_core::wire::message::LoanEntry;

use crate::link::handshake::Opened;
use crate::link::heap_arena::HeapArena;
use crate::link::loan;
use crate::locks::{self, Mutex, Rank};

/// What one side of a connection lends and has borrowed.
#[derive(Debug)]
pub(crate) struct Lending {
    /// Why it cannot lend, if it cannot.
    lender: Result<Lender, &'static str>,
    /// `None` if the peer cannot lend.
    borrower: Option<Arc<Borrower>>,
    /// Whether the connection has ended. Then nothing is allocated any more: the peer may read for ever what it has borrowed.
    closed: Mutex<bool>,
    /// Whoever waits for memory waits in this line; the first in it waits for what is freed.
    line: tokio::sync::Mutex<()>,
    freed: Arc<Notify>,
}

impl Lending {
    /// For a session that has just been opened. With no lock held.
    pub(super) fn new(opened: &Opened) -> Self {
        let Opened { inbound, outbound, features, .. } = opened;
        let may_cross = !outbound.is_sealed() && features.iter().any(|feature| feature == LOANS);
        let arena = outbound.arena().map(|arena| -> Arc<dyn Arena> {
            if may_cross { arena } else { Arc::new(HeapArena::new(arena.capacity())) }
        });
        let freed = Arc::new(Notify::new());
        if let Ok(arena) = &arena {
            let freed = Arc::clone(&freed);
            // Bytes are dropped anywhere, and the waiting task is the user's.
            let notify = move || locks::let_go(Arc::clone(&freed), |freed| freed.notify_waiters());
            arena.on_free(Box::new(notify));
        }
        let borrowed = may_cross.then(|| inbound.receiver.arena()).flatten();
        Self {
            lender: arena.map(Lender::new),
            borrower: borrowed.map(Borrower::new),
            closed: Mutex::new(Rank::Arena, false),
            line: tokio::sync::Mutex::default(),
            freed,
        }
    }

    /// Has loans returned by `give_back`, which queues the frame. [wire.loans.return]
    pub(crate) fn connect(&self, give_back: impl Fn(u64, Share) + Send + Sync + 'static) {
        if let Some(borrower) = &self.borrower {
            borrower.give_back.get_or_init(|| Box::new(give_back));
        }
    }

    /// Prepares a message for this connection: those of its blobs that are in memory of its arenas cross as references.
    #[inline]
    pub(crate) fn prepare(&self, content: &mut Content) {
        if content.has_attachments() {
            self.prepare_blobs(content);
        }
    }

    fn prepare_blobs(&self, content: &mut Content) {
        content.lend_nothing();
        if content.blobs().is_empty() {
            return;
        }
        let lender = self.lender.as_ref().ok();
        match &self.borrower {
            Some(borrower) => {
                let borrowed = borrower.table.lock();
                lending::prepare(content, lender, |index, blob| borrowed.find(index, blob));
            }
            None => lending::prepare(content, lender, |_, _| None),
        }
    }

    /// The bytes of the message's blobs that would cross this connection as references.
    pub(crate) fn lendable(&self, content: &Content) -> u64 {
        let ours =
            |blob: &Bytes| self.lender.as_ref().is_ok_and(|l| l.arena().locate(blob).is_some());
        let theirs = |blob: &Bytes| {
            self.borrower.as_ref().is_some_and(|borrower| borrower.arena.locate(blob).is_some())
        };
        let lendable = content.blobs().iter().filter(|blob| ours(blob) || theirs(blob));
        lendable.map(|blob| len_u64(blob.len())).sum()
    }

    /// Bytes of this side's memory that are taken.
    pub(crate) fn lent(&self) -> u64 {
        self.lender.as_ref().map_or(0, |lender| lender.arena().used())
    }

    /// Bytes of the peer's memory that this side has.
    pub(crate) fn borrowed(&self) -> u64 {
        self.borrower.as_ref().map_or(0, |borrower| borrower.budget.used())
    }

    /// The connection has ended: nobody waits for memory any more. Called before what is lent is let go.
    pub(crate) fn close(&self) {
        *self.closed.lock() = true;
        locks::let_go(Arc::clone(&self.freed), |freed| freed.notify_waiters());
    }

    /// A piece of the arena; `None` also if the connection has ended.
    pub(super) fn allocate(&self, arena: &dyn Arena, len: usize) -> Option<loan::Loan> {
        let closed = self.closed.lock();
        if *closed { None } else { arena.allocate(len).map(|piece| loan::Loan::new(Some(piece))) }
    }

    /// This side's arena.
    ///
    /// # Errors
    ///
    /// Why there is none, and what to do.
    pub(super) fn arena(&self) -> Result<&Arc<dyn Arena>, &'static str> {
        self.lender.as_ref().map(Lender::arena).map_err(|advice| *advice)
    }

    /// Whoever waits for memory, and what it waits for.
    pub(super) fn waiting(&self) -> (&tokio::sync::Mutex<()>, &Notify) {
        (&self.line, &self.freed)
    }

    /// What has the peer's loans.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if the peer cannot lend.
    pub(super) fn borrower(&self) -> Result<&Arc<Borrower>, Error> {
        let nothing = || Error::Protocol("a loan on a connection that has no arena".to_owned());
        self.borrower.as_ref().ok_or_else(nothing)
    }
}

/// Queues the frame that returns a loan. The share lives until it has been sent.
type GiveBack = Box<dyn Fn(u64, Share) + Send + Sync>;

/// What this side has borrowed.
pub(crate) struct Borrower {
    arena: Arc<dyn PeerArena>,
    /// How much is borrowed, read without the lock of the table.
    budget: Arc<Budget>,
    table: Mutex<Borrowed>,
    give_back: OnceLock<GiveBack>,
}

impl fmt::Debug for Borrower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Borrower").field("arena", &self.arena).finish_non_exhaustive()
    }
}

impl Borrower {
    fn new(arena: Arc<dyn PeerArena>) -> Arc<Self> {
        let borrowed = Borrowed::new(Arc::clone(&arena));
        let budget = Arc::clone(borrowed.budget());
        let table = Mutex::new(Rank::Borrowed, borrowed);
        Arc::new(Self { arena, budget, table, give_back: OnceLock::new() })
    }

    /// A loan has arrived.
    pub(super) fn take(self: &Arc<Self>, entry: &LoanEntry) -> Result<Theirs, Error> {
        let (borrower, loan) = (Arc::clone(self), entry.loan);
        let guard = |share| Arc::new(Guard { loan, share: Some(share), borrower });
        let guard = self.table.lock().take(entry, guard)?;
        let (arena, copied) = (Arc::clone(&self.arena), None);
        Ok(Theirs { arena, offset: entry.offset, len: u64_len(entry.len), guard, copied })
    }

    /// Nobody has this loan any more.
    fn give_back(&self, loan: u64, share: Share) {
        self.table.lock().forget(loan);
        if let Some(give_back) = self.give_back.get() {
            give_back(loan, share);
        }
    }
}

/// Has a loan of the peer. The last one returns it.
struct Guard {
    loan: u64,
    share: Option<Share>,
    borrower: Arc<Borrower>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Some(share) = self.share.take() else { return };
        let (loan, borrower) = (self.loan, Arc::clone(&self.borrower));
        // Values are dropped anywhere.
        locks::later(move || borrower.give_back(loan, share));
    }
}

/// A blob in this side's own memory, which the peer has sent back.
#[derive(Debug)]
pub(super) struct Ours(pub(super) Bytes);

impl LentBlob for Ours {
    fn read(&mut self) -> Option<Bytes> {
        Some(self.0.clone())
    }

    fn copied_loan(&self) -> Option<Loan> {
        None
    }
}

/// A blob in the peer's memory.
pub(super) struct Theirs {
    arena: Arc<dyn PeerArena>,
    offset: u64,
    len: usize,
    guard: Arc<Guard>,
    copied: Option<Bytes>,
}

impl fmt::Debug for Theirs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Theirs").field("len", &self.len).finish_non_exhaustive()
    }
}

impl LentBlob for Theirs {
    fn read(&mut self) -> Option<Bytes> {
        if self.arena.is_trusted() {
            let guard = Arc::clone(&self.guard) as Arc<dyn Any + Send + Sync>;
            return Arc::clone(&self.arena).in_place(self.offset, self.len, guard);
        }
        if let Some(copied) = &self.copied {
            return copied.is_unique().then(|| copied.clone());
        }
        let mut copied = spare::take(self.len).unwrap_or_default();
        self.arena.copy(self.offset, self.len, &mut copied);
        self.copied.insert(Bytes::from(copied)).clone().into()
    }

    fn copied_loan(&self) -> Option<Loan> {
        (!self.arena.is_trusted()).then(|| Arc::clone(&self.guard) as _)
    }
}
