//! The receiving half: who drains it, who polls it, and how it is left.
//!
//! A caller *leads* for the length of one poll; the driver takes turns. [`reception`](crate::reception) says how both leave.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::handling::{Brought, Handled, Mine};
use super::{Connection, Receiving, lock};
use crate::context::CallContext;
use crate::error::Error;
use crate::inbound::{Inbound, Incoming};
use crate::pending::{Answer, CallId};
use crate::poller::{Poll, Polled};
use crate::reception::{Half, Leader, Visit};

/// Frames that are taken in one step, so that whoever takes them gets on; and steps of sending in between.
const LEAD_FRAMES: usize = 64;

/// How a turn of the driver ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing more is there now.
    Empty,
    /// The same, and polling would keep somebody on this side from the work that came.
    Woke,
    /// There may be more; others had to get their turn.
    More,
    /// The same, and what is there takes long to copy.
    Long,
    /// A caller is leading; it wakes the driver, or leaves everything done (C1).
    Led,
}

impl Receiving {
    fn disarm(&mut self) {
        self.inbound.receiver.disarm();
    }

    /// Whether the driver would poll now.
    fn driver_would_poll(&self) -> bool {
        self.driver.is_willing() && self.inbound.receiver.worth_polling()
    }
}

impl Half for Receiving {
    type Error = Error;

    fn is_ready(&mut self) -> Result<bool, Error> {
        Ok(self.inbound.receiver.is_ready()?)
    }

    fn arm(&mut self) -> Result<bool, Error> {
        Ok(self.inbound.receiver.arm()?)
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
        let mut pending = lock(&self.pending);
        if let Some(outcome) = pending.poll(id, waker) {
            return Some(outcome);
        }
        let alone = pending.len() == 1;
        drop(pending);
        let mut brought = Brought::default();
        self.lead_for_answer(id, alone, None::<fn()>, &mut brought);
        brought.answer.map(Ok)
    }

    /// Leads for the answer to `id`, if nobody else does, and sends its request meanwhile. The waker is in the table, or its
    /// caller looks there once more (C2).
    pub(super) fn lead_for_answer(
        &self,
        id: CallId,
        alone: bool,
        send: Option<impl FnOnce()>,
        brought: &mut Brought,
    ) {
        // If that ends the connection, so it does the call.
        if let Err(error) = self.lead(Mine::Call(id), alone, send, brought) {
            self.fail(&error);
        }
    }

    /// Takes in what has come, for whoever waits for a stream of the peer's, if nobody else does.
    pub(crate) fn lead_for_stream(&self, id: u64) {
        let mut nothing = Brought::default();
        if let Err(error) = self.lead(Mine::Stream(id), true, None::<fn()>, &mut nothing) {
            self.fail(&error);
        }
    }

    /// Leads for `wanted`. Who is not alone in waiting takes what is there, and leaves the polling to the driver: it would
    /// poll for one answer, and keep its thread from those who wait for the others.
    ///
    /// Who is alone, with a peer that last ran on our CPU, sends what it waits for while it leads: the peer may answer before
    /// we run again, and need not ring for that. A peer on another CPU is not to wait until we lead.
    fn lead(
        &self,
        wanted: Mine,
        alone: bool,
        mut send: Option<impl FnOnce()>,
        brought: &mut Brought,
    ) -> Result<(), Error> {
        let leader = if alone { Leader::Patient } else { Leader::Hasty };
        if !(alone && self.peer_is_on_our_cpu())
            && let Some(send) = send.take()
        {
            send();
        }
        let mut over = false;
        let led = self.receiving.lead(leader, |receiving| {
            let mut led = Led::default();
            if let Some(send) = send.take() {
                receiving.disarm();
                send();
            }
            let done = self.lead_on(receiving, wanted, alone, &mut led, brought);
            if led.looked_for_room {
                // From now on somebody else has to hear of room (O5).
                led.over |= self.pump();
            }
            over = led.over;
            done.map(|()| led.found)
        });
        if let Some(send) = send {
            send(); // Somebody else leads.
        }
        if over {
            self.receiving.rouse_driver(|_| true);
        } else if !alone && !matches!(led, Some(Ok(true))) {
            self.receiving.rouse_driver(|receiving| receiving.driver_would_poll());
        }
        led.map_or(Ok(()), |led| led.map(|_| ()))
    }

    /// Whether the peer ran on our CPU when somebody last had to wait for it.
    pub(crate) fn peer_is_on_our_cpu(&self) -> bool {
        // Relaxed: a habit, no more.
        self.peer_on_our_cpu.load(Ordering::Relaxed)
    }

