//! The lock of the receiving half of a connection, and the rule of how it is left. The half is drained by a caller that *leads* for the
//! length of one poll, or by the driver, which alone sleeps.
//!
//! It is generic over the half, so that loom can check every interleaving (`reception/loom.rs`).
//!
//! # Invariants
//!
//! - **C1** A task that unlocks the half has left it armed and empty, or has woken the driver, or has found the driver awake. The driver
//!   waits for the lock and arms the half once more before it sleeps. So the next frame always wakes a task. The lock also protects
//!   whether the driver is awake: the driver sets that in each of its steps, and clears it in the step that arms for its sleep.

#[cfg(all(loom, test))]
mod loom;

use std::sync::Arc;
use std::task::Waker;

use witrpc_core::session::ledger::Ledger;

use crate::link::sync::{AtomicBool, Mutex, MutexGuard, Ordering};
use crate::locks::Rank;

/// What a [`Reception`] needs of a receiving half.
pub(crate) trait Half {
    type Error;

    /// Whether something is there.
    fn is_ready(&mut self) -> Result<bool, Self::Error>;

    /// Whether a leader might poll for something to come.
    fn may_poll(&self) -> bool;

    /// Asks the peer to notify us; `true` if something is there already.
    fn arm(&mut self) -> Result<bool, Self::Error>;

    /// Releases the room of the records that were taken.
    fn release(&mut self) -> Result<(), Self::Error>;

    /// Ignores everything that the peer publishes from now on.
    fn stop(&mut self) -> Result<(), Self::Error>;
}

/// A receiving half with its lock, and the means to wake the driver.
#[derive(Debug)]
pub(crate) struct Reception<H> {
    state: Mutex<State<H>>,
    /// The driver has been notified since it last registered its waker.
    driver_notified: AtomicBool,
    /// A caller has pushed a frame that the driver is to publish.
    unpublished: AtomicBool,
    /// Has the driver's waker.
    ledger: Arc<Ledger>,
    /// The driver does not wait for a leader before sleeping: the mistake that the model must find.
    #[cfg(all(loom, test))]
    skips_lock: bool,
}

/// What the lock protects.
#[derive(Debug)]
pub(crate) struct State<H> {
    /// `None` once the connection has ended.
    half: Option<H>,
    /// The driver has made a step since it last armed for its sleep, so it makes another one before it sleeps.
    driver_is_awake: bool,
}

/// What a leader does if no frame is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    /// It runs its step, which may poll.
    MayPoll,
    /// It runs its step if the half [may be polled](Half::may_poll). Otherwise as [`IfReady`](Self::IfReady).
    IfWorth,
    /// It leaves the half at once. That satisfies C1: nothing has changed since another task left it.
    IfReady,
}

/// The result of a driver's step.
#[derive(Debug)]
pub(crate) enum Visit<T> {
    Done(T),
    /// A caller leads. It wakes the driver, or leaves nothing to do (C1).
    CallerLeads,
    /// The connection has ended.
    Ended,
}

impl<H: Half> Reception<H> {
    pub(crate) fn new(half: H, ledger: Arc<Ledger>) -> Self {
        Self {
            state: Mutex::new(Rank::Receiving, State { half: Some(half), driver_is_awake: false }),
            driver_notified: AtomicBool::new(false),
            unpublished: AtomicBool::new(false),
            ledger,
            #[cfg(all(loom, test))]
            skips_lock: false,
        }
    }

