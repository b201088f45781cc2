//! What a connection does with loans: lends memory, as soon as it is free, and takes what arrives. [wire.loans]

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use witrpc_core::transport::Arena;
use witrpc_core::values::content::Content;
use witrpc_core::values::loans::{LentBlob, Loans};
use witrpc_core::wire::fields::len_u64;
use witrpc_core::wire::message::LoanEntry;
use witrpc_core::{CloseReason, Error};

use crate::link::halves::Link;
use crate::link::lending::Ours;
use crate::link::loan::Loan;
use crate::link::timers::Timer;

/// A wait for memory is logged when it has taken this long.
const LONG_WAIT: Duration = Duration::from_secs(5);
const SETTING: &str = "with_lending, which sets how much this side can lend";

impl Link {
    /// Memory for a payload of `len` bytes, as soon as it is free.
    pub(crate) async fn lend(&self, len: usize) -> Result<Loan, Error> {
        let arena = self.arena_for(len)?;
        self.check_open()?;
        if len == 0 {
            return Ok(Loan::new(None));
        }
        let (line, freed) = self.lending.waiting();
        let _first_in_line = line.lock().await;
        // Of the connection's runtime: whoever lends may run elsewhere.
        let mut patience = None;
        loop {
            let mut freed = pin!(freed.notified());
            // Registered before the attempt, so that what is freed in between is not missed.
            freed.as_mut().enable();
            if let Some(loan) = self.lending.allocate(&**arena, len) {
                return Ok(loan);
            }
            self.check_open()?;
            let timer = patience.get_or_insert_with(|| Timer::new(&self.runtime, LONG_WAIT));
            poll_fn(|cx| {
                if timer.as_mut().is_some_and(|timer| timer.poll(cx).is_ready()) {
                    *timer = None;
                    let (used, capacity) = (arena.used(), arena.capacity());
                    tracing::warn!(len, used, capacity, "lending waits for memory that is out");
                }
                freed.as_mut().poll(cx)
            })
            .await;
        }
    }

    /// The same, if it is free now.
    pub(crate) fn try_lend(&self, len: usize) -> Result<Loan, Error> {
        let arena = self.arena_for(len)?;
        self.check_open()?;
        if len == 0 {
            return Ok(Loan::new(None));
        }
        // Nobody overtakes those who wait.
        let first_in_line = self.lending.waiting().0.try_lock();
        let loan = first_in_line.ok().and_then(|_first| self.lending.allocate(&**arena, len));
        loan.ok_or_else(|| {
            let (used, capacity) = (arena.used(), arena.capacity());
            let what = format!("{len} bytes in a row are not free: {used} of {capacity} are out");
            Error::Limit { what, setting: SETTING, maybe_executed: false }
        })
    }

    fn arena_for(&self, len: usize) -> Result<&Arc<dyn Arena>, Error> {
        let arena = self.lending.arena().map_err(|advice| Error::Unsupported {
            what: "lending".to_owned(),
            advice: advice.to_owned(),
        })?;
        let capacity = arena.capacity();
        if len_u64(len) > capacity {
            let what = format!("a loan of {len} bytes is larger than the arena of {capacity}");
            return Err(Error::Limit { what, setting: SETTING, maybe_executed: false });
        }
        Ok(arena)
    }

    fn check_open(&self) -> Result<(), Error> {
        let closed = |reason: &CloseReason| {
            Err(Error::Closed { reason: reason.clone(), maybe_executed: false })
        };
        self.closed().map_or(Ok(()), closed)
    }

    /// Takes the loans of a message that has arrived.
    pub(crate) fn adopt_loans(&self, content: &mut Content) -> Result<(), Error> {
        if content.loan_table().is_empty() {
            return Ok(());
        }
        let mut lent = Vec::with_capacity(content.loan_table().len());
        for entry in content.loan_table() {
            let blob: Box<dyn LentBlob> = if entry.of_receiver {
                Box::new(Ours(self.lent_bytes(entry)?))
            } else {
                Box::new(self.lending.borrower()?.take(entry)?)
            };
            lent.push((entry.blob, blob));
        }
        content.set_loans(Loans::Incoming(lent));
        Ok(())
    }

    /// The rest of a message with these loans will not arrive.
    pub(crate) fn return_loans(&self, entries: &[LoanEntry]) -> Result<(), Error> {
        for entry in entries.iter().filter(|entry| !entry.of_receiver) {
            drop(self.lending.borrower()?.take(entry)?);
        }
        Ok(())
    }

    fn lent_bytes(&self, entry: &LoanEntry) -> Result<Bytes, Error> {
        let outbound = self.sending.outbound.lock();
        // Once it has ended, nobody reads the message.
        outbound.as_ref().map_or_else(|| Ok(Bytes::new()), |outbound| outbound.lent_bytes(entry))
    }
}
