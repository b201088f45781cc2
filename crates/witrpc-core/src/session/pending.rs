//! The calls of this side that the peer has not answered.
//!
//! Pure: a table of slots, and the free permits for calls in flight. An id consists of a slot and a generation. A slot is reused only after its
//! answer, or the acknowledgement of its cancel, has arrived. So a late answer never reaches a later call.
//!
//! # Invariants
//!
//! - **P1** A slot is on the free list, or `Waiting`, `Done` or `Abandoned`; only `Waiting` and `Abandoned` may be
//!   answered, and only once.
//! - **P2** A slot's generation grows whenever the slot is freed.

use std::collections::HashSet;
use std::task::Waker;

use crate::error::{CloseReason, Error};
#[cfg(all(feature = "json", any(test, fuzzing, feature = "test-support")))]
use crate::held::Held;
use crate::session::ledger::Charge;
use crate::values::content::Content;
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
    Done(Result<Answer, Error>),
    /// The caller is gone; the peer has been told.
    Abandoned,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    /// The method; or [`PING`] if it waits for a pong, and has no permit.
    route: (u16, u16),
    state: State,
}

/// What stands in place of a method: there are never so many.
const PING: (u16, u16) = (u16::MAX, u16::MAX);

/// The table.
#[derive(Debug, Default)]
pub struct Pending {
    slots: Vec<Slot>,
    free: Option<u32>,
    used: usize,
    /// Free permits that nobody waits for; the others are in the semaphore.
    permits: usize,
    /// The number of callers that wait at the semaphore.
    queued: usize,
    /// The number of `Done` slots: their callers were woken, and have not taken the answers yet.
    woken: usize,
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
    /// A table for a peer that accepts this many calls at a time.
    #[inline]
    pub fn new(permits: usize) -> Self {
        Self { permits, ..Self::default() }
    }

    /// Takes a permit, if there is one that nobody waits for.
    #[inline]
    pub const fn take_permit(&mut self) -> bool {
        let free = self.permits > 0;
        self.permits -= free as usize;
        free
    }

    /// Returns a permit. Returns `true` if a caller waits: then the permit must be added to the semaphore.
    #[must_use]
    #[inline]
    pub const fn return_permit(&mut self) -> bool {
        let wanted = self.queued > 0;
        self.permits += !wanted as usize;
        wanted
    }

    /// Counts a caller that waits at the semaphore. Returns `true` if there is a free permit, which must be added to the semaphore.
    #[must_use]
    #[inline]
    pub const fn join_queue(&mut self) -> bool {
        self.queued += 1;
        self.take_permit()
    }

    /// A caller no longer waits at the semaphore. A permit that is left there goes to the next caller that waits.
    #[inline]
    pub const fn leave_queue(&mut self) {
        self.queued -= 1;
    }

    /// Takes a slot for a new call of this method, and its waker out of `waker`; that is `None` if the caller checks for the answer before it
    /// waits. The waker stays with the caller if the connection is closed.
    ///
    /// # Errors
    ///
    /// The reason if the connection is closed.
    pub fn insert(
        &mut self,
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
            slot.route = route;
            return Ok(CallId::new(index, slot.generation));
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
        self.slots.push(Slot { generation: 0, route, state });
        Ok(CallId::new(index, 0))
    }

    /// The same for a ping.
    ///
    /// # Errors
    ///
    /// The reason if the connection is closed.
    #[inline]
    pub fn insert_ping(&mut self, waker: &mut Option<Waker>) -> Result<CallId, CloseReason> {
        self.insert(PING, waker)
    }

    /// The calls that wait for an answer, and their methods.
    pub fn waiting(&self) -> impl Iterator<Item = (CallId, (u16, u16))> {
        self.slots.iter().zip(0..).filter_map(|(slot, index)| {
            let waits = matches!(slot.state, State::Waiting { .. }) && slot.route != PING;
            waits.then(|| (CallId::new(index, slot.generation), slot.route))
        })
    }

    /// Whether this is a ping.
    #[inline]
    pub fn is_ping(&mut self, id: CallId) -> bool {
        self.get(id).is_some_and(|slot| slot.route == PING)
    }

