//! The work of blocking handlers, and which of them wait for a processor.
//!
//! The pool for blocking work has many more threads than there are processors (512), so handlers that compute do not wait for threads. All
//! would compute at once, each slowly, until all are late, and everything else would wait between them: drivers, and the clients
//! if they are on the same machine. So this module estimates the work of the handlers that have not ended, and holds some back:
//!
//! - **P1** Work is counted in processor time. A handler that waits on its thread counts little, however long it waits.
//! - **P2** A handler is held back if its method computes ([`COMPUTES`]), and the handlers that run use all processors, and there are
//!   at least two of them for each processor. As one of them ends, the next may run.
//! - **P3** It is held back for half of the time at most that is left for its call: the handlers that run might wait for it, whatever
//!   others of their methods do. A call without a deadline is never held back.
//! - **P4** A handler is short if its method's work is less than a quarter of what the handlers that have not ended have each. A short
//!   one is not held back, and waits only while the others do as much as it: the system gives a thread that has just begun its share of
//!   the processors.
//!
//! How much of the processors handlers use is what their methods used lately. If there is more than the processors can do, each uses
//! less, so the sum never exceeds what there is. If other processes use the processors, too, the sum stays below all of them, and no
//! handler is held back.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::coop::unconstrained;
use tokio::time::timeout;
use witrpc_core::transport::BoxFuture;

use crate::serving::runs::{Runs, SCALE, nanos};

/// How many times its processor time a handler may take because processors do other work.
const MOST_CONTENDED: u64 = 4;
/// A method computes if its handlers do so for this part of their time.
const COMPUTES: u64 = SCALE / 8;
/// All processors are used if this part of them is: between two handlers a thread does something else.
const USED: u64 = SCALE * 3 / 4;
/// The fewest handlers for each processor that run.
const FOR_EACH: u64 = 2;
/// A short handler's work times this is less than the average (P4).
const SHORT: u64 = 4;

/// The blocking handlers of an endpoint that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Processors {
    handlers: AtomicU64,
    /// The work that they do together: what calls of their methods took on average, in nanoseconds.
    work: AtomicU64,
    /// How many of them may run.
    running: AtomicU64,
    /// How many processors those use, times [`SCALE`].
    used: AtomicU64,
    /// How many are held back.
    held: AtomicU64,
    /// Notified when one of them may run.
    free: Notify,
}

impl Processors {
    /// Counts a handler until it has ended.
    pub(super) fn enter(self: &Arc<Self>, runs: &Runs) -> Working {
        let work = runs.work();
        self.handlers.fetch_add(1, Relaxed);
        self.work.fetch_add(work, Relaxed);
        Working { processors: Arc::clone(self), work, used: None }
    }

    /// How much longer one more handler takes because of the others.
    pub(super) fn wait(&self, runs: &Runs) -> Duration {
        let (work, handlers) = (self.work.load(Relaxed), self.handlers.load(Relaxed));
        let own = runs.work();
        let work = if is_short(own, work, handlers) { own.saturating_mul(handlers) } else { work };
        Duration::from_nanos(shared(work, handlers, processors()))
    }

    /// Holds a handler back whose call has so much time left (P2 to P4). The result completes when it may run. It is in line from now on.
    pub(super) fn hold(
        self: &Arc<Self>,
        runs: &Runs,
        left: Duration,
    ) -> Option<BoxFuture<'static, ()>> {
        if runs.computing() < COMPUTES || self.is_short(runs) || !self.are_used() {
            return None;
        }
        let held = Held::new(self);
        let mut waiting: BoxFuture<'static, ()> = Box::pin(async move {
            drop(timeout(left / 2, held.0.free.notified()).await);
        });
        let mut nobody = Context::from_waker(Waker::noop());
        let polled = Pin::new(&mut unconstrained(waiting.as_mut())).poll(&mut nobody);
        // The last of those that run may have ended before this one was in line.
        self.let_next_run();
        polled.is_pending().then_some(waiting)
    }

    fn is_short(&self, runs: &Runs) -> bool {
        is_short(runs.work(), self.work.load(Relaxed), self.handlers.load(Relaxed))
    }

    fn are_used(&self) -> bool {
        // SeqCst, as what changes these: one that is held back is counted before it looks here, and one that ends looks for it afterwards.
        self.running.load(SeqCst) >= FOR_EACH * processors()
            && self.used.load(SeqCst) >= USED * processors()
    }

    /// Lets the next one run, if there is a processor for it.
    fn let_next_run(&self) {
        if !self.are_used() && self.held.load(SeqCst) > 0 {
            self.free.notify_one();
        }
    }
}

/// Counts a handler that is held back.
struct Held(Arc<Processors>);

