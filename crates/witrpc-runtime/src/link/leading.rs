//! The receiving half, drained by somebody who waits for something: a caller, or the reader of a stream, *leads* for the length of one
//! poll. [`reception`](crate::link::reception) says how it leaves.

use std::task::Waker;

use witrpc_core::Error;
use witrpc_core::session::inbound::Incoming;
use witrpc_core::session::pending::CallId;

use crate::link::ending::Ends;
use crate::link::fairness;
use crate::link::halves::Receiving;
use crate::link::host::{Drained, Handled, Host, Wanted};
use crate::link::poller::{CALLER_SLICE, Poll, Polled};
use crate::link::reception::{Half, Leader};
use crate::link::reuse;
use crate::link::sending::Sends;

/// Frames that are taken in one step, so that whoever takes them gets on; and steps of sending in between.
pub(crate) const LEAD_FRAMES: usize = 64;

/// What can be done with the receiving half of a connection, for its parts.
pub(crate) trait Leads: Host {
    /// Leads for the answer to `id`, if nobody else does, and sends its request meanwhile. The waker is in the table, or its
    /// caller looks there once more (C2).
    fn lead_for_answer(
        &self,
        id: CallId,
        alone: bool,
        send: Option<impl FnOnce()>,
        drained: &mut Drained,
    ) {
        // If that ends the connection, so it does the call.
        if let Err(error) = self.lead(Wanted::Call(id), alone, send, drained) {
            self.fail(&error);
        }
    }

    /// Takes in what has come, for whoever waits for a stream of the peer's, if nobody else does. `polling` is what the last look
    /// has left.
    fn lead_for_stream(&self, id: u64, polling: &mut Option<Poll>, waker: &Waker) {
        let mut drained = Drained { polling: polling.take(), ..Drained::default() };
        if let Err(error) = self.lead(Wanted::Stream(id), true, None::<fn()>, &mut drained) {
            self.fail(&error);
        }
        *polling = self.interrupted(&mut drained, waker);
    }

    /// The polling that a leader has interrupted, to let others run: it is woken when they had their turn. It has left the half as
    /// C1 asks, so it may be gone by then.
    fn interrupted(&self, drained: &mut Drained, waker: &Waker) -> Option<Poll> {
        let polling = drained.polling.take()?;
        fairness::wake_after_others(waker);
        Some(polling)
    }

    /// Leads for `wanted`. Who is not alone in waiting takes what is there, and leaves the polling to the driver: it would
    /// poll for one answer, and keep its thread from those who wait for the others.
    ///
    /// Who is alone, with a peer that last ran on our CPU, sends what it waits for while it leads: the peer may answer before
    /// we run again, and need not notify us. A peer on another CPU is not to wait until we lead.
    fn lead(
        &self,
        wanted: Wanted,
        alone: bool,
        mut send: Option<impl FnOnce()>,
        drained: &mut Drained,
    ) -> Result<(), Error> {
        let leader = if alone { Leader::MayPoll } else { Leader::IfReady };
        if !(alone && self.link().peer_is_on_our_cpu()) {
            if let Some(send) = send.take() {
                send();
            }
        }
        let mut over = false;
        // Who does not get to polling now does not go on with it: somebody else is at it, and wakes us.
        let interrupted = drained.polling.take();
        let outcome = self.link().receiving.lead(leader, |receiving| {
            let mut progress = LeadProgress { interrupted, ..LeadProgress::default() };
            if let Some(send) = send.take() {
                receiving.disarm();
                send();
            }
            let done = self.lead_on(receiving, wanted, alone, &mut progress, drained);
            if progress.looked_for_room {
                // From now on somebody else has to hear of room (O5).
                progress.over |= self.pump();
            }
            over = progress.over;
            done.map(|()| progress.found)
        });
        if let Some(send) = send {
            send(); // Somebody else leads.
        }
        if over {
            self.link().receiving.wake_driver_if(|_| true);
        } else if !alone && !matches!(outcome, Some(Ok(true))) {
            self.link().receiving.wake_driver_if(|receiving| receiving.driver_would_poll());
        }
        outcome.map_or(Ok(()), |found| found.map(|_| ()))
    }

