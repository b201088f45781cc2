//! The receiving half: who drains it, who polls it, and how it is left.
//!
//! A caller *leads* for the length of one poll; the driver takes turns. Both leave as C1 of [`connection`](super) asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::handling::{Handled, Mine};
use super::{Connection, Receiving, lock};
use crate::error::Error;
use crate::inbound::Inbound;
use crate::pending::{Answer, CallId};

/// Frames that are taken in one step, so that whoever takes them gets on.
const LEAD_FRAMES: usize = 64;
/// Looks at the ring between two looks at the clock, while polling.
const LOOKS_PER_CLOCK: u32 = 16;

/// How a turn of the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more is there now.
    Empty,
    /// There may be more; others had to get their turn.
    More,
    /// A caller is leading; it wakes the driver, or leaves everything done (C1).
    Led,
}

/// How a slice of polling ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Polled {
    Ready,
    Again,
    GaveUp,
}

impl Connection {
    /// Makes `waker` the driver's, and returns whether there is work already: word that was left before, credit to
    /// give back, or frames. From here on every one of these wakes it, or finds the peer armed.
    pub(crate) fn register_driver(&self, waker: &Waker) -> Result<bool, Error> {
        self.ledger.driver().register(waker);
        let kicked = self.kicked.swap(false, Ordering::AcqRel);
        Ok(self.arm()? || kicked || self.ledger.is_due())
    }

    /// Looks for the answer to `id`, leading the receiving for the length of this step if nobody else does.
    pub(crate) fn poll_answer(&self, id: CallId, waker: &Waker) -> Option<Result<Answer, Error>> {
        if let Some(outcome) = lock(&self.pending).poll(id, waker) {
            return Some(outcome);
        }
        // The waker is registered (C2); if somebody else leads, that wakes us.
        let mut guard = self.receiving.try_lock().ok()?;
        let receiving = guard.as_mut()?;
        match self.lead(receiving, Mine::Call(id)) {
            Ok(answer) => answer.flatten().map(Ok),
            Err(error) => {
                drop(guard);
                self.fail(&error);
                lock(&self.pending).poll(id, waker)
            }
        }
    }

    /// Takes in what has come, for whoever waits for a stream of the peer's, if nobody else does.
    pub(crate) fn lead_for_stream(&self, id: u64) {
        let Ok(mut guard) = self.receiving.try_lock() else { return };
        let Some(receiving) = guard.as_mut() else { return };
        if let Err(error) = self.lead(receiving, Mine::Stream(id)) {
            drop(guard);
            self.fail(&error);
        }
    }

    /// Drains, and polls a while for `wanted`. Returns something if that came, and the answer if it is one.
    fn lead(
        &self,
        receiving: &mut Receiving,
        wanted: Mine,
    ) -> Result<Option<Option<Answer>>, Error> {
        receiving.inbound.receiver.disarm();
        let (mut answer, mut woke, mut frames) = (None, false, 0);
        let mut polling: Option<(Instant, Duration)> = None;
        loop {
            while frames < LEAD_FRAMES
                && self.closed().is_none()
                && let Some(incoming) = receiving.inbound.next()?
            {
                frames += 1;
                match self.handle(incoming, wanted)? {
                    Handled::Mine(mine) => answer = Some(mine),
                    Handled::Serve(job) => {
                        self.served.take_in(job)?;
                        self.wake_driver();
                    }
                    Handled::Woke => woke = true,
                    Handled::Nothing => {}
                }
            }
            // Others have work now, or we have: polling on would keep them from it.
            if answer.is_some() || woke || frames >= LEAD_FRAMES || self.closed().is_some() {
                break;
            }
            let (since, budget) = *polling.get_or_insert_with(|| {
                let worth = receiving.inbound.receiver.worth_polling();
                (Instant::now(), receiving.caller.budget(worth))
            });
            if budget.is_zero() {
                break;
            }
            if !poll_ring(&mut receiving.inbound, since, budget)? {
                receiving.caller.miss();
                polling = None;
                break;
            }
        }
        if let Some((since, budget)) = polling
            && answer.is_some()
            && !budget.is_zero()
        {
            receiving.caller.hit(since.elapsed());
        }
        self.leave(receiving)?;
        Ok(answer)
    }

