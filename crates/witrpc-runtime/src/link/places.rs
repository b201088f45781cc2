//! The bounds on what this side queues for sending, and the lines of those who wait for room: messages of calls that are not small, and
//! items of streams. Small messages need no room here, as the number of calls in flight bounds them.
//!
//! Each bound is separate, because those who hold room and those who wait for it must not wait for each other: a queued request waits for
//! credit, which handlers of earlier requests may hold; these may wait for nested calls, or for items of a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use witrpc_core::limits::Limits;
use witrpc_core::session::ledger::Ledger;
use witrpc_core::session::outbound::Room;
use witrpc_core::session::places::{Places, Ticket};
use witrpc_core::wire::frame::Nesting;

use crate::locks::{self, Mutex, MutexGuard, Rank, with_clone};

/// The bounds of one connection.
#[derive(Debug)]
pub(crate) struct QueueRoom {
    pub(crate) outer: Arc<Line>,
    pub(crate) nested: Arc<Line>,
    pub(crate) items: Arc<Line>,
    turns: Arc<Turns>,
}

/// Bytes of the sending queue, and the line for them.
#[derive(Debug)]
pub(crate) struct Line {
    state: Mutex<State>,
    total: u64,
    turns: Arc<Turns>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) places: Places,
    pub(crate) closed: bool,
}

/// Wakes waiters one after the other: see [`Places`].
#[derive(Debug)]
struct Turns {
    /// Somebody was woken for a place: once he has had the time to take it, the driver wakes the next. Set before the driver is woken, so the
    /// driver sees it.
    is_due: AtomicBool,
    ledger: Arc<Ledger>,
}

/// The connection has ended.
#[derive(Debug)]
pub(crate) struct Closed;

impl QueueRoom {
    /// The room that these limits say.
    pub(crate) fn new(limits: &Limits, ledger: &Arc<Ledger>) -> Self {
        let turns = Arc::new(Turns { is_due: AtomicBool::new(false), ledger: Arc::clone(ledger) });
        let line = |bytes: u64| Line::new(bytes.max(1), &turns);
        let (outer, nested) = limits.own_requests();
        Self { outer: line(outer), nested: line(nested), items: line(limits.items()), turns }
    }

    /// The line for calls of this nesting.
    pub(crate) const fn of_calls(&self, nesting: Nesting) -> &Arc<Line> {
        match nesting {
            Nesting::Outer => &self.outer,
            Nesting::Nested | Nesting::Deeper => &self.nested,
        }
    }

    /// Wakes somebody who waits for a place, and has the driver wake the next if he does not take it.
    pub(crate) fn wake(&self, waiter: Option<Waker>) {
        self.turns.wake(waiter);
    }

    /// Whether the driver will have to end a turn.
    pub(crate) fn will_end_turn(&self) -> bool {
        self.turns.is_due.load(Ordering::Relaxed)
    }

    /// Whether the driver has to end a turn. If so, it calls [`end_turn`](Self::end_turn).
    pub(crate) fn turn_is_due(&self) -> bool {
        // Relaxed: the driver is woken after it was set.
        self.will_end_turn() && self.turns.is_due.swap(false, Ordering::Relaxed)
    }

    /// Whoever was woken has had the time to take his place: wakes the next. `others` ends the turn of other lines.
    pub(crate) fn end_turn<const N: usize>(&self, others: impl FnOnce() -> [Option<Waker>; N]) {
        for line in [&self.nested, &self.outer, &self.items] {
            let next = line.state.lock().places.end_turn();
            self.turns.wake(next);
        }
        for next in others() {
            self.turns.wake(next);
        }
    }

    /// The connection has ended: nobody waits any longer.
    pub(crate) fn close(&self) {
        for line in [&self.nested, &self.outer, &self.items] {
            let mut state = line.state.lock();
            state.closed = true;
            let waiters = state.places.close();
            drop(state);
            waiters.into_iter().for_each(locks::wake);
        }
    }
}

impl Turns {
    fn wake(&self, waiter: Option<Waker>) {
        let Some(waiter) = waiter else { return };
        locks::wake(waiter);
        self.is_due.store(true, Ordering::Relaxed);
        self.ledger.driver().wake();
    }
}

impl Line {
    fn new(total: u64, turns: &Arc<Turns>) -> Arc<Self> {
        let state = State { places: Places::new(total), closed: false };
        Arc::new(Self {
            state: Mutex::new(Rank::QueueRoom, state),
            total,
            turns: Arc::clone(turns),
        })
    }

    /// The room that a message of this size needs. One that is larger than the whole queue waits until the queue is empty.
    pub(crate) fn room_for(&self, size: u64) -> u64 {
        size.min(self.total)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The room that was just taken, to be given back when the message has left.
    pub(crate) fn taken(self: &Arc<Self>, bytes: u64) -> Room {
        Box::new(Taken { line: Arc::clone(self), bytes })
    }

    /// Takes room if there is any, and nobody waits.
    pub(crate) fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let mut state = self.state.lock();
        let taken = !state.closed && state.places.take(bytes);
        drop(state);
        taken.then(|| self.taken(bytes))
    }
}

/// Room in the sending queue. Given back once no lock is held, as that wakes whoever waits for it.
struct Taken {
    line: Arc<Line>,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let (line, bytes) = (Arc::clone(&self.line), self.bytes);
        locks::let_go((line, bytes), |(line, bytes)| {
            let mut state = line.state.lock();
            state.places.give(bytes);
            let next = state.places.next_waiter();
            drop(state);
            line.turns.wake(next);
        });
    }
}

/// A wait for room.
#[derive(Debug)]
pub(crate) struct Waiting {
    line: Arc<Line>,
    bytes: u64,
    ticket: Option<Ticket>,
}

impl Waiting {
    pub(crate) fn new(line: &Arc<Line>, bytes: u64) -> Self {
        Self { line: Arc::clone(line), bytes, ticket: None }
    }

    pub(crate) fn poll(&mut self, cx: &Context<'_>) -> Poll<Result<Room, Closed>> {
        let (line, bytes, ticket) = (&self.line, self.bytes, &mut self.ticket);
        with_clone(cx.waker(), |clone| {
            let mut state = line.state.lock();
            if state.closed {
                return Some(Poll::Ready(Err(Closed)));
            }
            if state.places.may_take(ticket.as_ref(), bytes) {
                let before = state.places.take_now(ticket.take(), bytes);
                let next = state.places.next_waiter();
                drop(state);
                drop(before);
                line.turns.wake(next);
                return Some(Poll::Ready(Ok(line.taken(bytes))));
            }
            let before = state.places.wait(ticket, bytes, clone.take()?);
            let next = state.places.next_waiter();
            drop(state);
            drop(before);
            line.turns.wake(next);
            Some(Poll::Pending)
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            leave(&self.line, ticket);
        }
    }
}

/// Leaves the line.
pub(crate) fn leave(line: &Line, ticket: Ticket) {
    let mut state = line.state.lock();
    let before = state.places.leave(ticket);
    let next = state.places.next_waiter();
    drop(state);
    drop(before);
    line.turns.wake(next);
}
