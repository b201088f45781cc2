//! Checks every interleaving, up to a bound of preemptions, of callers that lead, a driver that sleeps, and a peer that answers, with
//! the real [`Reception`] and the real table of calls. A lost wake-up is a deadlock, which loom reports.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p witrpc-runtime --release loom`. The ring is a model: its own loom tests are in
//! `witrpc-mmf`. The last model leaves out one thing, and must fail: it shows that the others could.

#![cfg(loom)]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};

use loom::future::block_on;
use loom::thread;
use witrpc_core::limits::POOLS;
use witrpc_core::session::ledger::Ledger;
use witrpc_core::session::pending::{Answer, CallId, Completed, Looked, Pending, Place};
use witrpc_core::sync::AtomicWaker;
use witrpc_core::wire::status::Status;

use crate::link::reception::{Half, Leader, Reception, Visit};
use crate::link::sync::{AtomicBool, Mutex, Ordering};
use crate::locks::Rank;

/// A model of a ring with its named event: a publish notifies if the reader has asked for that record, and a notification is
/// remembered.
#[derive(Debug)]
struct Ring {
    state: Mutex<RingState>,
    notified: AtomicBool,
    sleeper: AtomicWaker,
}

impl Default for Ring {
    fn default() -> Self {
        let (notified, sleeper) = (AtomicBool::new(false), AtomicWaker::new());
        Self { state: Mutex::new(Rank::Outbound, RingState::default()), notified, sleeper }
    }
}

#[derive(Debug, Default)]
struct RingState {
    answers: VecDeque<CallId>,
    published: usize,
    /// The record whose publish notifies, counted from 1.
    ring_for: usize,
}

impl RingState {
    fn taken(&self) -> usize {
        self.published - self.answers.len()
    }
}

impl Ring {
    fn publish(&self, id: CallId) {
        let mut state = self.state.lock();
        state.answers.push_back(id);
        state.published += 1;
        let notify = state.ring_for == state.published;
        drop(state);
        if notify {
            self.notified.swap(true, Ordering::AcqRel);
            self.sleeper.wake();
        }
    }

    fn poll_wake(&self, waker: &Waker) -> bool {
        self.sleeper.register(waker);
        self.notified.swap(false, Ordering::AcqRel)
    }
}

#[derive(Debug)]
struct Reader(Arc<Ring>);

impl Reader {
    fn next(&mut self) -> Option<CallId> {
        self.0.state.lock().answers.pop_front()
    }

    /// As a step of the driver does it.
    fn take(&mut self) -> Result<Option<CallId>, Infallible> {
        let next = self.next();
        if next.is_some() {
            self.disarm();
        }
        Ok(next)
    }

    /// As `Consumer::expect`: the reader polls for the next record, and the one behind it notifies.
    fn expect(&mut self) {
        let mut state = self.0.state.lock();
        if state.ring_for > state.taken() {
            state.ring_for = state.taken() + 2;
        }
    }

    fn disarm(&mut self) {
        self.0.state.lock().ring_for = 0;
    }
}

impl Half for Reader {
    type Error = Infallible;

    fn is_ready(&mut self) -> Result<bool, Infallible> {
        Ok(!self.0.state.lock().answers.is_empty())
    }

    fn may_poll(&self) -> bool {
        false
    }

    fn arm(&mut self) -> Result<bool, Infallible> {
        let mut state = self.0.state.lock();
        if state.answers.is_empty() {
            state.ring_for = state.taken() + 1;
        }
        Ok(!state.answers.is_empty())
    }

    fn release(&mut self) -> Result<(), Infallible> {
        Ok(())
    }

