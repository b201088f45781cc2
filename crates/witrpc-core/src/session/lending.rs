//! Lending: what crosses as a reference instead of bytes, in both directions. [wire.loans]
//!
//! The side that lends has a [`Lender`], which finds the blobs of a message that are in memory of its arena, and a table [`Out`] of what its peer
//! has. The side that borrows has a table [`Borrowed`]. A loan has a number, which its lender uses once.
//!
//! # The life of a loan
//!
//! | step | lender | borrower |
//! |---|---|---|
//! | a message is prepared | [`prepare`]: its entry; the message keeps the bytes, and a share of the budget | |
//! | its first section has been sent | both move to [`Out`] | |
//! | its last chunk has arrived | | [`Borrowed::take`]: a guard, and a share of the budget |
//! | a message is dropped before its first section has been sent | the bytes are free | |
//! | an abort arrives | | what the part had lent is returned |
//! | the guard is dropped | | a frame returns the loan; the share lives until that has been sent |
//! | that frame arrives | [`Out::give_back`]: the bytes are free, unless somebody here has them | |
//!
//! Exactly one of the two has the loan's end in its hands: before its first section has been sent completely, the lender; then the borrower, which
//! has seen the entry by then.
//!
//! A borrower that sends a blob back refers to the loan. It keeps its guard until the last chunk of that message has been sent, so the frame that
//! returns the loan follows the message.
//!
//! Pure: the caller locks the tables.

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::error::Error;
use crate::transport::{Arena, PeerArena};
use crate::values::content::Content;
use crate::values::loans::{Budget, Lent, LentSource, Share};
use crate::values::spare;
use crate::wire::fields::len_u64;
use crate::wire::message::LoanEntry;

/// So many loans are looked at for the one that a blob is in.
const LOOKED_AT: usize = 64;

/// What finds the blobs that can cross as references.
#[derive(Debug)]
pub struct Lender {
    arena: Arc<dyn Arena>,
    budget: Arc<Budget>,
    next: AtomicU64,
}

impl Lender {
    #[must_use]
    pub fn new(arena: Arc<dyn Arena>) -> Self {
        Self { budget: Budget::new(arena.capacity()), arena, next: AtomicU64::new(0) }
    }

    #[must_use]
    pub fn arena(&self) -> &Arc<dyn Arena> {
        &self.arena
    }

    /// The entry for a blob that is in our arena. `None` also if too much is lent already: then it is copied.
    fn entry(&self, blob: u32, bytes: &Bytes) -> Option<Lent> {
        let offset = self.arena.locate(bytes)?;
        let len = len_u64(bytes.len());
        let share = self.budget.take(len)?;
        // Relaxed: only uniqueness matters.
        let loan = self.next.fetch_add(1, Ordering::Relaxed);
        let entry = LoanEntry { blob, of_receiver: false, loan, offset, len };
        Some(Lent { entry, source: LentSource::Ours(bytes.clone(), share) })
    }
}

/// Prepares a message to be sent: its blobs that are in one of the arenas cross as references.
pub fn prepare(
    content: &mut Content,
    lender: Option<&Lender>,
    mut find: impl FnMut(u32, &Bytes) -> Option<Lent>,
) {
    let of_lender = |index, bytes: &Bytes| lender?.entry(index, bytes);
    content.lend(|index, bytes| of_lender(index, bytes).or_else(|| find(index, bytes)));
}

/// What of our arena the peer has.
#[derive(Debug, Default)]
pub struct Out(HashMap<u64, OutLoan>);

#[derive(Debug)]
struct OutLoan {
    bytes: Bytes,
    /// Where they begin in the arena.
    offset: u64,
    _share: Share,
}

impl Out {
    /// The first section of a message with these loans has been sent. Those that refer to the peer's memory stay with the message.
    pub fn add(&mut self, loans: &mut Vec<Lent>) {
        for Lent { entry, source } in std::mem::take(loans) {
            match source {
                LentSource::Ours(bytes, share) => {
                    let loan = OutLoan { bytes, offset: entry.offset, _share: share };
                    self.0.insert(entry.loan, loan);
                }
                source @ LentSource::Peers(_) => loans.push(Lent { entry, source }),
            }
        }
    }

