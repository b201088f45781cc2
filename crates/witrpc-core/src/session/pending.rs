//! The calls of this side that the peer has not answered.
//!
//! Pure: a table of slots, and the places for calls in flight. An id consists of a slot and a generation. A slot is reused only after its
//! answer, or the acknowledgement of its cancel, has arrived. So a late answer never reaches a later call.
//!
//! # Invariants
//!
//! - **P1** A slot is on the free list, or `Waiting`, `Done` or `Abandoned`; only `Waiting` and `Abandoned` may be
//!   answered, and only once.
//! - **P2** A slot's generation grows whenever the slot is freed.
//! - **P3** A call never waits for a place that is held by a call which may wait for it. Outer calls wait for outer calls. Nested
//!   calls have as many places of their own, and wait only for calls that have one of those. Calls that are nested deeper never wait:
//!   they take a place of either kind, or fail. The handler of an outer call waits for nested calls at most, and the handler of a nested
//!   call for calls that wait for nobody. So the calls that are nested deepest always end, then those that they are nested in.

use std::collections::HashSet;
use std::task::Waker;

use crate::error::{CloseReason, Error};
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::Held;
use crate::session::ledger::Charge;
use crate::session::places::{Places, Ticket};
use crate::values::content::Content;
use crate::wire::frame::Nesting;
use crate::wire::status::Status;

/// A call's id on the wire. [wire.call.id]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CallId(pub u64);

impl CallId {
    const fn new(slot: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | slot as u64)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the id")]
    const fn parts(self) -> (u32, u32) {
        (self.0 as u32, (self.0 >> 32) as u32)
    }
}

/// The answer to a call.
#[derive(Debug)]
pub struct Answer {
    pub status: Status,
    pub content: Content,
    /// Charges the bytes to the peer until the caller has taken them.
    pub _charge: Charge,
}

impl Answer {
    /// An answer without content.
    #[inline]
    pub fn empty(status: Status) -> Self {
        Self { status, content: Content::default(), _charge: Charge::none() }
    }
}

#[derive(Debug)]
enum State {
    Free {
        next: Option<u32>,
    },
    Waiting {
        waker: Option<Waker>,
    },
    /// With the number of answers that had arrived then.
    Done(Result<Answer, Error>, u64),
    /// The caller is gone; the peer has been told.
    Abandoned,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    place: Place,
    /// The method; of no meaning for a ping.
    route: (u16, u16),
    state: State,
}

/// What a slot in use holds of the places for calls in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// None: it waits for a pong.
    Ping,
    /// One of those that outer calls wait for.
    Outer,
    /// One of those that nested calls wait for.
    Nested,
}

/// The table.
#[derive(Debug)]
pub struct Pending {
    slots: Vec<Slot>,
    free: Option<u32>,
    used: usize,
    /// For outer calls.
    outer: Places,
    /// For nested calls.
    nested: Places,
    /// The number of `Done` slots: their callers were woken, and have not taken the answers yet.
    woken: usize,
    /// The number of answers that have ever arrived for a caller that was not polled at that moment.
    arrived: u64,
    closed: Option<CloseReason>,
}

/// The peer answered a call that was not waiting for an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Unexpected;

/// The result of [`Pending::poll`].
#[derive(Debug)]
pub enum Looked {
    Found(Result<Answer, Error>),
    /// Nothing yet; its waker is in the table. The one that it has replaced, if any, is in the place of the clone.
    Waits,
    /// Nothing yet, and the waker has to be left in the table: look again with a clone.
    NeedsClone,
}

/// What a caller that has gone leaves, to be dropped.
#[derive(Debug, Default)]
pub struct Left {
    pub answer: Option<Answer>,
    pub waker: Option<Waker>,
}

/// The result of [`Pending::complete`]. The table itself wakes, clones and drops no waker, as its lock is held.
#[derive(Debug)]
pub enum Completed {
    /// It was the wanted answer: it was returned, and its slot is free. Its waker need not be woken.
    Wanted(Option<Waker>),
    /// It was stored, and its caller must be woken.
    Other(Option<Waker>),
    /// Its caller is gone; the slot is free.
    Nobody(Answer),
}

