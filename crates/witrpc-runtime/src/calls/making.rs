//! Making a call: its slot, its request, and its answer.

use std::task::Waker;

use witrpc_core::session::outbound::{Outgoing, Room, Withdrawn};
use witrpc_core::session::pending::{Answer, CallId, Completed, Pending, Place};
use witrpc_core::session::places::Ticket;
use witrpc_core::values::buffers;
use witrpc_core::values::content::Content;
use witrpc_core::wire::frame::{Header, Kind, Nesting};
use witrpc_core::wire::status::Status;
use witrpc_core::{CloseReason, Error, fail_point};

use crate::calls::host::CallHost;
use crate::link::host::{Drained, Handled, Wanted};
use crate::link::leading::Leads;
use crate::link::places;
use crate::link::poller::Poll;
use crate::link::reception::Leader;
use crate::link::sending::Sends;
use crate::locks::{self, CountedGuard, with_clone};
use crate::streams::producer::start_streams;
use crate::streams::writing::{Refused, WritesStreams};

/// With this many calls in flight, more are likely to begin at once.
const MANY_IN_FLIGHT: usize = 8;

/// Operations on calls that this side makes.
pub(crate) trait MakesCalls: CallHost {
    /// Takes a slot for a call, sends its request, and looks for the answer. If it has arrived, puts it into `found`; else `waker` is
    /// woken later. Takes the content, unless the call has to wait for its places: then `waker` is woken when it may try again. If the call
    /// `needs` its content to be kept, it is copied where it would be taken.
    fn begin_call(
        &self,
        content: &mut Content,
        route: (u16, u16),
        deadline: u64,
        needs: &mut Needs,
        waker: &Waker,
        found: &mut Option<Answer>,
    ) -> Result<CallId, BeginError> {
        let Slot { id, room, leader, among_many, has_waker } =
            self.take_slot(route, needs, waker)?;
        fail_point::at("call.begun");
        let (fields, keeps) = ((route.0, route.1, deadline), needs.keeps);
        let (mut drained, mut beyond) = (Drained::default(), None);
        if content.has_streams() {
            self.send_streaming(id, needs.nesting, std::mem::take(content), fields, room)?;
            self.lead_for_answer(id, leader, None::<fn()>, &mut drained);
        } else {
            let header = Header { nesting: needs.nesting, ..Header::whole(Kind::Request, id.0, 0) };
            let send = || {
                self.with_outbound(|outbound| {
                    if outbound.push_through(header, content, fields)? {
                        if among_many {
                            self.link().receiving.leave_unpublished();
                        } else {
                            outbound.publish()?;
                        }
                        if !keeps {
                            buffers::give(std::mem::take(content).into_buffer());
                        }
                        return Ok(false);
                    }
                    let content =
                        if keeps { content.copy_to_send() } else { std::mem::take(content) };
                    let request = Outgoing::new(Kind::Request, id.0, content, fields, room);
                    let mut request = request.nested(needs.nesting);
                    if !outbound.may_queue(&mut request) {
                        beyond = Some(request);
                        return Ok(false);
                    }
                    outbound.push(request)?;
                    let pumped = if leader == Leader::IfReady {
                        outbound.pump(true)
                    } else {
                        outbound.pump_at_length()
                    };
                    self.after_pump(pumped)
                });
            };
            self.lead_for_answer(id, leader, Some(send), &mut drained);
            if beyond.take().is_some() {
                return Err(self.beyond_credit(id));
            }
        }
        // The busy-poll starts anew at the next call: it is longer by one slice.
        self.interrupted(&mut drained, waker);
        *found = drained.answer;
        self.calls().note_late(found.is_none());
        if !has_waker && found.is_none() {
            // The waker is not in the table: another task may have stored the answer (C2).
            let (outcome, _) = self.calls().look(id, waker, Some(waker.clone()));
            *found = outcome.transpose().map_err(BeginError::Failed)?;
        }
        Ok(id)
    }

