//! The task that keeps the workers of a pool: it starts and ends them as their calls need it.
//!
//! It looks at all of them whenever something has happened, and at times. A worker begins as a *spare*, which gets no calls. It becomes *active*
//! where one is needed, and *leaves* when it is not needed any more, or has done enough: it gets no further calls, and ends when it has done
//! those that it has. A worker whose process dies is replaced by its own policy; a spare takes its place meanwhile. One that has been given
//! up by that policy is replaced after a delay that grows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use witrpc_core::Error;
use witrpc_core::text::Escaped;
use witrpc_runtime::PoolMember;

use crate::pool::crew::{Crew, Hand};
use crate::pool::role::MemberRole::{Active, Leaving, Spare};
use crate::restart::{History, Next, RestartPolicy};
use crate::sys;
use crate::worker::{Worker, WorkerBuilder};

/// How often the memory of the workers is looked at.
const MEMORY: Duration = Duration::from_secs(1);
/// The pause before another call is woken for which there is room, if the one that was woken does not come.
const NEXT: Duration = Duration::from_millis(1);
/// How long a worker may take to end that has no calls any more. Then it is ended by signals.
const FAREWELL: Duration = Duration::from_secs(2);

/// Makes the builders of a pool's workers.
pub(crate) type Make = dyn Fn() -> WorkerBuilder + Send + Sync;

/// How many workers there are, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) min: usize,
    pub(crate) max: usize,
    pub(crate) spares: usize,
    pub(crate) calls_per_worker: Option<usize>,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_calls: Option<u64>,
    pub(crate) max_memory: Option<u64>,
    /// How long a worker that leaves may take for the calls that it has.
    pub(crate) drain_timeout: Duration,
}

/// The task's data. Dropping it ends the workers.
/// Many fields: what the task knows from one look to the next, which nobody else does.
pub(crate) struct Keeper {
    crew: Arc<Crew>,
    make: Arc<Make>,
    limits: Limits,
    tasks: JoinSet<Done>,
    /// How many of the tasks start a worker.
    starting: usize,
    failures: History,
    /// Before this time, no worker is started: the last one failed.
    not_before: Instant,
    /// The most calls at once in the last half of the idle time-out, and in the half before that.
    peaks: [usize; 2],
    last_peak: Instant,
    last_memory: Instant,
    /// Whose memory exceeded the limit when it was looked at.
    too_large: Vec<PoolMember>,
    /// Whether a call was woken for which there is room.
    has_woken: bool,
}

impl Limits {
    /// How many workers this many calls need.
    fn workers_for(&self, calls: usize) -> usize {
        calls.div_ceil(self.calls_per_worker.unwrap_or(1))
    }
}

enum Done {
    Started(Box<Result<Worker, Error>>),
    Left(Box<Hand>),
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.crew.end();
    }
}

impl Keeper {
    pub(crate) fn new(crew: Arc<Crew>, make: Arc<Make>, limits: Limits) -> Self {
        let now = Instant::now();
        Self {
            crew,
            make,
            limits,
            tasks: JoinSet::new(),
            starting: 0,
            failures: History::new(RestartPolicy::always().with_limit(0, Duration::from_secs(60))),
            not_before: now,
            peaks: [0; 2],
            last_peak: now,
            last_memory: now,
            too_large: Vec::new(),
            has_woken: false,
        }
    }

    /// Starts the workers that there are at first, all at once.
    ///
    /// # Errors
    ///
    /// That of the first one that cannot be started. Then there is none.
    pub(crate) async fn start(&mut self) -> Result<(), Error> {
        for _ in 0..self.limits.min + self.limits.spares {
            self.start_one();
        }
        while let Some(done) = self.next_done().await {
            if let Done::Started(started) = done {
                self.crew.add((*started)?)?;
            }
        }
        self.tune();
        Ok(())
    }

    pub(crate) async fn keep(mut self) {
        loop {
            let crew = Arc::clone(&self.crew);
            let look = self.next_look();
            tokio::select! {
                biased;
                grace = crew.stopped() => return self.shut_down(grace).await,
                Some(done) = self.next_done() => self.handle(done),
                () = crew.changed.notified() => {}
                () = crew.clients.demand() => {}
                () = sleep(look) => {}
            }
            self.measure();
            self.tune();
        }
    }

    fn start_one(&mut self) {
        self.starting += 1;
        let make = Arc::clone(&self.make);
        self.tasks.spawn(async move {
            let builder = make().with_restart_by_default(RestartPolicy::always());
            Done::Started(Box::new(builder.spawn().await))
        });
    }