impl Pending {
    /// A table for a peer that accepts this many outer calls at a time, and as many nested ones.
    #[inline]
    pub const fn new(max_in_flight: u64) -> Self {
        Self {
            slots: Vec::new(),
            free: None,
            used: 0,
            outer: Places::new(max_in_flight),
            nested: Places::new(max_in_flight),
            woken: 0,
            arrived: 0,
            closed: None,
        }
    }

    /// The place that a call may take now (P3). `ticket` is its ticket, if it waits in the line.
    #[inline]
    pub fn free_place(&self, nesting: Nesting, ticket: Option<&Ticket>) -> Option<Place> {
        match nesting {
            Nesting::Outer => self.outer.may_take(ticket, 1).then_some(Place::Outer),
            Nesting::Nested => self.nested.may_take(ticket, 1).then_some(Place::Nested),
            Nesting::Deeper if self.nested.has(1) => Some(Place::Nested),
            Nesting::Deeper => self.outer.has(1).then_some(Place::Outer),
        }
    }

    /// Takes a [free place](Self::free_place), and leaves the line. Returns the waker that was in it.
    #[inline]
    pub fn take_place(&mut self, place: Place, ticket: Option<Ticket>) -> Option<Waker> {
        self.places(place)?.take_now(ticket, 1)
    }

    /// Joins the line for a place, or goes back to sleep in it. Returns the waker that was in it before. Not for calls that never wait (P3).
    pub fn wait_for_place(
        &mut self,
        nesting: Nesting,
        ticket: &mut Option<Ticket>,
        waker: Waker,
    ) -> Option<Waker> {
        self.line(nesting).wait(ticket, 1, waker)
    }

    /// Leaves the line for a place. Returns the waker that was in it.
    pub fn leave_line(&mut self, nesting: Nesting, ticket: Ticket) -> Option<Waker> {
        self.line(nesting).leave(ticket)
    }

    /// The next waiter to be woken, after places were taken or given back, or somebody has left a line.
    #[inline]
    pub fn next_waiter(&mut self) -> Option<Waker> {
        if !self.nested.has_sleepers() && !self.outer.has_sleepers() {
            return None;
        }
        self.nested.next_waiter().or_else(|| self.outer.next_waiter())
    }

    /// A turn of the driver is over. Returns the next waiters to be woken.
    pub fn end_turn(&mut self) -> [Option<Waker>; 2] {
        [self.nested.end_turn(), self.outer.end_turn()]
    }

    const fn line(&mut self, nesting: Nesting) -> &mut Places {
        match nesting {
            Nesting::Outer => &mut self.outer,
            Nesting::Nested | Nesting::Deeper => &mut self.nested,
        }
    }

    const fn places(&mut self, place: Place) -> Option<&mut Places> {
        match place {
            Place::Ping => None,
            Place::Outer => Some(&mut self.outer),
            Place::Nested => Some(&mut self.nested),
        }
    }

    /// The call with this slot counts as answered: gives back its place.
    fn give_back(&mut self, place: Place) {
        if let Some(places) = self.places(place) {
            places.give(1);
        }
    }

    /// Takes a slot for a new call of this method that has this place, and its waker out of `waker`; that is `None` if the caller checks for
    /// the answer before it waits. The waker stays with the caller if the connection is closed.
    ///
    /// # Errors
    ///
    /// The reason if the connection is closed.
    pub fn insert(
        &mut self,
        place: Place,
        route: (u16, u16),
        waker: &mut Option<Waker>,
    ) -> Result<CallId, CloseReason> {
        if let Some(reason) = &self.closed {
            return Err(reason.clone());
        }
        let state = State::Waiting { waker: waker.take() };
        self.used += 1;
        if let Some(index) = self.free {
            let slot = &mut self.slots[crate::wire::fields::u32_len(index)];
            let State::Free { next } = slot.state else { unreachable!("P1: on the free list") };
            self.free = next;
            slot.state = state;
            (slot.place, slot.route) = (place, route);
            return Ok(CallId::new(index, slot.generation));
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { generation: 0, place, route, state });
        Ok(CallId::new(index, 0))
    }

    /// The calls that wait for an answer, and their methods.
    pub fn waiting(&self) -> impl Iterator<Item = (CallId, (u16, u16))> {
        self.slots.iter().zip(0..).filter_map(|(slot, index)| {
            let waits = matches!(slot.state, State::Waiting { .. }) && slot.place != Place::Ping;
            waits.then(|| (CallId::new(index, slot.generation), slot.route))
        })
    }