impl Held {
    fn new(processors: &Arc<Processors>) -> Self {
        processors.held.fetch_add(1, SeqCst);
        Self(Arc::clone(processors))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, SeqCst);
    }
}

/// Whether a handler with so much work is short beside `handlers` that have `work` together (P4).
const fn is_short(own: u64, work: u64, handlers: u64) -> bool {
    own.saturating_mul(SHORT).saturating_mul(handlers) < work
}

/// What a handler waits for where `handlers` share `processors`. As long as there are enough, none waits.
fn shared(work: u64, handlers: u64, processors: u64) -> u64 {
    let waiting = handlers.saturating_sub(processors);
    if waiting == 0 {
        return 0;
    }
    let wait = u128::from(work / processors) * u128::from(waiting) / u128::from(handlers);
    u64::try_from(wait).unwrap_or(u64::MAX)
}

/// How many processors this process may use.
fn processors() -> u64 {
    static PROCESSORS: OnceLock<u64> = OnceLock::new();
    let count = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    *PROCESSORS.get_or_init(|| u64::try_from(count()).unwrap_or(1))
}

/// A blocking handler that has not ended.
#[derive(Debug)]
pub(crate) struct Working {
    processors: Arc<Processors>,
    work: u64,
    /// What it uses of the processors, times [`SCALE`], if it may run.
    used: Option<u64>,
}

impl Working {
    /// It may run from now on.
    pub(super) fn run(&mut self, runs: &Runs) {
        let used = runs.computing();
        self.processors.running.fetch_add(1, SeqCst);
        self.processors.used.fetch_add(used, SeqCst);
        self.used = Some(used);
        self.processors.let_next_run();
    }

    /// Begins to measure the handler, on its thread.
    pub(super) fn measure(&self) -> Measuring {
        let handlers = self.processors.handlers.load(Relaxed);
        Measuring { handlers, time: thread_time() }
    }

    /// The handler has answered after `ran`: notes what it took.
    pub(super) fn note(&self, began: &Measuring, runs: &Runs, ran: Duration) {
        let time = thread_time().zip(began.time).map(|(now, then)| now.saturating_sub(then));
        let Some(time) = time.map(nanos) else { return };
        let handlers = self.processors.handlers.load(Relaxed).midpoint(began.handlers);
        let ran = nanos(ran).max(1);
        let computing = (time.saturating_mul(SCALE) / ran).min(SCALE);
        runs.note_work(work(ran, time, handlers, processors()), computing);
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        let processors = &self.processors;
        processors.handlers.fetch_sub(1, Relaxed);
        processors.work.fetch_sub(self.work, Relaxed);
        if let Some(used) = self.used {
            processors.running.fetch_sub(1, SeqCst);
            processors.used.fetch_sub(used, SeqCst);
        }
        processors.let_next_run();
    }
}

/// The work of a handler that ran for so long beside `handlers`, itself among them: its share of the processors, of which it has used
/// `time` itself. The rest is work of other processes if it computed, and nobody's if it waited; so there is a bound.
fn work(ran: u64, time: u64, handlers: u64, processors: u64) -> u64 {
    let share = u128::from(ran) * u128::from(processors) / u128::from(handlers.max(processors));
    let share = u64::try_from(share).unwrap_or(u64::MAX);
    share.clamp(time, time.saturating_mul(MOST_CONTENDED))
}

/// The state of a thread when a handler began on it.
#[derive(Debug)]
pub(crate) struct Measuring {
    handlers: u64,
    time: Option<Duration>,
}

/// The processor time of this thread, if the system tells it.
#[cfg(unix)]
fn thread_time() -> Option<Duration> {
    rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime).try_into().ok()
}

