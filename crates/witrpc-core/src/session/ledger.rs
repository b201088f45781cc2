//! The account of what a connection holds for its peer: received bytes, which are returned as credit, and the numbers of answers and requests
//! that were not sent yet.
//!
//! Every received message has a [`Charge`]. Dropping it, wherever the message ends, makes its bytes returnable. The sending half returns
//! them in batches, as credit frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::limits::{POOLS, Pool};
use crate::sync::AtomicWaker;

/// One connection's account, shared by its inbound half, its outbound half and its messages.
#[derive(Debug)]
pub struct Ledger {
    /// Returnable bytes of each pool: their messages have ended, and the peer has not got them back.
    returnable: [AtomicU64; POOLS],
    /// The total of returned bytes of each pool.
    returned: [AtomicU64; POOLS],
    /// The minimum number of bytes for a credit frame, of each pool.
    batch: [u64; POOLS],
    /// A credit frame may be due: set when one has become due, and cleared by whoever is about to look for all.
    due: AtomicBool,
    /// The peer has a response that waits for credit: what there is, is returned without waiting for a batch.
    answer_waits: AtomicBool,
    /// Answers in the sending queue that were not sent completely.
    unsent_responses: AtomicUsize,
    /// Requests in the sending queue.
    unsent_requests: AtomicUsize,
    /// The waker of the driver, which sends the credit.
    driver: AtomicWaker,
}

impl Ledger {
    #[inline]
    pub fn new(batch: [u64; POOLS]) -> Arc<Self> {
        Arc::new(Self {
            returnable: Default::default(),
            returned: Default::default(),
            batch,
            due: AtomicBool::new(false),
            answer_waits: AtomicBool::new(false),
            unsent_responses: AtomicUsize::new(0),
            unsent_requests: AtomicUsize::new(0),
            driver: AtomicWaker::new(),
        })
    }

    /// The task to wake when credit is due.
    #[inline]
    pub const fn driver(&self) -> &AtomicWaker {
        &self.driver
    }