    /// Leaves the receiving half as C1 asks.
    fn leave(&self, receiving: &mut Receiving) -> Result<(), Error> {
        // The driver may have left records behind that are consumed and not yet released.
        receiving.inbound.receiver.release()?;
        if receiving.inbound.receiver.arm()? {
            self.wake_driver();
        }
        Ok(())
    }

    /// One step of the driver: takes and serves what is there.
    pub(crate) fn turn(self: &Arc<Self>, frames: usize) -> Result<Turn, Error> {
        let mut unpublished = false;
        let mut turn = Turn::More;
        for _ in 0..frames {
            // What comes behind a goodbye is for nobody.
            if self.closed().is_some() {
                turn = Turn::Empty;
                break;
            }
            let handled = {
                let Ok(mut guard) = self.receiving.try_lock() else {
                    turn = Turn::Led;
                    break;
                };
                let Some(receiving) = guard.as_mut() else {
                    turn = Turn::Empty;
                    break;
                };
                receiving.inbound.receiver.disarm();
                let Some(incoming) = receiving.inbound.next()? else {
                    turn = Turn::Empty;
                    break;
                };
                self.handle(incoming, Mine::Nothing)?
            };
            if let Handled::Serve(job) = handled {
                unpublished |= self.serve(job);
            }
        }
        if let Ok(mut guard) = self.receiving.try_lock()
            && let Some(receiving) = guard.as_mut()
        {
            receiving.inbound.receiver.release()?;
        }
        if unpublished {
            self.with_outbound(|outbound| outbound.publish().map(|()| false));
        }
        Ok(turn)
    }

    /// How long the driver should poll before it sleeps.
    pub(crate) fn poll_budget(&self) -> Duration {
        let Ok(mut guard) = self.receiving.try_lock() else { return Duration::ZERO };
        let Some(receiving) = guard.as_mut() else { return Duration::ZERO };
        let worth = receiving.inbound.receiver.worth_polling();
        receiving.driver.budget(worth)
    }

    /// Polls the ring for a `slice` of the `budget` that began at `since`.
    pub(crate) fn poll_slice(
        &self,
        since: Instant,
        budget: Duration,
        slice: Duration,
    ) -> Result<Polled, Error> {
        if budget.is_zero() {
            return Ok(Polled::GaveUp);
        }
        let Ok(mut guard) = self.receiving.try_lock() else { return Ok(Polled::GaveUp) };
        let Some(receiving) = guard.as_mut() else { return Ok(Polled::GaveUp) };
        let spent = since.elapsed();
        if budget <= spent {
            receiving.driver.miss();
            return Ok(Polled::GaveUp);
        }
        if poll_ring(&mut receiving.inbound, Instant::now(), slice.min(budget - spent))? {
            receiving.driver.hit(since.elapsed());
            return Ok(Polled::Ready);
        }
        Ok(Polled::Again)
    }

    /// Arms the receiving half for the driver's sleep; returns whether there is work after all.
    fn arm(&self) -> Result<bool, Error> {
        // Not `try_lock`: a leader that has armed and still holds the lock would let us sleep on a ring that we have
        // taken already, with its frame unread. It is done within one bounded step.
        let mut guard = lock(&self.receiving);
        let Some(receiving) = guard.as_mut() else { return Ok(false) };
        // The turn before may have left this to a leader that came too late to do it.
        receiving.inbound.receiver.release()?;
        Ok(receiving.inbound.receiver.arm()?)
    }

    /// The peer's process is gone: takes what it still said, waiting for a leader to be done with its step.
    pub(crate) fn last_words(self: &Arc<Self>) -> Result<(), Error> {
        loop {
            match self.turn(LEAD_FRAMES)? {
                Turn::Empty => return Ok(()),
                Turn::More => {}
                Turn::Led => drop(lock(&self.receiving)),
            }
        }
    }
}

/// Polls until a frame is there (`true`) or `budget` is spent.
fn poll_ring(inbound: &mut Inbound, since: Instant, budget: Duration) -> Result<bool, Error> {
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if inbound.receiver.is_ready()? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        if since.elapsed() >= budget {
            return Ok(false);
        }
    }
}