    /// Takes a slot for a call.
    #[inline]
    fn take_slot(
        &self,
        route: (u16, u16),
        needs: &mut Needs,
        waker: &Waker,
    ) -> Result<Slot, BeginError> {
        // Made with no lock held (L2). A caller whose answer comes at once needs none in the table.
        let late = self.calls().is_late();
        let mut clone = (late || self.calls().is_crowded()).then(|| waker.clone());
        let mut pending = self.calls().pending.lock();
        let newcomer = needs.bytes == 0 && needs.place.is_none();
        let free = newcomer.then(|| pending.free_place(needs.nesting, None)).flatten();
        let (place, room) = if let Some(place) = free {
            pending.take_place(place, None);
            (place, None)
        } else {
            drop(pending);
            let taken = self.take_places(needs, waker)?;
            pending = self.calls().pending.lock();
            taken
        };
        let alone = pending.in_flight() == 0 && !self.calls().another_yielded(waker);
        // A peer on our CPU that is notified of the first request would run before the tasks that are about to send more.
        let among_many = pending.in_flight() >= MANY_IN_FLIGHT && self.link().peer_is_on_our_cpu();
        let has_waker = (late || !alone) && clone.is_some();
        let mut none = None;
        let waker_in_table = if has_waker { &mut clone } else { &mut none };
        let inserted = pending.insert(place, route, waker_in_table);
        drop(pending);
        drop(clone); // If it is not in the table.
        self.calls().note_crowded(!alone);
        let id = inserted.map_err(BeginError::Closed)?;
        let leader = match (alone, late) {
            (false, _) => Leader::IfReady,
            // A process may answer while we are about to lead: see `Leads::lead`.
            (true, true) if self.link().peer_is_a_task => Leader::IfWorth,
            (true, _) => Leader::MayPoll,
        };
        Ok(Slot { id, room, leader, among_many, has_waker })
    }

    /// Takes a place among the calls in flight, and room in the sending queue, both or neither. If the call has to wait, `waker` is in
    /// the line for what it lacks.
    fn take_places(
        &self,
        needs: &mut Needs,
        waker: &Waker,
    ) -> Result<(Place, Option<Room>), BeginError> {
        let queue = &self.link().sending.queue;
        let line = queue.of_calls(needs.nesting);
        let (bytes, nesting) = (line.room_for(needs.bytes), needs.nesting);
        with_clone(waker, |clone| {
            let mut room = (bytes > 0).then(|| line.lock());
            // Its line is closed first: whoever joined it now would not be woken.
            if room.as_ref().is_some_and(|room| room.closed) {
                let reason = self.link().closed().cloned().unwrap_or(CloseReason::Local);
                return Some(Err(BeginError::Closed(reason)));
            }
            let mut pending = self.calls().pending.lock();
            if let Some(reason) = pending.closed() {
                return Some(Err(BeginError::Closed(reason.clone())));
            }
            let place = pending.free_place(nesting, needs.place.as_ref());
            let has_room = room.as_ref().is_none_or(|room| match nesting {
                Nesting::Deeper => room.places.has(bytes),
                _ => room.places.may_take(needs.room.as_ref(), bytes),
            });
            let (taken, before) = match place {
                Some(place) if has_room => {
                    let room = room.as_mut();
                    let taken =
                        room.and_then(|room| room.places.take_now(needs.room.take(), bytes));
                    (Ok(place), [pending.take_place(place, needs.place.take()), taken])
                }
                _ if nesting == Nesting::Deeper => {
                    let lacks = if has_room { Lacks::Place } else { Lacks::Room };
                    return Some(Err(BeginError::Limit(lacks)));
                }
                _ if has_room => {
                    let waker = clone.take()?;
                    let left = needs.room.take().zip(room.as_mut());
                    let left = left.and_then(|(ticket, room)| room.places.leave(ticket));
                    let before = pending.wait_for_place(nesting, &mut needs.place, waker);
                    (Err(BeginError::NotYet), [before, left])
                }
                _ => {
                    let (room, waker) = (room.as_mut()?, clone.take()?);
                    let ticket = needs.place.take();
                    let left = ticket.and_then(|ticket| pending.leave_line(nesting, ticket));
                    let before = room.places.wait(&mut needs.room, bytes, waker);
                    (Err(BeginError::NotYet), [before, left])
                }
            };
            let next =
                [pending.next_waiter(), room.as_mut().and_then(|room| room.places.next_waiter())];
            drop(pending);
            drop(room);
            drop(before);
            next.into_iter().for_each(|next| queue.wake(next));
            Some(taken.map(|place| (place, (bytes > 0).then(|| line.taken(bytes)))))
        })
    }

    /// The caller is gone that waits for its places.
    fn leave_lines(&self, needs: &mut Needs) {
        let queue = &self.link().sending.queue;
        if let Some(ticket) = needs.room.take() {
            places::leave(queue.of_calls(needs.nesting), ticket);
        }
        if let Some(ticket) = needs.place.take() {
            let mut pending = self.calls().pending.lock();
            let before = pending.leave_line(needs.nesting, ticket);
            self.wake_next(pending);
            drop(before);
        }
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
        let leader = if alone { Leader::MayPoll } else { Leader::IfReady };
        self.lead_for_answer(id, leader, None::<fn()>, &mut drained);
        *polling = self.interrupted(&mut drained, waker);
        drained.answer.map(Ok)
    }