    /// Leads for the length of this step. `None` if another task holds the half, the connection has ended, or nothing is there and the
    /// leader leaves then.
    pub(crate) fn lead<T>(
        &self,
        leader: Leader,
        step: impl FnOnce(&mut H) -> Result<T, H::Error>,
    ) -> Option<Result<T, H::Error>> {
        let mut guard = self.state.try_lock()?;
        let State { half, driver_is_awake } = &mut *guard;
        let half = half.as_mut()?;
        let waits = match leader {
            Leader::MayPoll => true,
            Leader::IfWorth => half.may_poll(),
            Leader::IfReady => false,
        };
        if !waits {
            match half.is_ready() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        Some(step(half).and_then(|found| self.leave(half, *driver_is_awake).map(|()| found)))
    }

    /// Leaves the half as C1 requires.
    fn leave(&self, half: &mut H, driver_is_awake: bool) -> Result<(), H::Error> {
        // The driver may have left records that are consumed and not released yet.
        half.release()?;
        if !driver_is_awake && half.arm()? {
            self.wake_driver();
        }
        Ok(())
    }

    /// Runs a step of the driver, which makes another one before it sleeps and so may leave the half in any state.
    pub(crate) fn visit<T>(
        &self,
        step: impl FnOnce(&mut H) -> Result<T, H::Error>,
    ) -> Result<Visit<T>, H::Error> {
        let Some(mut state) = self.state.try_lock() else { return Ok(Visit::CallerLeads) };
        state.driver_is_awake = true;
        match state.half.as_mut() {
            Some(half) => step(half).map(Visit::Done),
            None => Ok(Visit::Ended),
        }
    }

    /// Whether a frame is there; `false` if another task holds the half. Changes nothing.
    pub(crate) fn has_unread(&self) -> bool {
        let Some(mut state) = self.state.try_lock() else { return false };
        // An error is reported by the task that reads the frame.
        state.half.as_mut().is_some_and(|half| half.is_ready().unwrap_or(false))
    }

    /// Wakes the driver if it sleeps and `reason` holds.
    pub(crate) fn wake_driver_if(&self, reason: impl FnOnce(&mut H) -> bool) {
        // Relaxed: it orders no other data. The task that set it has woken the driver.
        if self.driver_notified.load(Ordering::Relaxed) {
            return;
        }
        // The task that holds the half will do the same.
        let Some(mut state) = self.state.try_lock() else { return };
        let wake = !state.driver_is_awake && state.half.as_mut().is_some_and(reason);
        drop(state);
        if wake {
            self.wake_driver();
        }
    }

    /// Registers the driver's waker. Returns whether there is work already: a notification, credit to return, or frames. From here on each
    /// of these wakes the driver.
    pub(crate) fn register_driver(&self, waker: &Waker) -> Result<bool, H::Error> {
        self.ledger.driver().register(waker);
        // Acquire: pairs with the swap in `wake_driver`, so that the work of the notification is visible.
        let driver_notified = self.driver_notified.swap(false, Ordering::AcqRel);
        Ok(self.arm()? || driver_notified || self.ledger.is_due())
    }

    /// Arms the half for the driver's sleep; returns whether there is work after all.
    fn arm(&self) -> Result<bool, H::Error> {
        // Not `try_lock`: a leader that has armed and still holds the lock would let us sleep although the
        // notification was consumed already and its frame is unread. It is done within one bounded step.
        #[cfg(all(loom, test))]
        if self.skips_lock && self.state.try_lock().is_none() {
            return Ok(false);
        }
        let mut state = self.lock();
        state.driver_is_awake = false;
        let Some(half) = state.half.as_mut() else { return Ok(false) };
        // The turn before may have left this to a leader that did not get to it.
        half.release()?;
        half.arm()
    }

    /// Notifies the driver that there is something to do.
    pub(crate) fn wake_driver(&self) {
        // Release: pairs with the swap in `register_driver`; the work was prepared before. A store would do, but loom treats a store
        // that follows another thread's swap as lost.
        self.driver_notified.swap(true, Ordering::AcqRel);
        self.ledger.driver().wake();
    }

    /// Wakes the driver if a frame is there, even if it has only yielded.
    pub(crate) fn hurry_driver(&self) {
        if self.has_unread() {
            self.wake_driver();
        }
    }

    /// Registers the waker of a driver that yields, so that it can be woken before its turn comes.
    pub(crate) fn register_yielding(&self, waker: &Waker) {
        self.ledger.driver().register(waker);
    }

    /// Leaves it to the driver to publish what was just pushed, together with what other tasks push until then.
    pub(crate) fn leave_unpublished(&self) {
        // AcqRel: pairs with the driver's swap. A task that finds it set has pushed before, and the driver publishes afterwards.
        if !self.unpublished.swap(true, Ordering::AcqRel) {
            self.wake_driver();
        }
    }

    /// Whether the driver is to publish something.
    pub(crate) fn has_unpublished(&self) -> bool {
        // Relaxed: the driver is woken after it was set, and so sees it.
        self.unpublished.load(Ordering::Relaxed)
    }

    /// The driver is about to publish: a task that pushes from here on wakes it again.
    pub(crate) fn take_unpublished(&self) {
        self.unpublished.swap(false, Ordering::AcqRel);
    }

    /// Whether the driver was notified, or there is credit to return. Changes nothing.
    pub(crate) fn has_notification(&self) -> bool {
        self.driver_notified.load(Ordering::Acquire) || self.ledger.is_due()
    }

    /// Inspects the half, after waiting for the lock. `None` if the connection has ended.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&H) -> T) -> Option<T> {
        self.lock().half.as_ref().map(look)
    }

    /// Waits until no task holds the half.
    pub(crate) fn wait(&self) {
        drop(self.lock());
    }

    /// Makes all tasks ignore what the peer publishes from now on.
    pub(crate) fn stop(&self) -> Result<(), H::Error> {
        self.lock().half.as_mut().map_or(Ok(()), Half::stop)
    }

    /// Takes the half: the connection has ended.
    pub(crate) fn take(&self) -> Option<H> {
        self.lock().half.take()
    }

    /// Waits for the lock. The longest step under it is a leader's polling.
    fn lock(&self) -> MutexGuard<'_, State<H>> {
        self.state.lock()
    }
}
