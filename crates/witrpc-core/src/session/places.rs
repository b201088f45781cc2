//! Places of one kind, and the line of those who wait for them: slots for calls in flight, or bytes of the sending queue.
//!
//! Pure: it holds wakers, and neither wakes, clones nor drops one.
//!
//! A free place is assigned to nobody. The longest waiter is woken when what it needs is free, and the first task that is polled takes
//! it. A waiter that was woken and is not polled keeps nobody else from the place: at each *turn* of the driver the next waiter is woken,
//! while what it needs is free.
//!
//! # Invariants
//!
//! - **W1** If nobody is woken who could take what is free, the longest of those who sleep needs more than is free. So what is free is
//!   never left unused while somebody who could use it sleeps and nobody was told.
//! - **W2** A newcomer takes nothing while somebody sleeps in the line, or was woken in the current turn. So newcomers starve nobody.
//! - **W3** Who needs more than is free is told once it is free, and until then no other sleeper is told. So a large need is not
//!   starved by small ones. What is taken is given back by what holds it, which needs nothing of this line.
//!
//! W1 needs that every change is followed by [`Places::next_waiter`] until it returns `None`, or by a turn. `places/model.rs` checks
//! every order of steps for a few waiters.

#[cfg(test)]
mod model;

use std::collections::BTreeMap;
use std::task::Waker;

/// Places, and the line for them.
#[derive(Debug)]
pub struct Places {
    free: u64,
    /// Those who sleep, by their tickets: what they need, and whom to wake.
    asleep: BTreeMap<u64, (u64, Waker)>,
    /// Those who were woken and not polled since, by their tickets: the turn in which they were woken.
    woken: BTreeMap<u64, u64>,
    /// How many of `woken` were woken in the current turn.
    fresh: usize,
    turn: u64,
    last_ticket: u64,
}

/// A position in a line. Given back by [`Places::leave`].
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket(u64);

impl Places {
    /// `total` free places. Nobody may need more.
    #[inline]
    pub const fn new(total: u64) -> Self {
        Self {
            free: total,
            asleep: BTreeMap::new(),
            woken: BTreeMap::new(),
            fresh: 0,
            turn: 0,
            last_ticket: 0,
        }
    }

    /// Takes `need` places for a newcomer (W2).
    #[inline]
    pub fn take(&mut self, need: u64) -> bool {
        let may = self.may_take(None, need);
        if may {
            self.free -= need;
        }
        may
    }

    /// Whether `need` places are free, whoever waits for them: for whoever must not wait.
    #[inline]
    pub const fn has(&self, need: u64) -> bool {
        need <= self.free
    }

    /// Whether a newcomer, or whoever has this ticket, may take `need` places now.
    #[inline]
    pub fn may_take(&self, ticket: Option<&Ticket>, need: u64) -> bool {
        need <= self.free
            && match ticket {
                None => self.asleep.is_empty() && self.fresh == 0,
                Some(Ticket(ticket)) => {
                    self.woken.contains_key(ticket)
                        || self.fresh == 0
                            && self
                                .asleep
                                .first_key_value()
                                .is_none_or(|(first, _)| first >= ticket)
                }
            }
    }

    /// Takes `need` places that [may be taken](Self::may_take), and leaves the line. Returns the waker that was in it.
    pub fn take_now(&mut self, ticket: Option<Ticket>, need: u64) -> Option<Waker> {
        self.free -= need;
        self.leave(ticket?)
    }

    /// Joins the line, or goes back to sleep in it. Returns the waker that was in it before.
    pub fn wait(&mut self, ticket: &mut Option<Ticket>, need: u64, waker: Waker) -> Option<Waker> {
        let Ticket(number) = ticket.get_or_insert_with(|| {
            self.last_ticket += 1;
            Ticket(self.last_ticket)
        });
        self.forget_woken(*number);
        self.asleep.insert(*number, (need, waker)).map(|(_, waker)| waker)
    }

    /// Leaves the line. Returns the waker that was in it.
    pub fn leave(&mut self, ticket: Ticket) -> Option<Waker> {
        let Ticket(number) = ticket;
        self.forget_woken(number);
        self.asleep.remove(&number).map(|(_, waker)| waker)
    }

