//! Admission: which calls are refused because their answers would come too late.
//!
//! A server that begins calls in the order in which they came, with more calls than it can answer, begins each when its deadline has
//! almost passed. So every call ends too late, and all work is wasted. It has to refuse calls early enough that it can answer the others in
//! time. A call without a deadline is never refused.
//!
//! # Where a request waits before its handler begins
//!
//! | where | what is known there | it is refused |
//! |---|---|---|
//! | at the caller: for a place in flight, for room | the caller has its own timer | not: it is not here yet |
//! | in the ring, and while its chunks arrive | nothing: it has not been read | when it has been read |
//! | put aside: answers wait for a peer that does not read | the peer decides how long | when its turn has come |
//! | in line for the runtime's workers | how many handlers are in front of it, and how long others waited | when it has been read; when it would begin |
//! | in line for a thread of the pool for blocking work | the same | the same |
//! | on such a thread, for a processor | the work of all such handlers, by what earlier ones took | when it has been read |
//!
//! A handler that the driver polls in place waits for nothing behind the ring: it is refused only if its deadline has passed.
//!
//! # When it is refused
//!
//! Let *wait* be the estimated wait, *run* the time that the quickest of the method's last calls took from its beginning to its answer, and
//! *left* the time until the deadline.
//!
//! - **A1** A call is refused if its deadline has passed before its handler has begun.
//! - **A2** It is refused when it has been read if margin · wait + run > left. The [`Margin`] is 2 or more, as the wait is an estimate. A
//!   call that is refused at once leaves the queues in front of this side, too: the ring, and the caller's line.
//! - **A3** It is refused when its handler would begin if run > left.
//! - **A4** A2 and A3 need a wait of at least left / 16. So where nothing waits, nothing is refused but by A1, however long calls usually
//!   take: the next one may have other arguments.
//!
//! # The estimates
//!
//! A [`Line`] has the handlers that were handed over and have not begun, of all connections of the endpoint. Those that begin tell how long
//! they waited, and how many were in front of them. From that follows the time per place, whatever takes it: other handlers, tasks of the
//! user's, other processes. The [`gate`](crate::serving::gate) keeps the line in order, and the runtime free for others.
//! [`processors`](crate::serving::processors) estimates how long blocking handlers wait that compute.
//!
//! Only calls with deadlines read the clock; all are counted. What was measured long ago is not used. So a call is let through then, and
//! measures anew.
//!
//! # What is not done
//!
//! - A handler that has begun is not given up before its deadline. How long its later polls will wait is known only as the time that the
//!   quickest calls took.
//! - Where the system does not tell a thread's processor time (Windows), blocking handlers that compute are estimated by their line only,
//!   which is short until all threads of the pool are busy. There, give the runtime a pool of few threads.
//! - Calls that wait at their callers end by their callers' timers, with `TimedOut`.
//! - A call that is nested is refused like any other, although the work for the call that it is nested in may be lost.
//!
//! All state is statistics in atomics, changed without a lock and with relaxed order: a lost update misjudges a call or two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;
use witrpc_core::transport::BoxFuture;

use crate::serving::drivers::Drivers;
use crate::serving::gate::{Entering, Gate};
use crate::serving::processors::{Processors, Working};
use crate::serving::runs::{Runs, SCALE, averaged, is_fresh, nanos, stamp};

/// A wait is noticed from this part of the time that is left.
const NOTICED: u32 = 16;
/// The runtime is busy if handlers wait this long.
const BUSY: Duration = Duration::from_millis(1);

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// What was left of its time.
    pub(crate) left: Duration,
    /// The estimated wait, or how long it has waited. Zero if it is not known.
    pub(crate) wait: Duration,
}

impl Refusal {
    /// Of a call whose deadline had passed when it was read.
    pub(super) const EXPIRED: Self = Self { left: Duration::ZERO, wait: Duration::ZERO };
}

/// Where handlers run that were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pool {
    /// On the runtime's workers.
    Tasks,
    /// On the threads for blocking work.
    Threads,
}

/// The state of an endpoint on one runtime, shared by all its connections there.
#[derive(Debug)]
pub(crate) struct Admission {
    tasks: Line,
    threads: Line,
    margin: Margin,
    /// Whether handlers wait for the runtime's workers.
    is_busy: AtomicBool,
    gate: Gate,
    processors: Arc<Processors>,
    pub(crate) drivers: Drivers,
}

