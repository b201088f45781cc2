//! Who drains the receiving half of a connection, and how it is left: a caller that *leads* for the length of one poll,
//! or the driver, which alone sleeps.
//!
//! Generic over the half, so that loom can walk through every interleaving (`reception/loom.rs`).
//!
//! # Invariants
//!
//! - **C1** Whoever leaves the half leaves it armed and empty, or has woken the driver, or has found it awake; and the
//!   driver arms it once more, waiting for the lock, before it sleeps. So there is always somebody whom the next frame
//!   reaches. Whether the driver is awake is part of what the lock protects: it says so when it visits, and takes it back
//!   in the very step that arms for its sleep.

#[cfg(all(loom, test))]
mod loom;

use std::sync::{Arc, PoisonError};
use std::task::Waker;

use witrpc_core::session::ledger::Ledger;

use crate::link::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// What can be drained: its arming, and the room that it gives back.
pub(crate) trait Half {
    type Error;

    /// Whether something is there.
    fn is_ready(&mut self) -> Result<bool, Self::Error>;

    /// Asks the peer to wake us; `true` if something is there already.
    fn arm(&mut self) -> Result<bool, Self::Error>;

    /// Tells the peer about the room that what was taken has left.
    fn release(&mut self) -> Result<(), Self::Error>;

    /// From here on there is only what is there now.
    fn stop(&mut self) -> Result<(), Self::Error>;
}

/// A receiving half, and the way to the driver.
#[derive(Debug)]
pub(crate) struct Reception<H> {
    state: Mutex<State<H>>,
    /// Word for the driver, in case it was not asleep when it was woken.
    driver_notified: AtomicBool,
    /// Something was pushed that the driver is to publish.
    unpublished: AtomicBool,
    /// Knows the driver's waker.
    ledger: Arc<Ledger>,
    /// Does not wait for a leader before sleeping: the mistake that the model is to find.
    #[cfg(all(loom, test))]
    skips_lock: bool,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct State<H> {
    /// `None` once the connection has ended.
    half: Option<H>,
    /// The driver has visited since it last armed for its sleep, so it will be back before it sleeps.
    driver_is_awake: bool,
}

/// What a leader does that finds nothing there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// It carries out its step, and may poll.
    MayPoll,
    /// It leaves everything as it was, which is as C1 asks: nothing has changed since somebody else left it.
    IfReady,
}

/// What the driver found.
#[derive(Debug)]
pub(crate) enum Visit<T> {
    Done(T),
    /// A caller is leading; it wakes the driver, or leaves everything done (C1).
    CallerLeads,
    /// The connection has ended.
    Ended,
}

impl<H: Half> Reception<H> {
    pub(crate) fn new(half: H, ledger: Arc<Ledger>) -> Self {
        Self {
            state: Mutex::new(State { half: Some(half), driver_is_awake: false }),
            driver_notified: AtomicBool::new(false),
            unpublished: AtomicBool::new(false),
            ledger,
            #[cfg(all(loom, test))]
            skips_lock: false,
        }
    }