    /// Polling is `worth` it while the peer runs on another CPU.
    fn note_peers_cpu(&self, worth: bool) {
        if worth == self.peer_is_on_our_cpu() {
            self.peer_on_our_cpu.store(!worth, Ordering::Relaxed);
        }
    }

    /// Drains, and polls a while if `may_poll`.
    fn lead_on(
        &self,
        receiving: &mut Receiving,
        wanted: Mine,
        may_poll: bool,
        led: &mut Led,
        brought: &mut Brought,
    ) -> Result<(), Error> {
        let mut polling = None;
        loop {
            let woke = self.drain(receiving, wanted, may_poll, led, brought)?;
            // Others have work now, or we have: polling on would keep them from it.
            if led.found || woke || led.over || self.closed().is_some() || !may_poll {
                break;
            }
            let worth = receiving.inbound.receiver.worth_polling();
            self.note_peers_cpu(worth);
            let mut poll = Poll::new(receiving.caller.budget(worth));
            if poll.has_budget() {
                if polling.is_none() && !receiving.answers_in_parts {
                    // While there is time: the answer then finds us armed for what comes behind it.
                    receiving.inbound.receiver.expect();
                } else {
                    // The next is hardly the last: who sends ahead of us need not ring.
                    receiving.disarm();
                }
            }
            let polled = poll.run(Duration::MAX, || self.has_come(&mut receiving.inbound))?;
            // After, not before: somebody may have come to want room, and to be told of it, meanwhile.
            led.looked_for_room |= poll.has_budget() && self.wants_room();
            if polled != Polled::Ready {
                receiving.caller.miss();
                return Ok(());
            }
            if self.wants_room() {
                led.looked_for_room = true;
                led.steps += 1;
                self.pump_awake(true);
            }
            polling = Some(poll);
        }
        if let Some(poll) = polling
            && led.found
        {
            receiving.caller.hit(poll.spent());
            receiving.answers_in_parts = led.steps > 1;
        }
        Ok(())
    }

    /// Takes what is there, as long as that keeps nobody waiting; returns whether another was woken.
    fn drain(
        &self,
        receiving: &mut Receiving,
        wanted: Mine,
        alone: bool,
        led: &mut Led,
        brought: &mut Brought,
    ) -> Result<bool, Error> {
        let (mut woke, mut kept_waiting) = (false, false);
        while led.steps < LEAD_FRAMES
            && !kept_waiting
            && self.closed().is_none()
            && let Some(incoming) = receiving.inbound.next()?
        {
            led.steps += 1;
            // A part of a long message takes long to copy: not while somebody has what it waits for.
            let long = matches!(incoming, Incoming::Part);
            match self.take(receiving, incoming, wanted, brought)? {
                Handled::Mine => {
                    led.found = true;
                    if alone && matches!(wanted, Mine::Call(_)) {
                        break; // Nothing is on its way but what wakes the driver.
                    }
                }
                Handled::Serve => {
                    brought.job.take().map_or(Ok(()), |job| self.take_in(job))?;
                    self.wake_driver();
                }
                Handled::Woke => woke = true,
                Handled::Nothing => {}
            }
            kept_waiting = long && (woke || led.found || self.has_untaken());
        }
        led.over = led.steps >= LEAD_FRAMES || kept_waiting;
        Ok(woke)
    }

    /// One frame. A part of a message gives its room back at once to a sender that may be looking for it; one that shares
    /// our CPU cannot, and is better woken for all of it.
    fn take(
        &self,
        receiving: &mut Receiving,
        incoming: Incoming,
        wanted: Mine,
        brought: &mut Brought,
    ) -> Result<Handled, Error> {
        if matches!(incoming, Incoming::Part) && receiving.inbound.receiver.worth_polling() {
            receiving.release()?;
        }
        self.handle(incoming, wanted, brought)
    }