    /// Delivers an answer. `wanted` is the call of the current task: its answer is put into `found`, and nothing is woken.
    pub fn complete(
        &mut self,
        id: CallId,
        answer: Answer,
        wanted: Option<CallId>,
        found: &mut Option<Answer>,
    ) -> Result<Completed, Unexpected> {
        let slot = self.get(id).ok_or(Unexpected)?;
        match &mut slot.state {
            State::Waiting { waker } if wanted == Some(id) => {
                *found = Some(answer);
                let waker = waker.take();
                self.release(id);
                Ok(Completed::Wanted(waker))
            }
            State::Waiting { waker } => {
                let waker = waker.take();
                slot.state = State::Done(Ok(answer));
                self.woken += 1;
                Ok(Completed::Other(waker))
            }
            State::Abandoned => {
                self.release(id);
                Ok(Completed::Nobody(answer))
            }
            State::Free { .. } | State::Done(_) => Err(Unexpected),
        }
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
            State::Done(_) => {
                let State::Done(outcome) = std::mem::replace(&mut slot.state, State::Abandoned)
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

    /// The caller is gone. Returns its waker, and an answer that had arrived already. Without one the slot stays in use until the peer
    /// answers or acknowledges, unless the call was `unsent`.
    #[inline]
    pub fn abandon(&mut self, id: CallId, unsent: bool) -> Left {
        let Some(slot) = self.get(id) else { return Left::default() };
        match std::mem::replace(&mut slot.state, State::Abandoned) {
            State::Done(outcome) => {
                self.woken -= 1;
                self.release(id);
                Left { answer: outcome.ok(), waker: None }
            }
            State::Waiting { waker } => {
                if unsent {
                    self.release(id);
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
        let mut wakers = Vec::new();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let id = CallId::new(u32::try_from(index).unwrap_or(u32::MAX), slot.generation);
            if let State::Waiting { waker } = &mut slot.state {
                wakers.extend(waker.take());
                let maybe_executed = !unsent.contains(&id);
                slot.state =
                    State::Done(Err(Error::Closed { reason: reason.clone(), maybe_executed }));
                self.woken += 1;
            }
        }
        wakers
    }

    /// Whether calls are accepted.
    #[inline]
    pub const fn is_open(&self) -> bool {
        self.closed.is_none()
    }

    /// Whether a caller was woken for its answer, and has not run yet.
    #[inline]
    pub const fn has_woken_caller(&self) -> bool {
        self.woken > 0
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
            State::Done(Ok(answer)) => Some(answer.content.held()),
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
    use super::Pending;
    use super::Unexpected;
    use crate::error::{CloseReason, Error};
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
        let mut pending = Pending::default();
        let id = pending.insert((0, 1), &mut Some(first.clone())).unwrap();
        let mut clone = None;
        assert!(matches!(pending.poll(id, &first, &mut clone), Looked::Waits) && clone.is_none());
        assert!(matches!(pending.poll(id, &second, &mut clone), Looked::NeedsClone));
        clone = Some(second.clone());
        assert!(matches!(pending.poll(id, &second, &mut clone), Looked::Waits));
        assert!(clone.is_some_and(|replaced| replaced.will_wake(&first)));
        let left = pending.abandon(id, true);
        assert!(left.waker.is_some_and(|waker| waker.will_wake(&second)));
    }

    #[test]
    fn places_are_never_lost_between_those_that_wait_and_those_that_do_not() {
        let mut pending = Pending::new(2);
        assert!(pending.take_permit() && pending.take_permit());
        assert!(!pending.take_permit());
        assert!(!pending.join_queue(), "there is none to hand over");
        assert!(pending.return_permit(), "somebody waits for it");
        pending.leave_queue();
        assert!(!pending.return_permit());
        assert!(pending.join_queue(), "the one that came back");
        assert!(!pending.take_permit());
    }

    #[test]
    fn a_slot_is_used_again_under_another_id() {
        let mut pending = Pending::default();
        let first = pending.insert((0, 1), &mut Some(Waker::noop().clone())).unwrap();
        let mut found = None;
        let completed = pending.complete(first, answer(), Some(first), &mut found);
        assert!(matches!(completed, Ok(Completed::Wanted(Some(_)))) && found.is_some());
        let second = pending.insert((0, 1), &mut Some(Waker::noop().clone())).unwrap();
        assert_ne!(first, second);
        assert_eq!(pending.complete(first, answer(), None, &mut None).err(), Some(Unexpected));
        assert_eq!(pending.in_flight(), 1);
    }

    #[test]
    fn an_abandoned_slot_waits_for_its_acknowledgement() {
        let mut pending = Pending::default();
        let id = pending.insert((0, 1), &mut Some(Waker::noop().clone())).unwrap();
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
        let mut pending = Pending::default();
        let ids =
            [(); 3].map(|()| pending.insert((0, 1), &mut Some(Waker::noop().clone())).unwrap());
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
        let mut pending = Pending::default();
        let id = pending.insert((0, 1), &mut Some(Waker::noop().clone())).unwrap();
        assert!(matches!(
            pending.complete(id, answer(), None, &mut None),
            Ok(Completed::Other(Some(_)))
        ));
        assert_eq!(pending.complete(id, answer(), None, &mut None).err(), Some(Unexpected));
        assert!(take(&mut pending, id).is_some());
        assert_eq!(pending.in_flight(), 0);
    }

    #[test]
    fn calls_that_wait_are_listed_with_their_methods_and_pings_are_not() {
        let mut pending = Pending::default();
        let [first, second, gone] =
            [(2, 1), (0, 3), (5, 5)].map(|route| pending.insert(route, &mut None).unwrap());
        let ping = pending.insert_ping(&mut None).unwrap();
        assert!(pending.is_ping(ping) && !pending.is_ping(first));
        assert!(pending.abandon(gone, false).answer.is_none());
        assert_eq!(pending.waiting().collect::<Vec<_>>(), [(first, (2, 1)), (second, (0, 3))]);
        assert!(pending.complete(first, answer(), None, &mut None).is_ok());
        assert_eq!(pending.waiting().collect::<Vec<_>>(), [(second, (0, 3))]);
    }

    #[test]
    fn closing_tells_sent_from_unsent() {
        let mut pending = Pending::default();
        let sent = pending.insert((0, 1), &mut Some(Waker::noop().clone())).unwrap();
        let unsent = pending.insert((0, 1), &mut Some(Waker::noop().clone())).unwrap();
        assert_eq!(pending.close(&CloseReason::PeerGone, &[unsent].into()).len(), 2);
        for (id, expected) in [(sent, true), (unsent, false)] {
            let Some(Err(Error::Closed { maybe_executed, .. })) = take(&mut pending, id) else {
                panic!("not closed");
            };
            assert_eq!(maybe_executed, expected);
        }
        let mut waker = Some(Waker::noop().clone());
        assert!(
            pending.insert((0, 1), &mut waker).is_err() && waker.is_some(),
            "it is the caller's to drop"
        );
        assert!(pending.insert_ping(&mut waker).is_err() && waker.is_some());
    }
}