impl Admission {
    /// For a runtime with so many workers.
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            tasks: Line::default(),
            threads: Line::default(),
            margin: Margin::default(),
            is_busy: AtomicBool::new(false),
            gate: Gate::new(workers),
            processors: Arc::default(),
            drivers: Drivers::default(),
        }
    }

    /// Whether a call that has been read is refused (A2).
    pub(crate) fn refusal(
        &self,
        pool: Pool,
        runs: &Runs,
        left: Duration,
        now: Instant,
    ) -> Option<Refusal> {
        let wait = match pool {
            Pool::Tasks => self.wait_for_worker(now),
            Pool::Threads => self.threads.wait(now).max(self.processors.wait(runs)),
        };
        if !is_noticed(wait, left) {
            return None;
        }
        let needed = self.margin.of(wait).saturating_add(runs.quickest(now));
        (needed > left).then_some(Refusal { left, wait })
    }

    /// How long a task waits; notes whether that is long.
    fn wait_for_worker(&self, now: Instant) -> Duration {
        let wait = self.tasks.wait(now);
        if self.is_busy() != (wait >= BUSY) {
            self.is_busy.store(wait >= BUSY, Relaxed);
        }
        wait
    }

    /// Whether handlers wait noticeably for the runtime's workers. Never, if no call has a deadline.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_busy.load(Relaxed)
    }

    /// A place in line for a handler that is handed over. One with a deadline gives the time.
    pub(super) fn join(self: &Arc<Self>, pool: Pool, now: Option<Instant>) -> Ticket {
        let ahead = self.line(pool).waiting.fetch_add(1, Relaxed);
        Ticket { admission: Arc::clone(self), pool, ahead, since: now }
    }

    /// A place in the run queue of the runtime, if it is busy.
    pub(super) fn enter(&self) -> Entering {
        if self.is_busy() { self.gate.enter() } else { Entering::free() }
    }

    /// Counts a blocking handler until it has ended.
    pub(super) fn work(&self, runs: &Runs) -> Working {
        self.processors.enter(runs)
    }

    /// Holds a blocking handler back that would only take processor time from others.
    pub(super) fn hold(&self, runs: &Runs, left: Duration) -> Option<BoxFuture<'static, ()>> {
        self.processors.hold(runs, left)
    }

    const fn line(&self, pool: Pool) -> &Line {
        match pool {
            Pool::Tasks => &self.tasks,
            Pool::Threads => &self.threads,
        }
    }
}

fn is_noticed(wait: Duration, left: Duration) -> bool {
    !wait.is_zero() && wait >= left / NOTICED
}

/// Handlers that were handed over and have not begun.
#[derive(Debug, Default)]
struct Line {
    waiting: AtomicU64,
    /// How long those waited that have begun, on average.
    waited: AtomicU64,
    /// Their places when they joined, on average, times [`SCALE`]. The first place is 1.
    place: AtomicU64,
    /// When the last of them began.
    noted: AtomicU64,
}

impl Line {
    /// How long the next one waits.
    fn wait(&self, now: Instant) -> Duration {
        let (waiting, place) = (self.waiting.load(Relaxed), self.place.load(Relaxed));
        let waited = self.waited.load(Relaxed);
        if waiting == 0 || place == 0 || !self.is_fresh(stamp(now), waited) {
            return Duration::ZERO;
        }
        let wait = u128::from(waiting) * u128::from(waited) * u128::from(SCALE) / u128::from(place);
        Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// One began that was behind `ahead` others.
    fn note(&self, waited: Duration, ahead: u64, now: Instant) {
        let (waited, now) = (nanos(waited), stamp(now));
        let place = ahead.saturating_add(1).saturating_mul(SCALE);
        let before = self.waited.load(Relaxed);
        let (waited, place) = if self.is_fresh(now, before) {
            (averaged(before, waited), averaged(self.place.load(Relaxed), place))
        } else {
            (waited, place)
        };
        self.waited.store(waited, Relaxed);
        self.place.store(place, Relaxed);
        self.noted.store(now, Relaxed);
    }

    fn is_fresh(&self, now: u64, waited: u64) -> bool {
        is_fresh(now.saturating_sub(self.noted.load(Relaxed)), waited)
    }
}

/// A handler's place in line, until it begins or is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    admission: Arc<Admission>,
    pool: Pool,
    /// How many were in front of it.
    ahead: u64,
    /// Since when it waits, if its call has a deadline.
    since: Option<Instant>,
}