    /// Whether this is a ping.
    #[inline]
    pub fn is_ping(&mut self, id: CallId) -> bool {
        self.get(id).is_some_and(|slot| slot.place == Place::Ping)
    }

    /// Delivers an answer, and gives back the place of its call. `wanted` is the call of the current task: its answer is put into `found`, and nothing is woken.
    pub fn complete(
        &mut self,
        id: CallId,
        answer: Answer,
        wanted: Option<CallId>,
        found: &mut Option<Answer>,
    ) -> Result<Completed, Unexpected> {
        let number = self.arrived + 1;
        let slot = self.get(id).ok_or(Unexpected)?;
        let place = slot.place;
        let completed = match &mut slot.state {
            State::Waiting { waker } if wanted == Some(id) => {
                *found = Some(answer);
                let waker = waker.take();
                self.release(id);
                Completed::Wanted(waker)
            }
            State::Waiting { waker } => {
                let waker = waker.take();
                slot.state = State::Done(Ok(answer), number);
                (self.woken, self.arrived) = (self.woken + 1, number);
                Completed::Other(waker)
            }
            State::Abandoned => {
                self.release(id);
                Completed::Nobody(answer)
            }
            State::Free { .. } | State::Done(..) => return Err(Unexpected),
        };
        self.give_back(place);
        Ok(completed)
    }

    /// Takes the answer if it is there, else stores `clone`, unless a waker is stored that wakes the same task as `waker`.
    pub fn poll(&mut self, id: CallId, waker: &Waker, clone: &mut Option<Waker>) -> Looked {
        let Some(slot) = self.get(id) else { return Looked::Found(Err(Error::Cancelled)) };
        match &mut slot.state {
            State::Waiting { waker: Some(old) } if old.will_wake(waker) => Looked::Waits,
            State::Waiting { .. } if clone.is_none() => Looked::NeedsClone,
            State::Waiting { waker: old } => {
                std::mem::swap(old, clone);
                Looked::Waits
            }
            State::Done(..) => {
                let State::Done(outcome, _) = std::mem::replace(&mut slot.state, State::Abandoned)
                else {
                    unreachable!("matched above")
                };
                self.woken -= 1;
                self.release(id);
                Looked::Found(outcome)
            }
            State::Free { .. } | State::Abandoned => Looked::Found(Err(Error::Cancelled)),
        }
    }

    /// The caller is gone. Returns its waker, and an answer that had arrived already. Without one the slot and its place stay in use until
    /// the peer answers or acknowledges, unless the call was `unsent`.
    #[inline]
    pub fn abandon(&mut self, id: CallId, unsent: bool) -> Left {
        let Some(slot) = self.get(id) else { return Left::default() };
        match std::mem::replace(&mut slot.state, State::Abandoned) {
            State::Done(outcome, _) => {
                self.woken -= 1;
                self.release(id);
                Left { answer: outcome.ok(), waker: None }
            }
            State::Waiting { waker } => {
                if unsent {
                    let place = slot.place;
                    self.release(id);
                    self.give_back(place);
                }
                Left { answer: None, waker }
            }
            _ => Left::default(),
        }
    }