    /// The outcome of the next task that ends. `None` if there is none.
    async fn next_done(&mut self) -> Option<Done> {
        let done = self.tasks.join_next().await?;
        let done = done.unwrap_or_else(|panicked| {
            // Only the user's function does.
            let panicked =
                Error::fault(format_args!("the function of Pool::of_workers: {panicked}"));
            Done::Started(Box::new(Err(panicked)))
        });
        if let Done::Started(_) = done {
            self.starting -= 1;
        }
        Some(done)
    }

    fn handle(&mut self, done: Done) {
        match done {
            Done::Started(started) => {
                let added = started.and_then(|worker| self.crew.add(worker));
                if let Err(error) = added {
                    tracing::warn!(error = %Escaped(&error), "a worker of a pool could not be started");
                    self.has_failed();
                }
            }
            Done::Left(hand) => self.crew.remove(&hand),
        }
    }

    /// No worker is started for a while.
    fn has_failed(&mut self) {
        let now = Instant::now();
        if let Next::Restart { delay, .. } = self.failures.next(true, now) {
            self.not_before = self.not_before.max(now + delay);
        }
    }

    /// When the workers are to be looked at although nothing has happened.
    fn next_look(&self) -> Duration {
        let now = Instant::now();
        let mut looks = Vec::new();
        if self.has_woken {
            looks.push(now + NEXT);
        }
        if self.shrinks() {
            looks.push(self.last_peak + self.half());
        }
        if self.limits.max_memory.is_some() {
            looks.push(self.last_memory + MEMORY);
        }
        if self.not_before > now {
            looks.push(self.not_before);
        }
        let left = |look: Instant| look.saturating_duration_since(now);
        looks.into_iter().map(left).min().unwrap_or(Duration::from_secs(3600))
    }

    fn half(&self) -> Duration {
        (self.limits.idle_timeout / 2).max(Duration::from_millis(1))
    }

    const fn shrinks(&self) -> bool {
        self.limits.min < self.limits.max
    }

    /// Looks at what changes by itself.
    fn measure(&mut self) {
        let now = Instant::now();
        if self.shrinks() && now.duration_since(self.last_peak) >= self.half() {
            self.last_peak = now;
            self.peaks = [self.crew.clients.take_peak(), self.peaks[0]];
            self.shrink();
        }
        let Some(limit) = self.limits.max_memory else { return };
        if now.duration_since(self.last_memory) >= MEMORY {
            self.last_memory = now;
            let hands = self.crew.hands();
            let size = |hand: &Hand| hand.worker.process_id().and_then(sys::memory_of);
            let large = hands.iter().filter(|hand| size(hand).is_some_and(|size| size > limit));
            self.too_large = large.map(|hand| hand.member.clone()).collect();
        }
    }

    /// Lets workers leave that were not needed for the idle time-out.
    fn shrink(&mut self) {
        let hands = self.crew.hands();
        let active: Vec<_> = hands.iter().filter(|hand| hand.role == Active).collect();
        let in_flight = active.iter().map(|hand| hand.member.in_flight()).sum::<usize>();
        let calls = in_flight.max(self.peaks[0]).max(self.peaks[1]);
        let needed = self.limits.min.max(self.limits.workers_for(calls));
        let is_idle = |hand: &&&Hand| {
            hand.member.in_flight() == 0 && hand.worker.client().load().streams == 0
        };
        let spare = active.iter().rev().filter(is_idle).take(active.len().saturating_sub(needed));
        for hand in spare {
            self.dismiss(hand);
        }
    }

