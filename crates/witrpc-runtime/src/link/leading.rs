//! Leading: a task that waits for a frame drains the receiving half itself. A caller, or the reader of a stream, *leads* for the
//! length of one poll. C1 of [`reception`](crate::link::reception) says in which state it must leave the half.

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
    /// Leads for the answer to `id`, unless another task does. Calls `send`, which sends the request, in any case. The caller's waker
    /// is in the table already, or the caller checks the table once more (C2).
    fn lead_for_answer(
        &self,
        id: CallId,
        leader: Leader,
        send: Option<impl FnOnce()>,
        drained: &mut Drained,
    ) {
        // An error ends the connection, and thereby the call.
        if let Err(error) = self.lead(Wanted::Call(id), leader, send, drained) {
            self.fail(&error);
        }
    }

    /// Leads for a frame of the stream `id`, unless another task does. `polling` is the busy-poll that the last call interrupted, and
    /// becomes the one that this call interrupts.
    fn lead_for_stream(&self, id: u64, polling: &mut Option<Poll>, waker: &Waker) {
        let mut drained = Drained { polling: polling.take(), ..Drained::default() };
        if let Err(error) =
            self.lead(Wanted::Stream(id), Leader::MayPoll, None::<fn()>, &mut drained)
        {
            self.fail(&error);
        }
        *polling = self.interrupted(&mut drained, waker);
    }

    /// Takes the busy-poll that a leader interrupted to let other tasks run, and has the leader woken after them. The leader has left
    /// the half as C1 requires, so nothing is lost if it is never polled again.
    fn interrupted(&self, drained: &mut Drained, waker: &Waker) -> Option<Poll> {
        let polling = drained.polling.take()?;
        fairness::wake_after_others(waker);
        Some(polling)
    }

    /// Leads for `wanted`. The leader is [`IfReady`](Leader::IfReady) if other calls are in flight or expected. Then the caller only takes
    /// the frames that are there, and leaves polling to the driver: polling for its own answer would block the thread on which the tasks
    /// that wait for other answers may run.
    ///
    /// If the caller [may poll](Leader::MayPoll) and the peer last ran on our CPU, `send` is called while it leads, with the half disarmed: the peer may
    /// answer before we run again, and then need not notify us. Otherwise `send` is called first, so that a peer on another CPU gets
    /// the request sooner.
    fn lead(
        &self,
        wanted: Wanted,
        leader: Leader,
        mut send: Option<impl FnOnce()>,
        drained: &mut Drained,
    ) -> Result<(), Error> {
        let alone = leader != Leader::IfReady;
        if !(leader == Leader::MayPoll && self.link().peer_is_on_our_cpu()) {
            if let Some(send) = send.take() {
                send();
            }
        }
        let mut over = false;
        // If another task leads, this busy-poll is dropped: that task wakes us.
        let interrupted = drained.polling.take();
        let outcome = self.link().receiving.lead(leader, |receiving| {
            let mut progress = LeadProgress { interrupted, ..LeadProgress::default() };
            if let Some(send) = send.take() {
                receiving.disarm();
                send();
            }
            let done = self.lead_on(receiving, wanted, alone, &mut progress, drained);
            if progress.looked_for_room {
                // We stop polling for room. This pump asks the peer to notify us if there still is none (O5).
                progress.over |= self.pump();
            }
            over = progress.over;
            done.map(|()| progress.found)
        });
        if let Some(send) = send {
            send(); // We did not lead, so it was not called yet.
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
            // Stop if this task or another one has work now, which further polling would delay.
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
                    // We have time now, before the answer arrives. Once it has, the half is armed for the record behind it already.
                    receiving.inbound.receiver.expect();
                } else {
                    // More than one frame is expected: the peer need not notify us while we poll.
                    receiving.disarm();
                }
            }
            let link = self.link();
            let polled = poll.run(CALLER_SLICE, || link.has_come(&mut receiving.inbound))?;
            // Checked after the poll, because another task may have begun to wait for room meanwhile.
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
            // Copying a part of a long message takes long: stop after it if another task could run.
            let long = matches!(incoming, Incoming::Part);
            match self.take(receiving, incoming, wanted, drained)? {
                Handled::Wanted => {
                    progress.found = true;
                    if alone && matches!(wanted, Wanted::Call(_)) {
                        break; // The driver is woken for any frame that arrives later (C1).
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

    /// Handles one frame. If it is a part of a long message, its room is released at once if the peer may be polling for room. A peer
    /// on our CPU cannot be polling while we run. It is woken once, when the room of all parts is released.
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
    /// The number of frames taken, plus the number of pumps.
    steps: usize,
    /// The wanted frame has arrived.
    found: bool,
    /// The step ended to let other tasks run. More frames may be there.
    over: bool,
    /// The leader polled for room. So the sender may be disarmed, and must pump once more before it ends (O5).
    looked_for_room: bool,
    /// The busy-poll that was interrupted, to be resumed.
    interrupted: Option<Poll>,
}