    fn stop(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// One side of a connection, as far as answers go.
struct Side {
    ring: Arc<Ring>,
    reception: Reception<Reader>,
    pending: Mutex<Pending>,
    closed: AtomicBool,
}

impl Side {
    fn new(skips_lock: bool) -> Arc<Self> {
        let ring = Arc::new(Ring::default());
        let mut reception = Reception::new(Reader(Arc::clone(&ring)), Ledger::new([1; POOLS]));
        reception.skips_lock = skips_lock;
        let (pending, closed) =
            (Mutex::new(Rank::Pending, Pending::new(4)), AtomicBool::new(false));
        Arc::new(Self { ring, reception, pending, closed })
    }

    /// As `Connection::handle` does with a response; `true` if it is the leader's own. Others are woken once the step is over, as L2
    /// of `locks` asks: they are put into `woken`.
    fn complete(&self, id: CallId, wanted: Option<CallId>, woken: &mut Vec<Waker>) -> bool {
        let (answer, mut found) = (Answer::empty(Status::Ok), None);
        let completed = self.pending.lock().complete(id, answer, wanted, &mut found).unwrap();
        match completed {
            Completed::Wanted(_) => return true,
            Completed::Other(waker) => woken.extend(waker),
            Completed::Nobody(_) => {}
        }
        false
    }

    /// As `Connection::poll_answer`.
    fn poll_answer(&self, id: CallId, waker: &Waker) -> Poll<()> {
        if self.has_answer(id, waker) { Poll::Ready(()) } else { self.lead(id, None::<fn()>) }
    }

    /// As `Connection::begin_call`, of a caller that has left no waker.
    fn begin_call(&self, id: CallId, waker: &Waker, send: Option<impl FnOnce()>) -> Poll<()> {
        let outcome = self.lead(id, send);
        if outcome.is_ready() || self.has_answer(id, waker) { Poll::Ready(()) } else { outcome }
    }

    /// Leaves the waker if the answer is not there.
    fn has_answer(&self, id: CallId, waker: &Waker) -> bool {
        let mut clone = Some(waker.clone());
        matches!(self.pending.lock().poll(id, waker, &mut clone), Looked::Found(_))
    }

    /// As `Connection::lead`, of a caller that is alone.
    fn lead(&self, id: CallId, mut send: Option<impl FnOnce()>) -> Poll<()> {
        let mut woken = Vec::new();
        let outcome = self.reception.lead(Leader::MayPoll, |reader| {
            let mut found = false;
            if let Some(send) = send.take() {
                reader.disarm();
                send();
            } else {
                reader.expect();
            }
            while !found {
                let Some(answered) = reader.next() else { break };
                found = self.complete(answered, Some(id), &mut woken);
            }
            Ok(found)
        });
        woken.into_iter().for_each(Waker::wake);
        if let Some(send) = send {
            send();
        }
        if let Some(Ok(true)) = outcome { Poll::Ready(()) } else { Poll::Pending }
    }

    fn call(&self, id: CallId) {
        block_on(poll_fn(|cx| self.poll_answer(id, cx.waker())));
    }

    /// As `driver::run` and its `sleep`, without polling.
    fn drive(&self) {
        while !self.closed.load(Ordering::Acquire) {
            while let Visit::Done(Some(id)) = self.reception.visit(Reader::take).unwrap() {
                let mut woken = Vec::new();
                self.complete(id, None, &mut woken);
                woken.into_iter().for_each(Waker::wake);
            }
            let mut slept = false;
            block_on(poll_fn(|cx| {
                let work = self.reception.register_driver(cx.waker()).unwrap();
                let notified = self.ring.poll_wake(cx.waker());
                let over = notified || std::mem::replace(&mut slept, true) || work;
                if over { Poll::Ready(()) } else { Poll::Pending }
            }));
        }
    }

    /// As a round of `driver::run` after it was woken. Returns how much it has published.
    fn publish(&self, pushed: &Mutex<usize>, late: bool) -> usize {
        self.reception.register_driver(Waker::noop()).unwrap();
        let is_left = self.reception.has_unpublished();
        if is_left && !late {
            self.reception.take_unpublished();
        }
        let published = *pushed.lock();
        if is_left && late {
            self.reception.take_unpublished();
        }
        published
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.reception.wake_driver();
    }
}

fn bounded(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(2); // Or LOOM_MAX_PREEMPTIONS; 3 takes a minute and finds no more.
    builder.check(model);
}

/// A caller on each side of the driver; the peer answers them one after the other, or in one go.
fn two_callers(skips_lock: bool) {
    bounded(move || {
        let side = Side::new(skips_lock);
        let [first, second] = [0; 2].map(|_| {
            side.pending
                .lock()
                .insert(Place::Outer, (0, 0), &mut Some(Waker::noop().clone()))
                .unwrap()
        });
        let driver = thread::spawn({
            let side = Arc::clone(&side);
            move || side.drive()
        });
        let other = thread::spawn({
            let side = Arc::clone(&side);
            move || {
                side.ring.publish(second);
                side.call(second);
            }
        });
        side.ring.publish(first);
        side.call(first);
        other.join().unwrap();
        assert_eq!(side.pending.lock().in_flight(), 0);
        side.close();
        driver.join().unwrap();
    });
}

/// How a caller leaves its waker (C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaves {
    /// Before its request leaves.
    First,
    /// When it stops looking, and looks once more.
    Late,
    /// The same, and its request leaves while it leads.
    LateLeading,
}

/// A caller, the driver, and a peer that answers whenever it likes.
fn one_caller(leaves: Leaves) {
    bounded(move || {
        let side = Side::new(false);
        let driver = thread::spawn({
            let side = Arc::clone(&side);
            move || side.drive()
        });
        let (requested, answered) =
            (Arc::new(Mutex::new(Rank::Pending, None)), Arc::new(AtomicWaker::new()));
        let peer = thread::spawn({
            let (side, requested) = (Arc::clone(&side), Arc::clone(&requested));
            let answered = Arc::clone(&answered);
            move || {
                let id = block_on(poll_fn(|cx| {
                    answered.register(cx.waker());
                    requested.lock().take().map_or(Poll::Pending, Poll::Ready)
                }));
                side.ring.publish(id);
            }
        });
        let mut begun = None;
        block_on(poll_fn(|cx| {
            if let Some(id) = begun {
                return side.poll_answer(id, cx.waker());
            }
            let mut waker = (leaves == Leaves::First).then(|| cx.waker().clone());
            let id = side.pending.lock().insert(Place::Outer, (0, 0), &mut waker).unwrap();
            begun = Some(id);
            let send = || {
                *requested.lock() = Some(id);
                answered.wake();
            };
            if leaves == Leaves::LateLeading {
                return side.begin_call(id, cx.waker(), Some(send));
            }
            send();
            match leaves {
                Leaves::First => side.lead(id, None::<fn()>),
                _ => side.begin_call(id, cx.waker(), None::<fn()>),
            }
        }));
        peer.join().unwrap();
        side.close();
        driver.join().unwrap();
    });
}

#[test]
fn a_caller_that_leaves_its_waker_when_it_stops_looking_gets_its_answer() {
    one_caller(Leaves::Late);
}

#[test]
fn a_caller_that_leads_while_its_request_leaves_gets_its_answer() {
    one_caller(Leaves::LateLeading);
}

#[test]
fn a_caller_gets_its_answer_whoever_takes_it_from_the_ring() {
    one_caller(Leaves::First);
}

#[test]
fn two_callers_get_their_answers_whoever_leads() {
    two_callers(false);
}

/// A caller that gives up after one poll stalls nobody: it leaves the ring to the driver.
#[test]
fn a_caller_that_polls_once_and_goes_leaves_nobody_stuck() {
    bounded(|| {
        let side = Side::new(false);
        let [leaving, waiting] = [0; 2].map(|_| {
            side.pending
                .lock()
                .insert(Place::Outer, (0, 0), &mut Some(Waker::noop().clone()))
                .unwrap()
        });
        let driver = thread::spawn({
            let side = Arc::clone(&side);
            move || side.drive()
        });
        let gone = thread::spawn({
            let side = Arc::clone(&side);
            move || {
                if side.poll_answer(leaving, Waker::noop()).is_pending() {
                    drop(side.pending.lock().abandon(leaving, false));
                }
            }
        });
        side.ring.publish(waiting);
        side.call(waiting);
        gone.join().unwrap();
        side.close();
        driver.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_driver_that_does_not_wait_for_the_leader_loses_a_wake_up() {
    two_callers(true);
}

/// Two callers leave their requests for the driver, which publishes them, or has word that there is more. If it is `late`, it
/// takes the callers' word back only after.
fn left_for_the_driver(late: bool) {
    bounded(move || {
        let side = Side::new(false);
        let pushed = Arc::new(Mutex::new(Rank::Pending, 0));
        let push = |side: &Side, pushed: &Mutex<usize>| {
            *pushed.lock() += 1;
            side.reception.leave_unpublished();
        };
        let other = thread::spawn({
            let (side, pushed) = (Arc::clone(&side), Arc::clone(&pushed));
            move || push(&side, &pushed)
        });
        let driver = thread::spawn({
            let (side, pushed) = (Arc::clone(&side), Arc::clone(&pushed));
            move || {
                let mut published = 0;
                for _ in 0..2 {
                    if side.reception.has_notification() {
                        published = side.publish(&pushed, late);
                    }
                }
                published
            }
        });
        push(&side, &pushed);
        other.join().unwrap();
        let published = driver.join().unwrap();
        assert!(published == 2 || side.reception.has_notification(), "a request was forgotten");
    });
}

#[test]
fn what_is_left_for_the_driver_is_published() {
    left_for_the_driver(false);
}

#[test]
#[should_panic(expected = "forgotten")]
fn a_driver_that_publishes_before_it_takes_the_word_back_forgets_a_request() {
    left_for_the_driver(true);
}