    /// Drains, and polls a while if `may_poll`.
    fn lead_on(
        &self,
        receiving: &mut Receiving,
        wanted: Wanted,
        may_poll: bool,
        progress: &mut LeadProgress,
        drained: &mut Drained,
    ) -> Result<(), Error> {
        let mut polling = None;
        loop {
            let woke = self.drain(receiving, wanted, may_poll, progress, drained)?;
            // Others have work now, or we have: polling on would keep them from it.
            if progress.found
                || woke
                || progress.over
                || self.link().closed().is_some()
                || !may_poll
            {
                break;
            }
            let worth = receiving.inbound.receiver.worth_polling();
            self.link().note_peers_cpu(worth);
            let mut poll = progress
                .interrupted
                .take()
                .unwrap_or_else(|| Poll::new(receiving.caller.budget(worth)));
            if poll.has_budget() {
                if polling.is_none() && !receiving.answers_in_parts {
                    // While there is time: the answer then finds us armed for what comes behind it.
                    receiving.inbound.receiver.expect();
                } else {
                    // The next frame is hardly the last: the peer need not notify us while we poll.
                    receiving.disarm();
                }
            }
            let polled = poll.run(CALLER_SLICE, || self.link().has_come(&mut receiving.inbound))?;
            // After, not before: somebody may have come to want room, and to be told of it, meanwhile.
            progress.looked_for_room |= poll.has_budget() && self.link().wants_room();
            match polled {
                Polled::Ready => {}
                Polled::Again => {
                    drained.polling = Some(poll);
                    return Ok(());
                }
                Polled::GaveUp => {
                    receiving.caller.miss();
                    return Ok(());
                }
            }
            if self.link().wants_room() {
                progress.looked_for_room = true;
                progress.steps += 1;
                self.pump_awake(true);
            }
            polling = Some(poll);
        }
        if let Some(poll) = polling {
            if progress.found {
                receiving.caller.hit(poll.spent());
                receiving.answers_in_parts = progress.steps > 1;
            }
        }
        Ok(())
    }

    /// Takes what is there, as long as that keeps nobody waiting; returns whether another was woken.
    fn drain(
        &self,
        receiving: &mut Receiving,
        wanted: Wanted,
        alone: bool,
        progress: &mut LeadProgress,
        drained: &mut Drained,
    ) -> Result<bool, Error> {
        let (mut woke, mut kept_waiting) = (false, false);
        while progress.steps < LEAD_FRAMES && !kept_waiting && self.link().closed().is_none() {
            let Some(incoming) = receiving.inbound.receive()? else { break };
            progress.steps += 1;
            // A part of a long message takes long to copy: not while somebody has what it waits for.
            let long = matches!(incoming, Incoming::Part);
            match self.take(receiving, incoming, wanted, drained)? {
                Handled::Wanted => {
                    progress.found = true;
                    if alone && matches!(wanted, Wanted::Call(_)) {
                        break; // Nothing is on its way but what wakes the driver.
                    }
                }
                Handled::Serve => {
                    drained.request.take().map_or(Ok(()), |request| self.put_aside(request))?;
                    self.link().wake_driver();
                }
                Handled::Woke => woke = true,
                Handled::Nothing => {}
            }
            kept_waiting = long && (woke || progress.found || self.has_woken_caller());
        }
        progress.over = progress.steps >= LEAD_FRAMES || kept_waiting;
        Ok(woke)
    }

    /// One frame. A part of a message gives its room back at once to a sender that may be looking for it; one that shares
    /// our CPU cannot, and is better woken for all of it.
    fn take(
        &self,
        receiving: &mut Receiving,
        incoming: Incoming,
        wanted: Wanted,
        drained: &mut Drained,
    ) -> Result<Handled, Error> {
        if receiving.inbound.long_came() {
            reuse::keep(&self.link().runtime);
        }
        if matches!(incoming, Incoming::Part) && receiving.inbound.receiver.worth_polling() {
            receiving.release()?;
        }
        self.handle(incoming, wanted, drained)
    }
}

impl<H: Host + ?Sized> Leads for H {}

/// How far a leader has got.
#[derive(Debug, Default)]
pub(crate) struct LeadProgress {
    /// Frames it has taken, and times it has sent for others.
    steps: usize,
    /// What it waits for has come.
    found: bool,
    /// It stopped so that its thread gets on, not because nothing more was there.
    over: bool,
    /// The peer may not have been asked to tell of room.
    looked_for_room: bool,
    /// What is left of the polling that was interrupted.
    interrupted: Option<Poll>,
}