    /// A request that must not wait has no credit: it was not queued.
    fn beyond_credit(&self, id: CallId) -> BeginError {
        self.give_up(id, true);
        BeginError::Limit(Lacks::Credit)
    }

    /// Sends a request that has streams, and starts them.
    fn send_streaming(
        &self,
        id: CallId,
        nesting: Nesting,
        mut content: Content,
        fields: (u16, u16, u64),
        room: Option<Room>,
    ) -> Result<(), BeginError> {
        let (mut opened, mut beyond) = (Ok(Vec::new()), None);
        self.with_outbound(|outbound| {
            opened = self.announce_streams(outbound, &mut content);
            if opened.is_ok() {
                let request = Outgoing::new(Kind::Request, id.0, content, fields, room);
                let mut request = request.nested(nesting);
                let may_queue = outbound.may_queue(&mut request);
                outbound.push(request)?;
                if !may_queue {
                    // Nothing of it was sent, as nothing was pumped.
                    beyond = Some(outbound.withdraw_request(id)?.1);
                }
            }
            let pumped = outbound.pump(true);
            self.after_pump(pumped)
        });
        if let Some(streams) = beyond {
            self.withdraw_streams(streams);
            return Err(self.beyond_credit(id));
        }
        match opened {
            Ok(opened) => {
                start_streams(self, opened, false);
                Ok(())
            }
            Err(refused) => {
                self.give_up(id, true);
                Err(BeginError::Refused(refused))
            }
        }
    }

    /// Sends a ping whose pong completes the returned call.
    fn begin_ping(&self, waker: &Waker) -> Result<CallId, Error> {
        let mut clone = Some(waker.clone());
        let id = self.calls().pending.lock().insert(Place::Ping, (0, 0), &mut clone);
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
        self.give_up(id, unsent);
    }

    /// The caller of `id` is gone, or has an error. An `unsent` call gives back its place.
    fn give_up(&self, id: CallId, unsent: bool) {
        let mut pending = self.calls().pending.lock();
        let left = pending.abandon(id, unsent);
        self.wake_next(pending);
        locks::dispose(left);
    }

    /// Unlocks the table, after a place may have been given back, and wakes whoever waits for it.
    fn wake_next(&self, mut pending: CountedGuard<'_, Pending>) {
        let next = pending.next_waiter();
        drop(pending);
        self.link().sending.queue.wake(next);
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
        self.check_has_left(id)?;
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

    /// Delivers an answer to a call or to a ping. An answered call gives back its place.
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
        // A pong must not answer a call, nor a response a ping.
        if pending.is_ping(id) == to_call {
            return Err(not_waiting());
        }
        let completed = pending.complete(id, answer, wanted, &mut drained.answer);
        self.wake_next(pending);
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

/// The slot that a call has got.
#[derive(Debug)]
pub(crate) struct Slot {
    id: CallId,
    /// Room in the sending queue.
    room: Option<Room>,
    /// Whether it may wait for its answer at once: if no other call is in flight, nor likely to be.
    leader: Leader,
    /// Many others are.
    among_many: bool,
    /// The caller's waker is in the table.
    has_waker: bool,
}

/// What a call needs before it is sent, and its tickets in the lines for that. It takes everything at once, or nothing.
#[derive(Debug, Default)]
pub(crate) struct Needs {
    pub(crate) nesting: Nesting,
    /// Bytes of the sending queue; 0 for a small message.
    pub(crate) bytes: u64,
    /// Whether its content is needed once more if it fails. Not for one with streams.
    keeps: bool,
    /// For a place among the calls in flight.
    place: Option<Ticket>,
    /// For room in the sending queue.
    room: Option<Ticket>,
}

impl Needs {
    pub(crate) const fn new(nesting: Nesting, bytes: u64, keeps: bool) -> Self {
        Self { nesting, bytes, keeps, place: None, room: None }
    }
}

/// Why a call could not begin.
#[derive(Debug)]
pub(crate) enum BeginError {
    /// The call waits for its places.
    NotYet,
    /// The call must not wait, and there is no place for it, or no room.
    Limit(Lacks),
    Closed(CloseReason),
    /// It has failed already.
    Failed(Error),
    /// Its arguments have streams that cannot be sent.
    Refused(Refused),
}

/// What a call lacks that must not wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lacks {
    Place,
    Room,
    Credit,
}

fn not_waiting() -> Error {
    Error::Protocol("an answer to a call that is not waiting for one".to_owned())
}

fn not_sent() -> Error {
    Error::Protocol("an answer to a call that has not been sent".to_owned())
}