    /// Gives places back.
    #[inline]
    pub const fn give(&mut self, places: u64) {
        self.free += places;
    }

    /// The next to be woken: the longest sleeper, if what it needs is free and nobody was woken in this turn.
    #[inline]
    pub fn next_waiter(&mut self) -> Option<Waker> {
        if self.fresh > 0 {
            return None;
        }
        let first = self.asleep.first_entry().filter(|first| first.get().0 <= self.free)?;
        let (ticket, (_, waker)) = first.remove_entry();
        self.woken.insert(ticket, self.turn);
        self.fresh += 1;
        Some(waker)
    }

    /// A turn of the driver is over: whoever was woken in it has had the chance to be polled. Returns the next to be woken.
    pub fn end_turn(&mut self) -> Option<Waker> {
        self.turn += 1;
        self.fresh = 0;
        self.next_waiter()
    }

    /// Whether anybody sleeps in the line.
    #[inline]
    pub fn has_sleepers(&self) -> bool {
        !self.asleep.is_empty()
    }

    /// Empties the line: the connection has ended. Returns the wakers to wake.
    pub fn close(&mut self) -> Vec<Waker> {
        self.woken.clear();
        self.fresh = 0;
        std::mem::take(&mut self.asleep).into_values().map(|(_, waker)| waker).collect()
    }

    fn forget_woken(&mut self, ticket: u64) {
        let turn = self.woken.remove(&ticket);
        self.fresh -= usize::from(turn == Some(self.turn));
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::Places;

    fn waker() -> Waker {
        Waker::noop().clone()
    }

    #[test]
    fn who_is_woken_and_not_polled_keeps_nobody_from_a_place() {
        let mut places = Places::new(1);
        assert!(places.take(1));
        let (mut held, mut other) = (None, None);
        for ticket in [&mut held, &mut other] {
            assert!(!places.may_take(ticket.as_ref(), 1));
            assert!(places.wait(ticket, 1, waker()).is_none());
        }
        places.give(1);
        assert!(places.next_waiter().is_some(), "the longest waiter");
        assert!(places.next_waiter().is_none(), "one at a time");
        assert!(!places.may_take(other.as_ref(), 1) && !places.take(1), "it is to be polled first");
        assert!(places.end_turn().is_some(), "the next");
        assert!(places.may_take(other.as_ref(), 1) && places.may_take(held.as_ref(), 1));
        places.take_now(other, 1);
        assert!(!places.may_take(held.as_ref(), 1));
        places.give(1);
        assert!(places.take(1), "the held one keeps no newcomer from it either");
    }

    #[test]
    fn small_needs_do_not_starve_a_large_one() {
        let mut places = Places::new(10);
        assert!(places.take(4) && places.take(4));
        let mut large = None;
        assert!(!places.may_take(None, 9));
        places.wait(&mut large, 9, waker());
        assert!(!places.take(1), "a newcomer waits behind it");
        let mut small = None;
        places.wait(&mut small, 1, waker());
        places.give(4);
        assert!(
            places.next_waiter().is_none() && places.end_turn().is_none(),
            "four are still taken"
        );
        assert!(!places.may_take(small.as_ref(), 1));
        places.give(4);
        assert!(places.next_waiter().is_some());
        places.take_now(large, 9);
        assert!(places.next_waiter().is_some(), "then the small one");
        places.take_now(small, 1);
        assert!(!places.has_sleepers());
    }

    #[test]
    fn who_leaves_makes_way() {
        let mut places = Places::new(1);
        assert!(places.take(1));
        let (mut first, mut second) = (None, None);
        places.wait(&mut first, 1, waker());
        places.wait(&mut second, 1, waker());
        places.give(1);
        assert!(places.next_waiter().is_some());
        assert!(first.and_then(|first| places.leave(first)).is_none(), "it was woken");
        assert!(places.next_waiter().is_some(), "the second");
        assert_eq!(places.close().len(), 0);
        assert!(!places.has_sleepers());
    }
}
