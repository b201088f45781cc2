//! The receiving half: who drains it, who polls it, and how it is left.
//!
//! A caller *leads* for the length of one poll; the driver takes turns. [`reception`](crate::reception) says how both leave.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use super::handling::{Handled, Mine};
use super::{Connection, Receiving, lock};
use crate::error::Error;
use crate::inbound::Inbound;
use crate::pending::{Answer, CallId};
use crate::reception::{Half, Visit};

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

impl Half for Receiving {
    type Error = Error;

    fn arm(&mut self) -> Result<bool, Error> {
        Ok(self.inbound.receiver.arm()?)
    }

    fn disarm(&mut self) {
        self.inbound.receiver.disarm();
    }

    fn release(&mut self) -> Result<(), Error> {
        Ok(self.inbound.receiver.release()?)
    }
}

impl Connection {
    /// Makes `waker` the driver's, and returns whether there is work already.
    pub(crate) fn register_driver(&self, waker: &Waker) -> Result<bool, Error> {
        self.receiving.register_driver(waker)
    }

    /// Looks for the answer to `id`, leading the receiving for the length of this step if nobody else does.
    pub(crate) fn poll_answer(&self, id: CallId, waker: &Waker) -> Option<Result<Answer, Error>> {
        if let Some(outcome) = lock(&self.pending).poll(id, waker) {
            return Some(outcome);
        }
        // The waker is registered (C2); if somebody else leads, that wakes us.
        match self.receiving.lead(|receiving| self.lead(receiving, Mine::Call(id)))? {
            Ok(answer) => answer.flatten().map(Ok),
            Err(error) => {
                self.fail(&error);
                lock(&self.pending).poll(id, waker)
            }
        }
    }

    /// Takes in what has come, for whoever waits for a stream of the peer's, if nobody else does.
    pub(crate) fn lead_for_stream(&self, id: u64) {
        let led = self.receiving.lead(|receiving| self.lead(receiving, Mine::Stream(id)));
        if let Some(Err(error)) = led {
            self.fail(&error);
        }
    }

    /// Drains, and polls a while for `wanted`. Returns something if that came, and the answer if it is one.
    fn lead(
        &self,
        receiving: &mut Receiving,
        wanted: Mine,
    ) -> Result<Option<Option<Answer>>, Error> {
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
                        self.take_in(job)?;
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
        Ok(answer)
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
            let visit = self.receiving.visit(|receiving| {
                receiving.disarm();
                let incoming = receiving.inbound.next()?;
                incoming.map(|incoming| self.handle(incoming, Mine::Nothing)).transpose()
            })?;
            turn = match visit {
                Visit::Done(Some(handled)) => {
                    if let Handled::Serve(job) = handled {
                        unpublished |= self.serve(job);
                    }
                    continue;
                }
                Visit::Done(None) | Visit::Ended => Turn::Empty,
                Visit::Led => Turn::Led,
            };
            break;
        }
        self.receiving.visit(Half::release)?;
        if unpublished {
            self.with_outbound(|outbound| outbound.publish().map(|()| false));
        }
        Ok(turn)
    }

    /// How long the driver should poll before it sleeps.
    pub(crate) fn poll_budget(&self) -> Duration {
        let visit = self.receiving.visit(|receiving| {
            let worth = receiving.inbound.receiver.worth_polling();
            Ok(receiving.driver.budget(worth))
        });
        if let Ok(Visit::Done(budget)) = visit { budget } else { Duration::ZERO }
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
        let visit = self.receiving.visit(|receiving| {
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
        })?;
        Ok(if let Visit::Done(polled) = visit { polled } else { Polled::GaveUp })
    }

    /// The peer's process is gone: takes what it still said, waiting for a leader to be done with its step.
    pub(crate) fn last_words(self: &Arc<Self>) -> Result<(), Error> {
        loop {
            match self.turn(LEAD_FRAMES)? {
                Turn::Empty => return Ok(()),
                Turn::More => {}
                Turn::Led => drop(self.receiving.lock()),
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