impl Ticket {
    /// The handler would begin.
    ///
    /// # Errors
    ///
    /// Why its call is refused instead (A1, A3).
    pub(super) fn begin(
        self,
        runs: &Runs,
        deadline: Instant,
        now: Instant,
    ) -> Result<Begun, Refusal> {
        let waited = now.saturating_duration_since(self.since.unwrap_or(now));
        self.admission.line(self.pool).note(waited, self.ahead, now);
        let left = deadline.saturating_duration_since(now);
        let has_waited = is_noticed(waited, left);
        if left.is_zero() || has_waited && runs.quickest(now) > left {
            return Err(Refusal { left, wait: waited });
        }
        let admission = has_waited.then(|| Arc::clone(&self.admission));
        Ok(Begun { admission, deadline })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let was = self.admission.line(self.pool).waiting.fetch_sub(1, Relaxed);
        if was == 1 && self.pool == Pool::Tasks && self.admission.is_busy() {
            self.admission.is_busy.store(false, Relaxed);
        }
    }
}

/// A handler that has begun in time, and has not ended.
#[derive(Debug)]
pub(crate) struct Begun {
    /// If it has waited noticeably.
    admission: Option<Arc<Admission>>,
    deadline: Instant,
}

impl Begun {
    /// It has answered in time.
    pub(super) fn end(mut self) {
        if let Some(admission) = self.admission.take() {
            admission.margin.note(false);
        }
    }
}

impl Drop for Begun {
    /// It has ended without an answer: because of its deadline, or for another reason.
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            if self.deadline <= Instant::now() {
                admission.margin.note(true);
            }
        }
    }
}

/// How many times the estimated wait is counted (A2): more if calls that have waited end too late, and less as they end in time. At 3 %
/// of late calls, it is 4.
#[derive(Debug)]
struct Margin(AtomicU64);

impl Default for Margin {
    fn default() -> Self {
        Self(AtomicU64::new(Self::LEAST))
    }
}

impl Margin {
    const LEAST: u64 = 2 * SCALE;
    const MOST: u64 = 8 * SCALE;
    /// A late call adds 1 to this, and one in time takes 1 to the other of what is above [`LEAST`](Self::LEAST).
    const UP: u64 = 8;
    const DOWN: u64 = 128;

    fn of(&self, wait: Duration) -> Duration {
        let times = u128::from(self.0.load(Relaxed)) * wait.as_nanos() / u128::from(SCALE);
        Duration::from_nanos(u64::try_from(times).unwrap_or(u64::MAX))
    }

