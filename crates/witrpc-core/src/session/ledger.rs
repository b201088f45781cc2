//! The account of what a connection holds for its peer: received bytes, which it may give back as credit, and answers and
//! requests that have not left.
//!
//! Every received message carries a [`Charge`]; dropping it, wherever the message ends, puts its bytes on the
//! returnable side. The sending half turns them into credit frames in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::sync::AtomicWaker;

/// One connection's account, shared by its inbound half, its outbound half and its messages.
#[derive(Debug)]
pub struct Ledger {
    /// Bytes whose messages have ended and that the peer has not been told about.
    returnable: AtomicU64,
    /// Bytes that the peer has been told about, ever.
    returned: AtomicU64,
    /// Below this many, telling the peer is not worth a frame.
    batch: u64,
    /// Answers in the sending queue of which not all has left.
    unsent_responses: AtomicUsize,
    /// Requests in the sending queue.
    unsent_requests: AtomicUsize,
    /// Who sends the credit: the connection's driver.
    driver: AtomicWaker,
}

impl Ledger {
    pub fn new(batch: u64) -> Arc<Self> {
        Arc::new(Self {
            returnable: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            batch,
            unsent_responses: AtomicUsize::new(0),
            unsent_requests: AtomicUsize::new(0),
            driver: AtomicWaker::new(),
        })
    }

    /// The task to wake when credit is due.
    pub const fn driver(&self) -> &AtomicWaker {
        &self.driver
    }

    /// An answer joins the sending queue.
    pub fn queue_response(&self) {
        self.unsent_responses.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers leave the sending queue. Said before what is left of them can be seen by the peer, whose next request is
    /// read after that: so the count is never too high for a peer that keeps to its limit.
    pub fn take_responses(&self, count: usize) {
        self.unsent_responses.fetch_sub(count, Ordering::Relaxed);
    }

    /// Requests join the sending queue, and leave it.
    pub fn queue_request(&self) {
        self.unsent_requests.fetch_add(1, Ordering::Relaxed);
    }

    pub fn take_requests(&self, count: usize) {
        self.unsent_requests.fetch_sub(count, Ordering::Relaxed);
    }

    /// Requests of which not all has left. A look at this tells whether to look at the queue; it may come a moment too early for
    /// one that has just been queued by another thread.
    pub fn unsent_requests(&self) -> usize {
        self.unsent_requests.load(Ordering::Relaxed)
    }

    /// Answers of which not all has left.
    pub fn unsent_responses(&self) -> usize {
        // Relaxed: the ring's cursors order it with what the peer has seen; see `take_responses`.
        self.unsent_responses.load(Ordering::Relaxed)
    }

    /// Whether there are bytes to give back now.
    pub fn is_due(&self) -> bool {
        // Relaxed: the number carries no other data; whoever adds to it wakes the driver afterwards.
        let returnable = self.returnable.load(Ordering::Relaxed);
        returnable > 0 && returnable >= self.batch
    }

    /// Bytes to give back now, if they are worth a frame.
    pub fn take_due(&self) -> Option<u64> {
        if !self.is_due() {
            return None;
        }
        let due = self.returnable.swap(0, Ordering::Relaxed);
        // Counted before the frame can leave, so the peer never spends credit that is not on record here.
        self.returned.fetch_add(due, Ordering::Release);
        Some(due)
    }

    /// Bytes that are not worth a frame yet.
    #[cfg(test)]
    pub fn returnable(&self) -> u64 {
        self.returnable.load(Ordering::Relaxed)
    }

    /// Bytes that the peer has not been told about, whether or not they are worth a frame.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub fn untold(&self) -> u64 {
        self.returnable.load(Ordering::Relaxed)
    }

    /// Bytes given back so far.
    pub fn returned(&self) -> u64 {
        self.returned.load(Ordering::Acquire)
    }

    fn add(&self, bytes: u64) {
        let before = self.returnable.fetch_add(bytes, Ordering::Relaxed);
        if before < self.batch.max(1) && before + bytes >= self.batch {
            self.driver.wake();
        }
    }
}

/// Bytes of one received message on the account of its connection.
#[derive(Debug, Default)]
pub struct Charge {
    bytes: u64,
    ledger: Option<Arc<Ledger>>,
}

impl Charge {
    pub fn new(ledger: &Arc<Ledger>) -> Self {
        Self { bytes: 0, ledger: Some(Arc::clone(ledger)) }
    }

    /// A charge of nothing.
    pub const fn none() -> Self {
        Self { bytes: 0, ledger: None }
    }

    /// What it keeps on the account.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub const fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(ledger) = &self.ledger {
            if self.bytes > 0 {
                ledger.add(self.bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Charge;
    use super::Ledger;

    #[test]
    fn credit_is_given_back_in_batches_and_never_lost() {
        let ledger = Ledger::new(100);
        let charge = |bytes| {
            let mut charge = Charge::new(&ledger);
            charge.add(bytes);
            charge
        };
        drop(charge(60));
        assert_eq!(ledger.take_due(), None);
        drop(charge(60));
        assert_eq!(ledger.take_due(), Some(120));
        assert_eq!(ledger.take_due(), None);
    }
}
