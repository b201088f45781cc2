//! Draining of the receiving half by a task that waits for a frame. A caller, or the reader of a stream, *leads* for the length of one
//! poll. [`reception`](crate::link::reception) says how it leaves the half.

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

/// The maximum number of frames, and of pumps in between, in one step of a leader, so that the step is bounded.
pub(crate) const LEAD_FRAMES: usize = 64;

/// Operations on the receiving half, for the features of a connection.
pub(crate) trait Leads: Host {
    /// Leads for the answer to `id`, unless another task does, and sends the request meanwhile. The waker is in the table already, or the
    /// caller checks the table once more (C2).
    fn lead_for_answer(
        &self,
        id: CallId,
        alone: bool,
        send: Option<impl FnOnce()>,
        drained: &mut Drained,
    ) {
        // An error ends the connection, and thereby the call.
        if let Err(error) = self.lead(Wanted::Call(id), alone, send, drained) {
            self.fail(&error);
        }
    }

    /// Leads for a frame of the stream `id`, unless another task does. `polling` is the busy-poll that the last call has interrupted.
    fn lead_for_stream(&self, id: u64, polling: &mut Option<Poll>, waker: &Waker) {
        let mut drained = Drained { polling: polling.take(), ..Drained::default() };
        if let Err(error) = self.lead(Wanted::Stream(id), true, None::<fn()>, &mut drained) {
            self.fail(&error);
        }
        *polling = self.interrupted(&mut drained, waker);
    }

    /// Takes the busy-poll that a leader interrupted to let other tasks run, and has the leader woken after them. The leader has left the
    /// half as C1 requires, so it may never come back.
    fn interrupted(&self, drained: &mut Drained, waker: &Waker) -> Option<Poll> {
        let polling = drained.polling.take()?;
        fairness::wake_after_others(waker);
        Some(polling)
    }

    /// Leads for `wanted`. A caller that is not the only one waiting takes the frames that are there, and leaves polling to the driver: it
    /// would poll for one answer, and block its thread for the tasks that wait for the others.
    ///
    /// A caller that is alone, with a peer that last ran on our CPU, sends its request while it leads: the peer may answer before we run
    /// again, and need not notify us. A peer on another CPU does not have to wait until we lead.
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
        // If this call does not get to poll, the poll is not resumed: another task leads, and wakes us.
        let interrupted = drained.polling.take();
        let outcome = self.link().receiving.lead(leader, |receiving| {
            let mut progress = LeadProgress { interrupted, ..LeadProgress::default() };
            if let Some(send) = send.take() {
                receiving.disarm();
                send();
            }
            let done = self.lead_on(receiving, wanted, alone, &mut progress, drained);
            if progress.looked_for_room {
                // From now on another task has to be told of room (O5).
                progress.over |= self.pump();
            }
            over = progress.over;
            done.map(|()| progress.found)
        });
        if let Some(send) = send {
            send(); // Another task leads.
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
            // Another task has work now, or we have: polling on would delay it.
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
                    // Announced while there is time: when the answer arrives, we are armed for the record behind it already.
                    receiving.inbound.receiver.expect();
                } else {
                    // The next frame is hardly the last: the peer need not notify us while we poll.
                    receiving.disarm();
                }
            }
            let polled = poll.run(CALLER_SLICE, || self.link().has_come(&mut receiving.inbound))?;
            // After the poll and not before: meanwhile another task may have come to wait for room.
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

    /// Takes frames while that delays no other task. Returns whether another caller was woken.
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
            // A part of a long message takes long to copy: stop if another task could go on.
            let long = matches!(incoming, Incoming::Part);
            match self.take(receiving, incoming, wanted, drained)? {
                Handled::Wanted => {
                    progress.found = true;
                    if alone && matches!(wanted, Wanted::Call(_)) {
                        break; // Anything else that arrives wakes the driver.
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

    /// Handles one frame. The room of a part of a message is released at once if the peer may be polling for it. A peer on our CPU cannot
    /// be polling, and is better woken once for all of it.
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

/// The state of a leader's step.
#[derive(Debug, Default)]
pub(crate) struct LeadProgress {
    /// Frames that were taken, and pumps for other tasks.
    steps: usize,
    /// The wanted frame has arrived.
    found: bool,
    /// The step stopped because it had taken long enough, not because there were no more frames.
    over: bool,
    /// The leader polled for room, so the peer may not have been asked to notify us of room.
    looked_for_room: bool,
    /// The busy-poll that was interrupted, to be resumed.
    interrupted: Option<Poll>,
}