    /// Leads for the length of this step. `None` if somebody else is at it, the connection has ended, or the leader is
    /// skips_lock and there is nothing.
    pub(crate) fn lead<T>(
        &self,
        leader: Leader,
        step: impl FnOnce(&mut H) -> Result<T, H::Error>,
    ) -> Option<Result<T, H::Error>> {
        let mut guard = self.state.try_lock().ok()?;
        let State { half, driver_is_awake } = &mut *guard;
        let half = half.as_mut()?;
        if leader == Leader::IfReady {
            match half.is_ready() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        Some(step(half).and_then(|found| self.leave(half, *driver_is_awake).map(|()| found)))
    }

    /// Leaves the half as C1 asks.
    fn leave(&self, half: &mut H, driver_is_awake: bool) -> Result<(), H::Error> {
        // The driver may have left records behind that are consumed and not yet released.
        half.release()?;
        if !driver_is_awake && half.arm()? {
            self.wake_driver();
        }
        Ok(())
    }

    /// A step of the driver's, which comes back before it sleeps and so may leave the half as it is.
    pub(crate) fn visit<T>(
        &self,
        step: impl FnOnce(&mut H) -> Result<T, H::Error>,
    ) -> Result<Visit<T>, H::Error> {
        let Ok(mut state) = self.state.try_lock() else { return Ok(Visit::CallerLeads) };
        state.driver_is_awake = true;
        match state.half.as_mut() {
            Some(half) => step(half).map(Visit::Done),
            None => Ok(Visit::Ended),
        }
    }

    /// Whether something is there, if nobody is at it. Looks only.
    pub(crate) fn has_unread(&self) -> bool {
        let Ok(mut state) = self.state.try_lock() else { return false };
        // What is broken will be told by whoever reads it.
        state.half.as_mut().is_some_and(|half| half.is_ready().unwrap_or(false))
    }

    /// Wakes the driver if it sleeps and there is a reason to.
    pub(crate) fn wake_driver_if(&self, reason: impl FnOnce(&mut H) -> bool) {
        // Relaxed: nothing is read on the strength of it. Whoever left that word has woken it.
        if self.driver_notified.load(Ordering::Relaxed) {
            return;
        }
        // Whoever is at it now will do the same.
        let Ok(mut state) = self.state.try_lock() else { return };
        let rouse = !state.driver_is_awake && state.half.as_mut().is_some_and(reason);
        drop(state);
        if rouse {
            self.wake_driver();
        }
    }

    /// Makes `waker` the driver's, and returns whether there is work already: word that was left before, credit to
    /// give back, or frames. From here on every one of these wakes it, or finds the peer armed.
    pub(crate) fn register_driver(&self, waker: &Waker) -> Result<bool, H::Error> {
        self.ledger.driver().register(waker);
        // Acquire: pairs with the store in `wake_driver`; what was to be done is seen.
        let driver_notified = self.driver_notified.swap(false, Ordering::AcqRel);
        Ok(self.arm()? || driver_notified || self.ledger.is_due())
    }

    /// Arms the half for the driver's sleep; returns whether there is work after all.
    fn arm(&self) -> Result<bool, H::Error> {
        // Not `try_lock`: a leader that has armed and still holds the lock would let us sleep although the
        // notification was consumed already and its frame is unread. It is done within one bounded step.
        #[cfg(all(loom, test))]
        if self.skips_lock && self.state.try_lock().is_err() {
            return Ok(false);
        }
        let mut state = self.lock();
        state.driver_is_awake = false;
        let Some(half) = state.half.as_mut() else { return Ok(false) };
        // The turn before may have left this to a leader that came too late to do it.
        half.release()?;
        half.arm()
    }

    /// Leaves word for the driver that there is something to do, and wakes it.
    pub(crate) fn wake_driver(&self) {
        // Release: pairs with the swap in `register_driver`; what is to be done was done before. A store would do; loom
        // takes one for lost that follows another's swap.
        self.driver_notified.swap(true, Ordering::AcqRel);
        self.ledger.driver().wake();
    }

    /// Leaves what was just pushed for the driver to publish, with what others push until it gets there.
    pub(crate) fn leave_unpublished(&self) {
        // AcqRel: pairs with the driver's swap. Who finds it set has pushed before that, and the driver publishes after.
        if !self.unpublished.swap(true, Ordering::AcqRel) {
            self.wake_driver();
        }
    }

    /// Whether something waits for the driver to publish it.
    pub(crate) fn has_unpublished(&self) -> bool {
        // Relaxed: whoever sets it wakes the driver afterwards, which so sees it.
        self.unpublished.load(Ordering::Relaxed)
    }

    /// The driver is about to publish: whoever pushes from here on wakes it again.
    pub(crate) fn take_unpublished(&self) {
        self.unpublished.swap(false, Ordering::AcqRel);
    }

    /// Whether there is word for the driver, or credit to give back. Looks only.
    pub(crate) fn has_notification(&self) -> bool {
        self.driver_notified.load(Ordering::Acquire) || self.ledger.is_due()
    }

    /// Looks at the half, once whoever is at it is done. `None` if the connection has ended.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&H) -> T) -> Option<T> {
        self.lock().half.as_ref().map(look)
    }

    /// Waits until whoever is at it is done.
    pub(crate) fn wait(&self) {
        drop(self.lock());
    }

    /// From here on there is only what is there now, for whoever visits or leads.
    pub(crate) fn stop(&self) -> Result<(), H::Error> {
        self.lock().half.as_mut().map_or(Ok(()), Half::stop)
    }

    /// Takes the half out: the connection has ended.
    pub(crate) fn take(&self) -> Option<H> {
        self.lock().half.take()
    }

    /// Waits for who is at it. The longest step is a leader's polling.
    fn lock(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
