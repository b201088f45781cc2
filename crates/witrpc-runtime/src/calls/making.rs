//! Making a call: its slot, its request, and its answer.

use std::task::Waker;

use tokio::sync::OwnedSemaphorePermit;
use witrpc_core::session::outbound::{Outgoing, TooManyStreams, Withdrawn};
use witrpc_core::session::pending::{Answer, CallId, Completed};
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::wire::frame::Kind;
use witrpc_core::wire::status::Status;
use witrpc_core::{CloseReason, Error, fail_point};

use crate::calls::host::CallHost;
use crate::link::host::{Drained, Handled, Wanted};
use crate::link::leading::Leads;
use crate::link::poller::Poll;
use crate::link::sending::Sends;
use crate::locks;
use crate::streams::producer::start_streams;
use crate::streams::writing::{WritesStreams, room};

/// With this many calls in flight, more are likely to begin at once.
const MANY_IN_FLIGHT: usize = 8;

/// Operations on calls that this side makes.
pub(crate) trait MakesCalls: CallHost {
    /// Takes a slot for a call, sends its request, and looks for the answer. If it has arrived, puts it into `found`; else `waker` is
    /// woken later. Takes the content, unless the call has to wait for its turn.
    fn begin_call(
        &self,
        content: &mut Content,
        route: (u16, u16),
        deadline: u64,
        turn: Option<Permits>,
        waker: &Waker,
        found: &mut Option<Answer>,
    ) -> Result<CallId, BeginError> {
        // Made with no lock held (L2).
        let mut clone = self.calls().is_crowded().then(|| waker.clone());
        let mut pending = self.calls().pending.lock();
        if turn.is_none() && pending.is_open() && !pending.take_permit() {
            return Err(BeginError::NotYet);
        }
        let alone = pending.in_flight() == 0 && !self.calls().another_yielded(waker);
        // A peer on our CPU that is notified of the first request would run before the tasks that are about to send more.
        let among_many = pending.in_flight() >= MANY_IN_FLIGHT && self.link().peer_is_on_our_cpu();
        let is_left = !alone && clone.is_some();
        let mut none = None;
        let inserted = pending.insert(route, if alone { &mut none } else { &mut clone });
        drop(pending);
        drop(clone); // If it is not in the table.
        self.calls().note_crowded(!alone);
        let id = inserted.map_err(BeginError::Closed)?;
        let permit = turn.and_then(|Permits { call, bytes }| {
            call.forget();
            bytes
        });
        fail_point::at("call.begun");
        let fields = (route.0, route.1, deadline);
        let mut drained = Drained::default();
        if content.has_streams() {
            self.send_streaming(id, std::mem::take(content), fields, permit)?;
            self.lead_for_answer(id, alone, None::<fn()>, &mut drained);
        } else {
            let send = || {
                self.with_outbound(|outbound| {
                    if outbound.push_through(Kind::Request, id.0, content, fields)? {
                        if among_many {
                            self.link().receiving.leave_unpublished();
                        } else {
                            outbound.publish()?;
                        }
                        buffers::give(std::mem::take(content).into_buffer());
                        return Ok(false);
                    }
                    let content = std::mem::take(content);
                    outbound.push(Outgoing::new(
                        Kind::Request,
                        id.0,
                        content,
                        fields,
                        permit.map(room),
                    ))?;
                    let pumped =
                        if alone { outbound.pump_at_length() } else { outbound.pump(true) };
                    self.after_pump(pumped)
                });
            };
            self.lead_for_answer(id, alone, Some(send), &mut drained);
        }
        // The busy-poll starts anew at the next call: it is longer by one slice.
        self.interrupted(&mut drained, waker);
        *found = drained.answer;
        if !is_left && found.is_none() {
            // The waker is not in the table: another task may have stored the answer (C2).
            let (outcome, _) = self.calls().look(id, waker, Some(waker.clone()));
            *found = outcome.transpose().map_err(BeginError::Failed)?;
        }
        Ok(id)
    }

    /// Looks for the answer to `id`, and leads for the length of this step unless another task does. `polling` is the busy-poll that the
    /// last call has interrupted.
    fn poll_answer(
        &self,
        id: CallId,
        polling: &mut Option<Poll>,
        waker: &Waker,
    ) -> Option<Result<Answer, Error>> {
        let (outcome, alone) = self.calls().look(id, waker, None);
        if outcome.is_some() {
            return outcome;
        }
        let mut drained = Drained { polling: polling.take(), ..Drained::default() };
        self.lead_for_answer(id, alone, None::<fn()>, &mut drained);
        *polling = self.interrupted(&mut drained, waker);
        drained.answer.map(Ok)
    }