    /// The peer returns a loan.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it does not have that loan.
    pub fn give_back(&mut self, loan: u64) -> Result<(), Error> {
        let loan = self.0.remove(&loan).ok_or_else(|| not_lent("returns"))?;
        spare::let_go(loan.bytes);
        Ok(())
    }

    /// The bytes of a loan to which the peer refers.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it does not have that loan, or they are not within it.
    pub fn bytes(&self, entry: &LoanEntry) -> Result<Bytes, Error> {
        let loan = self.0.get(&entry.loan).ok_or_else(|| not_lent("refers to"))?;
        let within = || {
            let from = usize::try_from(entry.offset.checked_sub(loan.offset)?).ok()?;
            let end = from.checked_add(usize::try_from(entry.len).ok()?)?;
            (end <= loan.bytes.len()).then(|| loan.bytes.slice(from..end))
        };
        within().ok_or_else(|| Error::Protocol("bytes outside of the loan".to_owned()))
    }
}

/// What this side has of the peer's arena.
#[derive(Debug)]
pub struct Borrowed {
    arena: Arc<dyn PeerArena>,
    budget: Arc<Budget>,
    /// By loan.
    loans: HashMap<u64, u64>,
    /// By offset and loan.
    by_offset: BTreeMap<(u64, u64), Held>,
}

/// A loan that somebody on this side has.
#[derive(Debug)]
struct Held {
    len: u64,
    guard: Weak<dyn Any + Send + Sync>,
}

impl Borrowed {
    #[must_use]
    pub fn new(arena: Arc<dyn PeerArena>) -> Self {
        let budget = Budget::new(arena.capacity());
        Self { arena, budget, loans: HashMap::new(), by_offset: BTreeMap::new() }
    }

    /// What counts how much is lent.
    #[must_use]
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// A loan has arrived. `guard` makes what keeps it, from a share of the budget.
    ///
    /// # Errors
    ///
    /// [`Error::Protocol`] if it is not within the arena, or this side has it already, or too much is lent.
    pub fn take<G: Any + Send + Sync>(
        &mut self,
        entry: &LoanEntry,
        guard: impl FnOnce(Share) -> Arc<G>,
    ) -> Result<Arc<G>, Error> {
        let protocol = |rule: &str| Error::Protocol(rule.to_owned());
        let end = entry.offset.checked_add(entry.len);
        if end.is_none_or(|end| end > self.arena.capacity()) {
            return Err(protocol("a loan outside of the arena"));
        }
        if self.loans.contains_key(&entry.loan) {
            return Err(protocol("a loan that was not returned is lent again"));
        }
        let share = self.budget.take(entry.len);
        let guard = guard(share.ok_or_else(|| protocol("more is lent than the arena has"))?);
        let weak: Weak<G> = Arc::downgrade(&guard);
        self.loans.insert(entry.loan, entry.offset);
        self.by_offset.insert((entry.offset, entry.loan), Held { len: entry.len, guard: weak });
        Ok(guard)
    }

    /// Nobody on this side has this loan any more.
    pub fn forget(&mut self, loan: u64) {
        if let Some(offset) = self.loans.remove(&loan) {
            self.by_offset.remove(&(offset, loan));
        }
    }

    /// A reference to the loan that these bytes are in, if they are in one that this side has. They are the user's, so they are in one; it is found
    /// unless the peer has lent much that overlaps.
    #[must_use]
    pub fn find(&self, blob: u32, bytes: &Bytes) -> Option<Lent> {
        let offset = self.arena.locate(bytes)?;
        let len = len_u64(bytes.len());
        let before = self.by_offset.range(..=(offset, u64::MAX)).rev().take(LOOKED_AT);
        let mut covering = before.filter(|((from, _), held)| offset - from + len <= held.len);
        covering.find_map(|((_, loan), held)| {
            let entry = LoanEntry { blob, of_receiver: true, loan: *loan, offset, len };
            // Another one may just be going.
            let guard = held.guard.upgrade()?;
            Some(Lent { entry, source: LentSource::Peers(guard) })
        })
    }
}

fn not_lent(what: &str) -> Error {
    Error::Protocol(format!("it {what} a loan that it does not have"))
}

#[cfg(test)]
mod tests;