/// It tells it in steps that are longer than most calls.
#[cfg(not(unix))]
const fn thread_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::{FOR_EACH, Processors, processors, shared, work};
    use crate::serving::runs::{Runs, SCALE};

    const MS: u64 = 1_000_000;
    const LONG: Duration = Duration::from_secs(60);

    /// A method whose handlers take 10 ms of processor time, and compute for this part of their time.
    fn runs(computing: u64) -> Runs {
        let runs = Runs::default();
        runs.note_work(10 * MS, computing);
        runs
    }

    #[test]
    fn handlers_share_the_processors() {
        assert_eq!(shared(200 * MS, 4, 4), 0, "each has one");
        assert_eq!(shared(200 * MS, 100, 2), 98 * MS);
        assert_eq!(shared(0, 1000, 2), 0, "they all wait");
        shared(u64::MAX, u64::MAX, 1);
        let (all, runs) = (Arc::new(Processors::default()), runs(SCALE));
        let working: Vec<_> = (0..10 * processors()).map(|_| all.enter(&runs)).collect();
        assert_eq!(all.wait(&runs), Duration::from_millis(90));
        drop(working);
        assert_eq!(all.wait(&runs), Duration::ZERO);
    }

    #[test]
    fn work_is_processor_time_and_what_other_processes_took_meanwhile() {
        // Alone; among fifty that compute on two processors; while other processes take half of these.
        assert_eq!(work(2 * MS, 2 * MS, 1, 2), 2 * MS);
        assert_eq!(work(50 * MS, 2 * MS, 50, 2), 2 * MS);
        assert_eq!(work(100 * MS, 2 * MS, 50, 2), 4 * MS);
        // One that waits for a second has worked a little only.
        assert_eq!(work(1000 * MS, MS, 10, 2), 4 * MS);
        assert_eq!(work(1000 * MS, 0, 10, 2), 0);
    }

    #[tokio::test]
    async fn handlers_that_compute_are_held_back_while_others_use_all_processors() {
        let (all, runs) = (Arc::new(Processors::default()), runs(SCALE));
        let mut working = Vec::new();
        let run = || {
            assert!(all.hold(&runs, LONG).is_none(), "there is a processor for it");
            let mut working = all.enter(&runs);
            working.run(&runs);
            working
        };
        (0..FOR_EACH * processors()).for_each(|_| working.push(run()));
        let mut held: Vec<_> = (0..3).map(|_| all.hold(&runs, LONG).unwrap()).collect();
        let mut nobody = Context::from_waker(Waker::noop());
        for ended in 0..3 {
            assert!(
                held[ended..].iter_mut().all(|held| held.as_mut().poll(&mut nobody).is_pending())
            );
            working.pop();
            assert_eq!(held[ended].as_mut().poll(&mut nobody), Poll::Ready(()), "in order");
            let mut next = all.enter(&runs);
            next.run(&runs);
            working.push(next);
        }
    }

    #[tokio::test]
    async fn handlers_that_wait_are_not_held_back_and_hold_back_nobody() {
        let (all, waits, computes) =
            (Arc::new(Processors::default()), runs(SCALE / 100), runs(SCALE));
        let run = |runs: &Runs| {
            let mut working = all.enter(runs);
            working.run(runs);
            working
        };
        let mut working: Vec<_> = (0..20 * processors()).map(|_| run(&waits)).collect();
        assert!(all.hold(&computes, LONG).is_none());
        working.extend((0..processors()).map(|_| run(&computes)));
        assert!(all.hold(&waits, LONG).is_none());
        assert!(all.hold(&computes, LONG).is_some());
    }

    #[tokio::test]
    async fn a_short_handler_does_not_wait_for_long_ones() {
        let (all, long) = (Arc::new(Processors::default()), runs(SCALE));
        let short = Runs::default();
        short.note_work(MS, SCALE);
        let run = || {
            let mut working = all.enter(&long);
            working.run(&long);
            working
        };
        let working: Vec<_> = (0..10 * processors()).map(|_| run()).collect();
        assert!(all.hold(&long, LONG).is_some());
        assert!(all.hold(&short, LONG).is_none());
        assert_eq!(all.wait(&long), Duration::from_millis(90));
        assert_eq!(all.wait(&short), Duration::from_millis(9), "its share is a tenth");
        drop(working);
        // Among many of its own kind, it is one of them.
        let run = || {
            let mut working = all.enter(&short);
            working.run(&short);
            working
        };
        let working: Vec<_> = (0..10 * processors()).map(|_| run()).collect();
        assert!(all.hold(&short, LONG).is_some());
        drop(working);
    }

    #[tokio::test]
    async fn nobody_is_held_back_for_long() {
        let (all, runs) = (Arc::new(Processors::default()), runs(SCALE));
        let running: Vec<_> = (0..FOR_EACH * processors())
            .map(|_| {
                let mut working = all.enter(&runs);
                working.run(&runs);
                working
            })
            .collect();
        // All of them hang, and wait for this one.
        all.hold(&runs, Duration::from_millis(20)).unwrap().await;
        drop(running);
    }

    #[cfg(unix)]
    #[test]
    fn a_thread_knows_what_it_has_computed() {
        let before = super::thread_time().unwrap();
        let sum = (0..10_000_000_u64).fold(0_u64, |x, n| std::hint::black_box(x ^ n));
        std::hint::black_box(sum);
        let computed = super::thread_time().unwrap() - before;
        std::thread::sleep(Duration::from_millis(20));
        let waited = super::thread_time().unwrap() - before - computed;
        assert!(computed > Duration::ZERO && waited < Duration::from_millis(20), "{waited:?}");
    }
}