    /// Counts an answer that joins the sending queue.
    #[inline]
    pub fn queue_response(&self) {
        self.unsent_responses.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts answers that leave the sending queue. Called before the peer can see the last of them. The peer's next request is read after
    /// that, so the count is never too high for a peer that keeps to its limit.
    #[inline]
    pub fn take_responses(&self, count: usize) {
        self.unsent_responses.fetch_sub(count, Ordering::Relaxed);
    }

    /// Counts requests that join the sending queue, or leave it.
    #[inline]
    pub fn queue_request(&self) {
        self.unsent_requests.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub fn take_requests(&self, count: usize) {
        self.unsent_requests.fetch_sub(count, Ordering::Relaxed);
    }

    /// The number of requests that were not sent completely. It decides whether to check the queue; a request that another thread is just
    /// queueing may be missing.
    #[inline]
    pub fn unsent_requests(&self) -> usize {
        self.unsent_requests.load(Ordering::Relaxed)
    }

    /// The number of answers that were not sent completely.
    #[inline]
    pub fn unsent_responses(&self) -> usize {
        // Relaxed: the ring's cursors order it with what the peer can see; see `take_responses`.
        self.unsent_responses.load(Ordering::Relaxed)
    }

    /// Whether a credit frame may be due.
    #[inline]
    pub fn is_due(&self) -> bool {
        // Relaxed: the driver is woken after it was set.
        self.due.load(Ordering::Relaxed)
    }

    /// The same, for whoever calls [`take_due`](Self::take_due) for all pools next.
    #[inline]
    pub fn begin_taking(&self) -> bool {
        // Acquire: DUE(ledger), pairs with the release in `add` and `note_answer_waits`: what was added before is seen. What becomes due
        // from here on sets it again.
        self.is_due() && self.due.swap(false, Ordering::Acquire)
    }

    fn is_due_in(&self, pool: Pool) -> bool {
        // Relaxed: the number orders no other data; the driver is woken after it was increased.
        let returnable = self.returnable[pool as usize].load(Ordering::Relaxed);
        let is_batch = returnable >= self.batch[pool as usize];
        returnable > 0 && (is_batch || pool == Pool::Answers && self.answer_waits())
    }

    /// Whether the peer has said that a response waits for credit, and has got none since.
    #[inline]
    pub fn answer_waits(&self) -> bool {
        // SeqCst: see `calls::unread` of witrpc-runtime.
        self.answer_waits.load(Ordering::SeqCst)
    }

    /// Notes that a response of the peer waits for credit. The caller wakes the driver.
    pub fn note_answer_waits(&self) {
        self.answer_waits.store(true, Ordering::SeqCst);
        // SeqCst: in the order of all such accesses, either this load comes after `add`'s addition, or the load there after the store
        // above. So one of the two finds that credit is due.
        if self.returnable[Pool::Answers as usize].load(Ordering::SeqCst) > 0 {
            // Release: DUE(ledger).
            self.due.store(true, Ordering::Release);
        }
    }

    /// Takes the bytes of this pool to return, if a credit frame is due.
    #[inline]
    pub fn take_due(&self, pool: Pool) -> Option<u64> {
        if !self.is_due_in(pool) {
            return None;
        }
        if pool == Pool::Answers && self.answer_waits() {
            self.answer_waits.store(false, Ordering::Relaxed);
        }
        let due = self.returnable[pool as usize].swap(0, Ordering::Relaxed);
        // Counted before the frame can be sent, so the peer never uses credit that is not recorded here.
        self.returned[pool as usize].fetch_add(due, Ordering::Release);
        Some(due)
    }

    /// Returnable bytes of this pool that were not returned.
    pub fn returnable(&self, pool: Pool) -> u64 {
        self.returnable[pool as usize].load(Ordering::Relaxed)
    }

    /// The total of returned bytes of this pool.
    #[inline]
    pub fn returned(&self, pool: Pool) -> u64 {
        self.returned[pool as usize].load(Ordering::Acquire)
    }

    fn add(&self, pool: Pool, bytes: u64) {
        // SeqCst: see `note_answer_waits`.
        let before = self.returnable[pool as usize].fetch_add(bytes, Ordering::SeqCst);
        let batch = self.batch[pool as usize];
        let waits = pool == Pool::Answers && self.answer_waits();
        if waits || before < batch.max(1) && before + bytes >= batch {
            // Release: DUE(ledger).
            self.due.store(true, Ordering::Release);
            self.driver.wake();
        }
    }
}

/// The charge for one received message; dropping it makes the bytes returnable.
#[derive(Debug)]
pub struct Charge {
    bytes: u64,
    pool: Pool,
    ledger: Option<Arc<Ledger>>,
}

impl Charge {
    #[inline]
    pub fn new(ledger: &Arc<Ledger>, pool: Pool) -> Self {
        Self { bytes: 0, pool, ledger: Some(Arc::clone(ledger)) }
    }

    /// A charge of nothing.
    #[inline]
    pub const fn none() -> Self {
        Self { bytes: 0, pool: Pool::Answers, ledger: None }
    }

    /// The number of charged bytes.
    #[inline]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    #[inline]
    pub const fn pool(&self) -> Pool {
        self.pool
    }

    #[inline]
    pub const fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Takes over another charge of the same pool.
    pub fn absorb(&mut self, mut other: Self) {
        if self.ledger.is_none() {
            *self = other;
        } else {
            self.bytes += std::mem::take(&mut other.bytes);
        }
    }

    /// Makes the bytes returnable that are more than so many.
    pub fn reduce_to(&mut self, bytes: u64) {
        let rest = self.bytes.saturating_sub(bytes);
        if let Some(ledger) = self.ledger.as_ref().filter(|_| rest > 0) {
            self.bytes = bytes;
            ledger.add(self.pool, rest);
        }
    }
}

impl Drop for Charge {
    #[inline]
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            if self.bytes > 0 {
                ledger.add(self.pool, self.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Charge;
    use super::Ledger;
    use crate::limits::Pool;

    #[test]
    fn credit_is_given_back_in_batches_and_never_lost() {
        let ledger = Ledger::new([100, 1, 1]);
        let charge = |bytes| {
            let mut charge = Charge::new(&ledger, Pool::Requests);
            charge.add(bytes);
            charge
        };
        drop(charge(60));
        assert_eq!(Pool::ALL.map(|pool| ledger.take_due(pool)), [None, None, None]);
        drop(charge(60));
        assert_eq!(Pool::ALL.map(|pool| ledger.take_due(pool)), [Some(120), None, None]);
        assert_eq!(Pool::ALL.map(|pool| ledger.take_due(pool)), [None, None, None]);
    }
}