    /// Fails all waiting calls, and all later ones. `unsent` are calls of which nothing was sent. Returns the wakers to wake.
    #[inline]
    pub fn close(&mut self, reason: &CloseReason, unsent: &HashSet<CallId>) -> Vec<Waker> {
        self.closed = Some(reason.clone());
        let mut wakers = self.nested.close();
        wakers.extend(self.outer.close());
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let id = CallId::new(u32::try_from(index).unwrap_or(u32::MAX), slot.generation);
            if let State::Waiting { waker } = &mut slot.state {
                wakers.extend(waker.take());
                let maybe_executed = !unsent.contains(&id);
                let closed = Error::Closed { reason: reason.clone(), maybe_executed };
                slot.state = State::Done(Err(closed), self.arrived);
                self.woken += 1;
            }
        }
        wakers
    }

    /// Why no calls are accepted any more, if none are.
    #[inline]
    pub const fn closed(&self) -> Option<&CloseReason> {
        self.closed.as_ref()
    }

    /// Whether a caller was woken for its answer, and has not run yet.
    #[inline]
    pub const fn has_woken_caller(&self) -> bool {
        self.woken > 0
    }

    /// The number of answers that have ever arrived for a caller that was not polled at that moment.
    #[inline]
    pub const fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Makes way for other answers: of those that were there when `arrived` had arrived, and were not taken since, takes the oldest, until
    /// they hold `enough` bytes. Their calls fail.
    pub fn drop_unread(&mut self, arrived: u64, enough: u64) -> Vec<Answer> {
        let mut unread: Vec<_> = (0..self.slots.len())
            .filter_map(|slot| match &self.slots[slot].state {
                State::Done(Ok(_), number) if *number <= arrived => Some((*number, slot)),
                _ => None,
            })
            .collect();
        unread.sort_unstable();
        let (mut freed, mut dropped) = (0, Vec::new());
        for (number, slot) in unread {
            if freed >= enough {
                break;
            }
            let error = Error::Limit {
                what: "the answer was dropped, as it was not taken and others waited for its room"
                    .to_owned(),
                setting: "with_max_buffered",
                maybe_executed: true,
            };
            let state = &mut self.slots[slot].state;
            if let State::Done(Ok(answer), _) =
                std::mem::replace(state, State::Done(Err(error), number))
            {
                freed += answer._charge.bytes();
                dropped.push(answer);
            }
        }
        dropped
    }

    /// The number of slots in use.
    #[inline]
    pub const fn in_flight(&self) -> usize {
        self.used
    }

    /// The memory of answers that were not taken, and of the table.
    #[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
    pub fn held(&self) -> (Held, Held) {
        let answers = self.slots.iter().filter_map(|slot| match &slot.state {
            State::Done(Ok(answer), _) => Some(answer.content.held()),
            _ => None,
        });
        (answers.sum(), Held::plain::<Slot>(self.slots.len()))
    }

    fn get(&mut self, id: CallId) -> Option<&mut Slot> {
        let (index, generation) = id.parts();
        let slot = self.slots.get_mut(crate::wire::fields::u32_len(index))?;
        (slot.generation == generation).then_some(slot)
    }

    fn release(&mut self, id: CallId) {
        let (index, _) = id.parts();
        let slot = &mut self.slots[crate::wire::fields::u32_len(index)];
        slot.generation = slot.generation.wrapping_add(1);
        slot.state = State::Free { next: self.free };
        self.free = Some(index);
        self.used -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::Answer;
    use super::Completed;
    use super::Looked;
    use super::Unexpected;
    use super::{Pending, Place};
    use crate::error::{CloseReason, Error};
    use crate::limits::{POOLS, Pool};
    use crate::session::ledger::{Charge, Ledger};
    use crate::wire::frame::Nesting;
    use crate::wire::status::Status;

    fn answer() -> Answer {
        Answer::empty(Status::Ok)
    }

    fn take(pending: &mut Pending, id: super::CallId) -> Option<Result<Answer, Error>> {
        let mut clone = Some(Waker::noop().clone());
        match pending.poll(id, Waker::noop(), &mut clone) {
            Looked::Found(outcome) => Some(outcome),
            Looked::Waits | Looked::NeedsClone => None,
        }
    }

    #[test]
    fn a_waker_is_replaced_by_a_clone_that_the_caller_brings_and_drops() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering};
        use std::task::Wake;

        /// Counts how often it is woken.
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let [first, second] = [(); 2].map(|()| Waker::from(Arc::new(Count(AtomicUsize::new(0)))));
        let mut pending = Pending::new(4);
        let id = pending.insert(Place::Outer, (0, 1), &mut Some(first.clone())).unwrap();
        let mut clone = None;
        assert!(matches!(pending.poll(id, &first, &mut clone), Looked::Waits) && clone.is_none());
        assert!(matches!(pending.poll(id, &second, &mut clone), Looked::NeedsClone));
        clone = Some(second.clone());
        assert!(matches!(pending.poll(id, &second, &mut clone), Looked::Waits));
        assert!(clone.is_some_and(|replaced| replaced.will_wake(&first)));
        let left = pending.abandon(id, true);
        assert!(left.waker.is_some_and(|waker| waker.will_wake(&second)));
    }

    /// Takes a place and a slot, as a call that does not wait does.
    fn begin(pending: &mut Pending, nesting: Nesting) -> Option<super::CallId> {
        let place = pending.free_place(nesting, None)?;
        assert!(pending.take_place(place, None).is_none());
        Some(pending.insert(place, (0, 1), &mut None).unwrap())
    }

    #[test]
    fn nested_calls_have_places_of_their_own_and_deeper_ones_take_either() {
        let mut pending = Pending::new(1);
        let outer = begin(&mut pending, Nesting::Outer).unwrap();
        assert!(begin(&mut pending, Nesting::Outer).is_none());
        let nested = begin(&mut pending, Nesting::Nested).unwrap();
        for nesting in [Nesting::Outer, Nesting::Nested, Nesting::Deeper] {
            assert!(begin(&mut pending, nesting).is_none(), "{nesting:?}");
        }
        assert!(pending.complete(outer, answer(), None, &mut None).is_ok());
        assert!(begin(&mut pending, Nesting::Nested).is_none(), "it does not take an outer call's");
        let deeper = begin(&mut pending, Nesting::Deeper).unwrap();
        assert!(begin(&mut pending, Nesting::Outer).is_none());
        for id in [nested, deeper] {
            assert!(pending.abandon(id, true).answer.is_none());
        }
        assert!(begin(&mut pending, Nesting::Outer).is_some());
        assert!(begin(&mut pending, Nesting::Nested).is_some());
    }

    #[test]
    fn a_place_that_comes_back_goes_to_the_longest_waiter() {
        let mut pending = Pending::new(1);
        let first = begin(&mut pending, Nesting::Outer).unwrap();
        let mut ticket = None;
        let waker = Waker::noop().clone();
        assert!(pending.wait_for_place(Nesting::Outer, &mut ticket, waker).is_none());
        assert!(pending.next_waiter().is_none());
        assert!(pending.complete(first, answer(), Some(first), &mut None).is_ok());
        assert!(pending.next_waiter().is_some());
        assert!(pending.free_place(Nesting::Outer, None).is_none(), "a newcomer does not get it");
        assert_eq!(pending.free_place(Nesting::Outer, ticket.as_ref()), Some(Place::Outer));
        assert!(pending.take_place(Place::Outer, ticket).is_none());
    }

    #[test]
    fn a_slot_is_used_again_under_another_id() {
        let mut pending = Pending::new(4);
        let first = pending.insert(Place::Outer, (0, 1), &mut Some(Waker::noop().clone())).unwrap();
        let mut found = None;
        let completed = pending.complete(first, answer(), Some(first), &mut found);
        assert!(matches!(completed, Ok(Completed::Wanted(Some(_)))) && found.is_some());
        let second =
            pending.insert(Place::Outer, (0, 1), &mut Some(Waker::noop().clone())).unwrap();
        assert_ne!(first, second);
        assert_eq!(pending.complete(first, answer(), None, &mut None).err(), Some(Unexpected));
        assert_eq!(pending.in_flight(), 1);
    }

    #[test]
    fn an_abandoned_slot_waits_for_its_acknowledgement() {
        let mut pending = Pending::new(4);
        let id = pending.insert(Place::Outer, (0, 1), &mut Some(Waker::noop().clone())).unwrap();
        assert!(pending.abandon(id, false).answer.is_none());
        assert_eq!(pending.in_flight(), 1);
        assert!(matches!(
            pending.complete(id, answer(), None, &mut None),
            Ok(Completed::Nobody(_))
        ));
        assert_eq!(pending.in_flight(), 0);
        assert_eq!(pending.complete(id, answer(), None, &mut None).err(), Some(Unexpected));
    }

    #[test]
    fn who_was_woken_is_counted_until_it_comes_or_goes() {
        let mut pending = Pending::new(4);
        let ids = [(); 3].map(|()| {
            pending.insert(Place::Outer, (0, 1), &mut Some(Waker::noop().clone())).unwrap()
        });
        let completed = pending.complete(ids[0], answer(), Some(ids[0]), &mut None);
        assert!(matches!(completed, Ok(Completed::Wanted(_))) && !pending.has_woken_caller());
        for id in [ids[1], ids[2]] {
            assert!(pending.complete(id, answer(), None, &mut None).is_ok());
        }
        assert!(take(&mut pending, ids[1]).is_some() && pending.has_woken_caller());
        assert!(pending.abandon(ids[2], false).answer.is_some() && !pending.has_woken_caller());
    }

    #[test]
    fn nothing_is_answered_twice() {
        let mut pending = Pending::new(4);
        let id = pending.insert(Place::Outer, (0, 1), &mut Some(Waker::noop().clone())).unwrap();
        assert!(matches!(
            pending.complete(id, answer(), None, &mut None),
            Ok(Completed::Other(Some(_)))
        ));
        assert_eq!(pending.complete(id, answer(), None, &mut None).err(), Some(Unexpected));
        assert!(take(&mut pending, id).is_some());
        assert_eq!(pending.in_flight(), 0);
    }

    #[test]
    fn the_oldest_answers_that_were_not_taken_make_way() {
        let ledger = Ledger::new([1; POOLS]);
        let sized = |bytes| {
            let mut charge = Charge::new(&ledger, Pool::Answers);
            charge.add(bytes);
            Answer { _charge: charge, ..answer() }
        };
        let mut pending = Pending::new(4);
        let ids = [(); 4].map(|()| pending.insert(Place::Outer, (0, 1), &mut None).unwrap());
        for id in [ids[2], ids[0], ids[1]] {
            assert!(pending.complete(id, sized(10), None, &mut None).is_ok());
        }
        let arrived = pending.arrived();
        assert!(pending.complete(ids[3], sized(10), None, &mut None).is_ok());
        assert!(matches!(take(&mut pending, ids[0]), Some(Ok(_))));
        assert_eq!(pending.drop_unread(arrived, 1).len(), 1);
        let dropped = take(&mut pending, ids[2]);
        assert!(matches!(dropped, Some(Err(Error::Limit { maybe_executed: true, .. }))));
        assert_eq!(pending.drop_unread(arrived, 100).len(), 1, "one came later");
        assert!(matches!(take(&mut pending, ids[1]), Some(Err(Error::Limit { .. }))));
        assert!(matches!(take(&mut pending, ids[3]), Some(Ok(_))));
        assert!(!pending.has_woken_caller() && pending.in_flight() == 0);
        drop(pending);
        assert_eq!(ledger.returnable(Pool::Answers), 40);
    }

    #[test]
    fn calls_that_wait_are_listed_with_their_methods_and_pings_are_not() {
        let mut pending = Pending::new(4);
        let [first, second, gone] = [(2, 1), (0, 3), (5, 5)]
            .map(|route| pending.insert(Place::Outer, route, &mut None).unwrap());
        let ping = pending.insert(Place::Ping, (0, 0), &mut None).unwrap();
        assert!(pending.is_ping(ping) && !pending.is_ping(first));
        assert!(pending.abandon(gone, false).answer.is_none());
        assert_eq!(pending.waiting().collect::<Vec<_>>(), [(first, (2, 1)), (second, (0, 3))]);
        assert!(pending.complete(first, answer(), None, &mut None).is_ok());
        assert_eq!(pending.waiting().collect::<Vec<_>>(), [(second, (0, 3))]);
    }

    #[test]
    fn closing_tells_sent_from_unsent() {
        let mut pending = Pending::new(4);
        let sent = pending.insert(Place::Outer, (0, 1), &mut Some(Waker::noop().clone())).unwrap();
        let unsent =
            pending.insert(Place::Outer, (0, 1), &mut Some(Waker::noop().clone())).unwrap();
        assert_eq!(pending.close(&CloseReason::PeerGone, &[unsent].into()).len(), 2);
        for (id, expected) in [(sent, true), (unsent, false)] {
            let Some(Err(Error::Closed { maybe_executed, .. })) = take(&mut pending, id) else {
                panic!("not closed");
            };
            assert_eq!(maybe_executed, expected);
        }
        let mut waker = Some(Waker::noop().clone());
        assert!(
            pending.insert(Place::Outer, (0, 1), &mut waker).is_err() && waker.is_some(),
            "it is the caller's to drop"
        );
        assert!(pending.insert(Place::Ping, (0, 1), &mut waker).is_err() && waker.is_some());
    }
}