    /// One step of the driver: takes and serves what is there. `spare` is a context to be used again.
    pub(crate) fn turn(
        self: &Arc<Self>,
        frames: usize,
        spare: &mut Option<CallContext>,
    ) -> Result<Turn, Error> {
        let mut unpublished = false;
        let mut woke = false;
        let mut turn = Turn::More;
        let mut brought = Brought::default();
        for _ in 0..frames {
            // What comes behind a goodbye is for nobody.
            if self.closed().is_some() {
                turn = Turn::Empty;
                break;
            }
            let visit = self.receiving.visit(|receiving| {
                let Some(incoming) = receiving.inbound.next()? else {
                    // First the answers: their callers wait for them, and for room only who is far ahead.
                    if !unpublished {
                        receiving.release()?;
                    }
                    return Ok(None);
                };
                // Not before: what has come has rung already, and then there is nothing to take back.
                receiving.disarm();
                let long = matches!(incoming, Incoming::Part);
                let handled = self.take(receiving, incoming, Mine::Nothing, &mut brought)?;
                if let Some(job) = &brought.job {
                    self.served.take_place(job.id);
                }
                // Who waits for an answer is not to wait for a chunk of something long.
                let more = receiving.is_ready()? && receiving.inbound.partial_count() == 0;
                Ok(Some((handled, long, more)))
            })?;
            turn = match visit {
                Visit::Done(Some((handled, long, more))) => {
                    woke |= handled == Handled::Woke;
                    // Made visible here unless more answers are to follow at once.
                    if let Some(job) = brought.job.take()
                        && self.serve(job, !more, spare)
                    {
                        unpublished = more;
                    }
                    if unpublished && !more {
                        self.publish();
                        unpublished = false;
                    }
                    if long && (woke || self.has_untaken()) {
                        turn = Turn::Long; // Who was woken goes first.
                        break;
                    }
                    continue;
                }
                Visit::Done(None) => {
                    let would_poll = |receiving: &mut Receiving| Ok(receiving.driver_would_poll());
                    let woke =
                        woke && matches!(self.receiving.visit(would_poll)?, Visit::Done(true));
                    if woke { Turn::Woke } else { Turn::Empty }
                }
                Visit::Ended => Turn::Empty,
                Visit::Led => Turn::Led,
            };
            break;
        }
        if unpublished || matches!(turn, Turn::More | Turn::Long) {
            self.publish();
            self.receiving.visit(Half::release)?;
        }
        Ok(turn)
    }

    /// Whether nothing waits for the driver's thread: no frame, and no caller for its turn.
    pub(crate) fn keeps_nobody_waiting(&self) -> bool {
        !self.receiving.has_unread() && !self.has_untaken()
    }

    /// How long the driver should poll before it sleeps.
    pub(crate) fn driver_poll(&self) -> Result<Poll, Error> {
        if !self.expects_more_than_an_answer() {
            return Ok(Poll::new(Duration::ZERO));
        }
        let visit = self.receiving.visit(|receiving| {
            let worth = receiving.inbound.receiver.worth_polling();
            self.note_peers_cpu(worth);
            Ok(Poll::new(receiving.driver.budget(worth)))
        })?;
        Ok(if let Visit::Done(poll) = visit { poll } else { Poll::new(Duration::ZERO) })
    }

    /// Whether there is more to poll for than the answer to one call, whose caller polls for itself.
    fn expects_more_than_an_answer(&self) -> bool {
        !self.served.is_empty()
            || lock(&self.pending).len() > 1
            || self.wants_room()
            || lock(&self.feeds).len() > 0
            || lock(&self.streams).is_busy()
    }

    /// Polls for frames, and for room, for a slice of the driver's budget.
    pub(crate) fn poll_slice(&self, poll: &mut Poll, slice: Duration) -> Result<Polled, Error> {
        let visit = self.receiving.visit(|receiving| {
            if poll.has_budget() {
                receiving.disarm();
            }
            let polled = poll.run(slice, || self.has_come(&mut receiving.inbound))?;
            match polled {
                Polled::Ready => receiving.driver.hit(poll.spent()),
                Polled::GaveUp => receiving.driver.miss(),
                Polled::Again => {}
            }
            Ok(polled)
        })?;
        Ok(if let Visit::Done(polled) = visit { polled } else { Polled::GaveUp })
    }

    /// Whether a frame is there, or room.
    fn has_come(&self, inbound: &mut Inbound) -> Result<bool, Error> {
        Ok(inbound.receiver.is_ready()? || self.has_room_again()?)
    }

    /// The peer's process is gone: takes what it still said, waiting for a leader to be done with its step.
    pub(crate) fn last_words(
        self: &Arc<Self>,
        spare: &mut Option<CallContext>,
    ) -> Result<(), Error> {
        loop {
            match self.turn(LEAD_FRAMES, spare)? {
                Turn::Empty => return Ok(()),
                Turn::More | Turn::Long | Turn::Woke => {}
                Turn::Led => self.receiving.wait(),
            }
        }
    }
}

/// How far a leader has got.
#[derive(Debug, Default)]
struct Led {
    /// Frames it has taken, and times it has sent for others.
    steps: usize,
    /// What it waits for has come.
    found: bool,
    /// It stopped so that its thread gets on, not because nothing more was there.
    over: bool,
    /// The peer may not have been asked to tell of room.
    looked_for_room: bool,
}