    /// Brings the workers to what is needed now.
    fn tune(&mut self) {
        self.note_ends();
        let hands = self.crew.hands();
        let (mut active, mut spares) = (Vec::new(), Vec::new());
        for hand in &hands {
            match hand.role {
                Active => active.push(hand),
                Spare => spares.push(hand),
                Leaving => {}
            }
        }
        let Limits { min, max, .. } = self.limits;
        let clients = &self.crew.clients;
        let demand =
            active.iter().map(|hand| hand.member.in_flight()).sum::<usize>() + clients.waiting();
        let wanted = min.max(self.limits.workers_for(demand).min(max)).max(active.len().min(max));
        let (mut ready, down): (Vec<_>, Vec<_>) =
            spares.into_iter().partition(|hand| hand.is_ready());
        let mut down = down.len();
        ready.reverse();
        // In the places of those that died, which stand by when they are back.
        for hand in active.iter().filter(|hand| !hand.is_ready()) {
            let Some(spare) = ready.pop() else { break };
            hand.member.refuse();
            self.crew.change(hand, |hand| hand.role = Spare);
            self.activate(spare);
            down += 1;
        }
        let mut count = active.len();
        let is_beyond = |ready: &Vec<_>| ready.len() + down > self.limits.spares;
        while count < wanted || (count < max && is_beyond(&ready)) {
            let Some(spare) = ready.pop() else { break };
            self.activate(spare);
            count += 1;
        }
        // In the places of those that have done enough.
        let mut worn: Vec<_> = active.iter().filter(|hand| self.is_worn(hand)).collect();
        while let (Some(hand), Some(spare)) = (worn.last(), ready.last()) {
            self.dismiss(hand);
            self.activate(spare);
            worn.pop();
            ready.pop();
        }
        while ready.len() + down > self.limits.spares {
            let Some(spare) = ready.pop() else { break };
            self.dismiss(spare);
        }
        let lacking = wanted.saturating_sub(count) + worn.len() + self.limits.spares;
        let lacking = lacking.saturating_sub(ready.len() + down + self.starting);
        self.supply(lacking, count);
    }

    /// Notes which processes have ended, and which workers.
    fn note_ends(&mut self) {
        for hand in self.crew.hands() {
            if hand.is_over() && hand.role != Leaving {
                self.crew.remove(&hand);
                self.has_failed();
                continue;
            }
            let process_id = hand.worker.process_id();
            if process_id.is_some() && process_id != hand.process_id {
                let total = hand.member.total();
                self.crew.change(&hand, |hand| {
                    (hand.process_id, hand.calls_before) = (process_id, total);
                });
                self.too_large.retain(|large| !hand.is(large));
                hand.member.watch_total(self.limits.max_calls.map_or(0, |calls| total + calls));
            }
        }
    }

    fn is_worn(&self, hand: &Hand) -> bool {
        let is_too_large = || self.too_large.iter().any(|large| hand.is(large));
        let has_done_enough = self.limits.max_calls.is_some_and(|most| hand.calls() >= most);
        hand.is_ready() && (has_done_enough || is_too_large())
    }

    fn activate(&self, spare: &Hand) {
        self.crew.change(spare, |hand| hand.role = Active);
        self.crew.clients.accept(&spare.member);
    }

    /// Begins the end of a worker: it gets no further calls.
    fn dismiss(&mut self, hand: &Hand) {
        tracing::debug!(index = hand.member.index(), "a worker of a pool leaves");
        hand.member.refuse();
        self.crew.change(hand, |hand| hand.role = Leaving);
        let (hand, limit) = (hand.clone(), self.limits.drain_timeout);
        self.tasks.spawn(async move {
            if timeout(limit, hand.member.drained()).await.is_err() {
                tracing::warn!("a worker of a pool is ended with calls or streams");
            }
            hand.worker.shutdown(FAREWELL).await;
            Done::Left(Box::new(hand))
        });
    }

    /// Starts workers, and says whether any may come.
    fn supply(&mut self, lacking: usize, active: usize) {
        let may_start = Instant::now() >= self.not_before;
        if may_start {
            for _ in 0..lacking {
                self.start_one();
            }
        }
        let clients = &self.crew.clients;
        self.has_woken = clients.wake_next();
        // With a limit, calls wait where there are too few.
        let may_grow = active + self.starting < self.limits.max;
        clients.watch_growth(may_grow && self.limits.calls_per_worker.is_none());
        clients.measure_peak(self.shrinks());
        clients.expect(may_start || active > 0 || self.starting > 0);
    }

    /// Ends all workers: when they have done the calls that they have, or at the end of `grace`.
    async fn shut_down(mut self, grace: Duration) {
        let (crew, began) = (Arc::clone(&self.crew), Instant::now());
        crew.clients.close();
        // Those that are being started end at once. Those that leave are among the others, too.
        self.tasks.shutdown().await;
        let hands = crew.hands();
        let drained = async {
            for hand in &hands {
                hand.member.drained().await;
            }
        };
        if timeout(grace, drained).await.is_err() {
            tracing::warn!("calls or streams of a pool have not ended in time: they fail");
        }
        let rest = grace.saturating_sub(began.elapsed()).max(FAREWELL);
        let mut ends = JoinSet::new();
        for hand in hands {
            ends.spawn(async move {
                hand.worker.shutdown(rest).await;
            });
        }
        while ends.join_next().await.is_some() {}
    }
}