    /// A call that has waited has ended late, or in time.
    fn note(&self, late: bool) {
        let margin = self.0.load(Relaxed);
        let next = if late {
            (margin + margin / Self::UP).min(Self::MOST)
        } else {
            margin - (margin - Self::LEAST).div_ceil(Self::DOWN)
        };
        self.0.store(next, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{Admission, Line, Margin, Pool, Refusal, Relaxed, SCALE};
    use crate::serving::runs::Runs;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A line in which each place takes a millisecond, and where so many wait.
    fn line(waiting: u64, now: Instant) -> Line {
        let line = Line::default();
        (0..100).for_each(|ahead| line.note(ms(ahead + 1), ahead, now));
        line.waiting.store(waiting, Relaxed);
        line
    }

    #[test]
    fn the_wait_is_the_number_of_those_in_front_times_what_a_place_takes() {
        let now = Instant::now();
        for waiting in [0, 1, 7, 100] {
            let (wait, expected) = (line(waiting, now).wait(now), ms(waiting));
            assert!(wait.abs_diff(expected) <= expected / 10, "{waiting}: {wait:?}");
        }
        assert_eq!(Line::default().wait(now), Duration::ZERO, "nothing was measured");
        line(u64::MAX, now).wait(now);
    }

    #[test]
    fn what_was_measured_long_ago_is_not_used() {
        let now = Instant::now();
        let line = line(50, now);
        assert!(line.wait(now + ms(1000)) > ms(40));
        assert_eq!(line.wait(now + ms(10_000)), Duration::ZERO);
        // The next measurement counts by itself.
        line.note(ms(5), 49, now + ms(10_000));
        assert_eq!(line.wait(now + ms(10_000)), ms(5));
    }

    /// What an admission says of a call with so much time left, where so many wait.
    fn refusal(waiting: u64, runs: &Runs, left: Duration) -> Option<Refusal> {
        let now = Instant::now();
        let admission = Admission { tasks: line(waiting, now), ..Admission::new(2) };
        let threads = admission.refusal(Pool::Threads, runs, left, now);
        assert_eq!(threads, None, "another line");
        admission.refusal(Pool::Tasks, runs, left, now)
    }

    #[test]
    fn a_call_is_refused_if_it_would_be_late() {
        let runs = Runs::default();
        assert_eq!(refusal(40, &runs, ms(100)), None);
        let refused = refusal(60, &runs, ms(100)).unwrap();
        assert_eq!(refused.left, ms(100));
        assert!((ms(54)..ms(66)).contains(&refused.wait), "{refused:?}");
        // With what the quickest calls take.
        runs.note(ms(40), Instant::now());
        assert_eq!(refusal(20, &runs, ms(100)), None);
        assert!(refusal(40, &runs, ms(100)).is_some());
    }

    #[test]
    fn where_nothing_waits_nothing_is_refused_whatever_calls_usually_take() {
        let runs = Runs::default();
        runs.note(ms(500), Instant::now());
        assert_eq!(refusal(0, &runs, ms(100)), None);
        assert_eq!(refusal(5, &runs, ms(100)), None, "5 ms are not noticed");
        assert!(refusal(10, &runs, ms(100)).is_some());
    }

    #[test]
    fn a_handler_begins_before_its_deadline_or_not_at_all() {
        let (admission, runs, began) =
            (Arc::new(Admission::new(2)), Runs::default(), Instant::now());
        let ticket = || admission.join(Pool::Threads, Some(began));
        let waiting = || admission.threads.waiting.load(Relaxed);
        let held = ticket();
        assert_eq!(waiting(), 1);
        let deadline = began + ms(100);
        assert!(ticket().begin(&runs, deadline, began + ms(99)).is_ok());
        let refused = ticket().begin(&runs, deadline, deadline).unwrap_err();
        assert_eq!(refused, Refusal { left: Duration::ZERO, wait: ms(100) });
        // It has waited, and would not end in time.
        runs.note(ms(30), began + ms(50));
        assert!(ticket().begin(&runs, deadline, began + ms(60)).is_ok());
        let refused = ticket().begin(&runs, deadline, began + ms(80)).unwrap_err();
        assert_eq!(refused, Refusal { left: ms(20), wait: ms(80) });
        assert!(ticket().begin(&runs, began + ms(20), began).is_ok(), "it has not waited");
        drop(held);
        assert_eq!(waiting(), 0);
    }

    #[test]
    fn the_runtime_is_busy_while_handlers_wait() {
        let (now, runs) = (Instant::now(), Runs::default());
        let admission = Arc::new(Admission { tasks: line(0, now), ..Admission::new(2) });
        let look = || {
            admission.refusal(Pool::Tasks, &runs, ms(1000), now);
            admission.is_busy()
        };
        assert!(!look());
        let mut tickets: Vec<_> = (0..10).map(|_| admission.join(Pool::Tasks, None)).collect();
        assert!(look());
        // Also if nobody looks any more.
        tickets.clear();
        assert!(!admission.is_busy());
    }

    #[test]
    fn the_margin_grows_with_late_calls_only() {
        let margin = Margin::default();
        assert_eq!(margin.of(ms(10)), ms(20));
        margin.note(false);
        assert_eq!(margin.of(ms(10)), ms(20), "not less");
        (0..100).for_each(|_| margin.note(true));
        assert_eq!(margin.of(ms(10)), ms(80), "not more");
        (0..2000).for_each(|_| margin.note(false));
        assert_eq!(margin.of(ms(10)), ms(20));
        (0..10_000).for_each(|n| margin.note(n % 33 == 0));
        assert!((3 * SCALE..6 * SCALE).contains(&margin.0.load(Relaxed)), "{margin:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_has_waited_and_ends_late_counts() {
        let (admission, runs) = (Arc::new(Admission::new(2)), Runs::default());
        let margin = || admission.margin.0.load(Relaxed);
        let (least, now) = (margin(), Instant::now());
        let begun = |waited| {
            let ticket = admission.join(Pool::Tasks, Some(now - waited));
            ticket.begin(&runs, now + ms(50), now).unwrap()
        };
        let all = [begun(ms(50)), begun(ms(50)), begun(ms(1))];
        let cancelled = begun(ms(50));
        drop(cancelled);
        tokio::time::advance(ms(50)).await;
        let [late, in_time, has_not_waited] = all;
        drop(has_not_waited);
        assert_eq!(margin(), least);
        drop(late);
        let more = margin();
        assert!(more > least);
        in_time.end();
        assert!(margin() < more);
    }
}