    /// Sends a request that has streams, and starts them.
    fn send_streaming(
        &self,
        id: CallId,
        mut content: Content,
        fields: (u16, u16, u64),
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(), BeginError> {
        let mut opened = Ok(Vec::new());
        self.with_outbound(|outbound| {
            opened = self.announce_streams(outbound, &mut content);
            if opened.is_ok() {
                outbound.push(Outgoing::new(
                    Kind::Request,
                    id.0,
                    content,
                    fields,
                    permit.map(room),
                ))?;
            }
            let pumped = outbound.pump(true);
            self.after_pump(pumped)
        });
        match opened {
            Ok(opened) => {
                start_streams(self, opened, false);
                Ok(())
            }
            Err(TooManyStreams) => {
                let mut pending = self.calls().pending.lock();
                let left = pending.abandon(id, true);
                self.calls().return_permit(pending);
                locks::dispose(left);
                Err(BeginError::TooManyStreams)
            }
        }
    }

    /// Sends a ping whose pong completes the returned call.
    fn begin_ping(&self, waker: &Waker) -> Result<CallId, Error> {
        let mut clone = Some(waker.clone());
        let id = self.calls().pending.lock().insert_ping(&mut clone);
        let id = id.map_err(|reason| Error::Closed { reason, maybe_executed: false })?;
        self.send(|outbound| {
            outbound.push_control(Kind::Ping, id.0);
            Ok(())
        });
        Ok(id)
    }

    /// The caller of `id` is gone: withdraws its request, or cancels it at the peer.
    fn abandon(&self, id: CallId) {
        let (mut unsent, mut streams) = (false, 0..0);
        self.send(|outbound| {
            let withdrawn;
            (withdrawn, streams) = outbound.withdraw_request(id)?;
            match withdrawn {
                Withdrawn::Unsent => unsent = true,
                Withdrawn::Partly => {}
                Withdrawn::Sent => outbound.push_control(Kind::Cancel, id.0),
            }
            Ok(())
        });
        self.withdraw_streams(streams);
        let mut pending = self.calls().pending.lock();
        let left = pending.abandon(id, unsent);
        if unsent {
            self.calls().return_permit(pending);
        } else {
            drop(pending);
        }
        locks::dispose(left);
    }

    /// The caller of a ping is gone.
    fn abandon_ping(&self, id: CallId) {
        let left = self.calls().pending.lock().abandon(id, false);
        locks::dispose(left);
    }

    /// Handles a response of the peer.
    fn handle_response(
        &self,
        id: u64,
        answer: Answer,
        wanted: Wanted,
        drained: &mut Drained,
    ) -> Result<Handled, Error> {
        self.complete(CallId(id), answer, wanted, true, drained)
    }

    /// Handles the answer to a ping.
    fn handle_pong(
        &self,
        id: u64,
        wanted: Wanted,
        drained: &mut Drained,
    ) -> Result<Handled, Error> {
        self.check_ping_has_left(id)?;
        self.complete(CallId(id), Answer::empty(Status::Ok), wanted, false, drained)
    }

    /// Checks that a call was sent before the peer answered it. Otherwise a peer that reads nothing could complete one call after the
    /// other, whose requests would stay in our queue. [wire.response.status]
    fn check_has_left(&self, id: u64) -> Result<(), Error> {
        let is_queued = self.link().ledger.unsent_requests() > 0
            && self
                .link()
                .sending
                .outbound
                .lock()
                .as_ref()
                .is_some_and(|outbound| outbound.has_request(id));
        if is_queued { Err(not_sent()) } else { Ok(()) }
    }

    fn check_ping_has_left(&self, id: u64) -> Result<(), Error> {
        let is_queued = self
            .link()
            .sending
            .outbound
            .lock()
            .as_ref()
            .is_some_and(|outbound| outbound.has_ping(id));
        if is_queued { Err(not_sent()) } else { Ok(()) }
    }

    /// Delivers an answer: to a call, which returns its permit, or to a ping, which has none.
    fn complete(
        &self,
        id: CallId,
        answer: Answer,
        wanted: Wanted,
        to_call: bool,
        drained: &mut Drained,
    ) -> Result<Handled, Error> {
        let wanted = if let Wanted::Call(wanted) = wanted { Some(wanted) } else { None };
        let mut pending = self.calls().pending.lock();
        // A pong must not answer a call, whose permit would not be returned; nor a response a ping.
        if pending.is_ping(id) == to_call {
            return Err(not_waiting());
        }
        let completed = pending.complete(id, answer, wanted, &mut drained.answer);
        if to_call && completed.is_ok() {
            self.calls().return_permit(pending);
        } else {
            drop(pending);
        }
        match completed {
            Ok(Completed::Wanted(waker)) => {
                if let Some(waker) = waker {
                    locks::dispose(waker);
                }
                Ok(Handled::Wanted)
            }
            Ok(Completed::Other(waker)) => {
                if let Some(waker) = waker {
                    locks::wake(waker);
                }
                Ok(Handled::Woke)
            }
            Ok(Completed::Nobody(answer)) => {
                locks::dispose(answer);
                Ok(Handled::Nothing)
            }
            Err(_) => Err(not_waiting()),
        }
    }
}

impl<H: CallHost + ?Sized> MakesCalls for H {}

/// A permit for a call in flight, and, for a large message, a permit of the sending queue.
#[derive(Debug)]
pub(crate) struct Permits {
    pub(crate) call: OwnedSemaphorePermit,
    pub(crate) bytes: Option<OwnedSemaphorePermit>,
}

/// Why a call could not begin.
#[derive(Debug)]
pub(crate) enum BeginError {
    /// As many calls are in flight as the peer accepts; the call has to wait for its turn.
    NotYet,
    Closed(CloseReason),
    /// It has failed already.
    Failed(Error),
    /// Its arguments have more streams than may be open.
    TooManyStreams,
}

fn not_waiting() -> Error {
    Error::Protocol("an answer to a call that is not waiting for one".to_owned())
}

fn not_sent() -> Error {
    Error::Protocol("an answer to a call that has not been sent".to_owned())
}
