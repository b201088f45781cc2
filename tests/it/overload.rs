//! A server that is sent twice as many calls as it can answer: it goes on answering as many as ever, and refuses the others.
//!
//! The best throughput is measured first, and once more at the end: clients that call again as soon as they have an answer. In between come
//! twice as many calls, each with a deadline, whatever becomes of them. That takes `WITRPC_OVERLOAD_SECS` seconds (default 1) for each
//! kind of handler. A short run shows that nothing collapses; one of ten seconds or more has to keep 90 % of the best. It prints what it
//! has measured.

use std::fmt;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use witrpc::prelude::*;
use witrpc::{Call, Error};

use crate::fixture::{Flavor, GUARD, alone, files, no_rescues, private_directory, runtime, watch};
use crate::peer::{Part, Peer, Stage};
use crate::soak::setting;

/// Clients, each with a connection of its own.
const CLIENTS: u32 = 4;
/// Calls in flight of each of them while the best is measured.
const TASKS: u64 = 16;
/// What a call computes, on a processor that does nothing else.
const WORK: Duration = Duration::from_millis(1);
/// The time that each call has.
const DEADLINE: Duration = Duration::from_millis(100);
/// How much later than its deadline a handler may begin: the system may take the processor away from its thread right before.
const PREEMPTED: Duration = Duration::from_millis(50);
/// From this length on a run tells a lower throughput from chance.
const LONG: Duration = Duration::from_secs(10);

#[witrpc::service]
trait Mill {
    /// Computes without an await.
    async fn grind(&self) -> witrpc::Result<u64>;
    /// Waits, and then computes.
    async fn steep(&self) -> witrpc::Result<u64>;
    /// Computes on a thread for blocking work.
    #[witrpc(blocking)]
    async fn press(&self) -> witrpc::Result<u64>;
    /// How many handlers have begun, and how many of them [`PREEMPTED`] after their deadline.
    async fn begun(&self) -> witrpc::Result<(u64, u64)>;
}

struct Miller {
    /// So many rounds take as long as [`WORK`].
    rounds: u64,
    begun: AtomicU64,
    late: AtomicU64,
}

impl Miller {
    fn new() -> Self {
        // The fastest of some: others may compute, too.
        let rounds = 20_000;
        let took = (0..50).map(|_| {
            let began = Instant::now();
            black_box(turn(black_box(rounds)));
            began.elapsed()
        });
        let took = took.min().unwrap().as_nanos().max(1);
        let rounds = (u128::from(rounds) * WORK.as_nanos() / took) as u64;
        Self { rounds, begun: AtomicU64::new(0), late: AtomicU64::new(0) }
    }

    fn begin(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let deadline = CallContext::current().deadline();
        if deadline.is_some_and(|deadline| deadline + PREEMPTED < Instant::now()) {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Computes.
fn turn(rounds: u64) -> u64 {
    (0..rounds).fold(1, |x, n| (x ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23))
}

impl Mill for Miller {
    async fn grind(&self) -> witrpc::Result<u64> {
        self.begin();
        Ok(turn(self.rounds))
    }

    async fn steep(&self) -> witrpc::Result<u64> {
        self.begin();
        sleep(Duration::from_millis(5)).await;
        Ok(turn(self.rounds))
    }

    async fn press(&self) -> witrpc::Result<u64> {
        self.begin();
        Ok(turn(self.rounds))
    }

    async fn begun(&self) -> witrpc::Result<(u64, u64)> {
        Ok((self.begun.load(Ordering::Relaxed), self.late.load(Ordering::Relaxed)))
    }
}

fn file(directory: &Path) -> MemoryMappedFile {
    MemoryMappedFile::new("mill").with_directory(directory).with_max_clients(CLIENTS)
}

/// The server's process.
pub(crate) async fn serve(mut stage: Stage) {
    let (kind, directory): (Kind, PathBuf) = stage.hear().await.unwrap();
    // Windows does not say what a thread has computed.
    let few = (kind == Kind::FewThreads || cfg!(windows)).then(|| {
        let threads = 2 * std::thread::available_parallelism().unwrap().get();
        Builder::new_multi_thread().enable_all().max_blocking_threads(threads).build().unwrap()
    });
    let entered = few.as_ref().map(|few| few.enter());
    let builder = WitServerBuilder::new().with_memory_mapped_file(file(&directory));
    let server = builder.with_service(MillServer::new(Miller::new())).build().unwrap();
    server.start_waiting_for_connection().await.unwrap();
    drop(entered);
    stage.tell(&());
    // Until the other process closes its end.
    while let Some(()) = stage.hear().await {}
    server.stop_waiting_for_connection().await;
    if let Some(few) = few {
        few.shutdown_background();
    }
}

/// What the clients call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    /// Async handlers that compute.
    Computing,
    /// Async handlers that compute after they have waited.
    Waiting,
    /// Blocking handlers that compute.
    Blocking,
    /// The same on a pool of few threads.
    FewThreads,
    /// The first three: a client for each, and one that calls all of them in turn.
    Mixed,
}

impl Kind {
    /// The `n`th call of a client.
    fn call(self, mill: &MillClient, client: u32, n: u64) -> Call<witrpc::Result<u64>> {
        let kind = match (self, client, n % 3) {
            (Self::Mixed, 0, _) | (Self::Mixed, 3, 0) => Self::Computing,
            (Self::Mixed, 1, _) | (Self::Mixed, 3, 1) => Self::Waiting,
            (Self::Mixed, ..) => Self::Blocking,
            (kind, ..) => kind,
        };
        match kind {
            Self::Computing => mill.grind(),
            Self::Waiting => mill.steep(),
            _ => mill.press(),
        }
    }
}

/// What became of calls.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    answered: u64,
    refused: u64,
    /// Neither answered nor refused until their deadline.
    timed_out: u64,
    /// How long the refusals took: all together, and the longest.
    all: Duration,
    longest: Duration,
}

impl Counts {
    fn count(&mut self, result: &witrpc::Result<u64>, took: Duration) {
        match result {
            Ok(_) => self.answered += 1,
            Err(Error::Overloaded { .. }) => {
                self.refused += 1;
                self.all += took;
                self.longest = self.longest.max(took);
            }
            Err(Error::TimedOut { .. }) => self.timed_out += 1,
            Err(error) => panic!("{error}"),
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, refused, timed_out, all, longest } = self;
        let mean = all.checked_div(*refused as u32).unwrap_or_default();
        write!(
            f,
            "{answered} answered, {refused} refused (after {mean:.1?}, the last after {longest:.1?}), {timed_out} timed out"
        )
    }
}

/// So many in this time, per second.
fn per_second(count: u64, time: Duration) -> u64 {
    (u128::from(count) * 1_000_000 / time.as_micros()) as u64
}

struct Mills {
    clients: Vec<WitClient>,
    kind: Kind,
}

impl Mills {
    async fn connect(directory: &Path, kind: Kind) -> Self {
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let builder = WitClientBuilder::new().with_memory_mapped_file(file(directory));
            let client = builder.build().unwrap();
            client.connect(GUARD).await.unwrap();
            clients.push(client);
        }
        Self { clients, kind }
    }

    fn mills(&self) -> impl Iterator<Item = (u32, MillClient)> {
        (0..).zip(self.clients.iter().map(WitClient::get_service))
    }

    /// Calls answered per second, if the next call of a task follows upon its answer.
    async fn best(&self, duration: Duration) -> u64 {
        let (kind, answered, began) = (self.kind, Arc::new(AtomicU64::new(0)), Instant::now());
        let mut tasks = JoinSet::new();
        for (client, mill) in self.mills() {
            for task in 0..TASKS {
                let (mill, answered) = (mill.clone(), Arc::clone(&answered));
                tasks.spawn(async move {
                    for n in task.. {
                        if began.elapsed() >= duration {
                            return;
                        }
                        kind.call(&mill, client, n).with_timeout(GUARD).await.unwrap();
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        }
        tasks.join_all().await;
        per_second(answered.load(Ordering::Relaxed), began.elapsed())
    }

    /// Makes so many calls per second, whatever becomes of them.
    async fn flood(&self, calls: u64, duration: Duration) -> Counts {
        let (kind, counts) = (self.kind, Arc::new(Mutex::new(Counts::default())));
        let interval = Duration::from_secs(1) * CLIENTS / calls as u32;
        let began = Instant::now();
        let mut floods = JoinSet::new();
        for (client, mill) in self.mills() {
            let counts = Arc::clone(&counts);
            floods.spawn(async move {
                let mut calls = JoinSet::new();
                let (mut next, mut n) = (began + interval * client / CLIENTS, 0);
                while next < began + duration {
                    sleep_until(next).await;
                    // All that are due: a timer is not as precise.
                    while next <= Instant::now() {
                        let call = kind.call(&mill, client, n).with_timeout(DEADLINE);
                        let counts = Arc::clone(&counts);
                        calls.spawn(async move {
                            let began = Instant::now();
                            let result = call.await;
                            counts.lock().unwrap().count(&result, began.elapsed());
                        });
                        (next, n) = (next + interval, n + 1);
                    }
                    while let Some(ended) = calls.try_join_next() {
                        ended.unwrap();
                    }
                }
                calls.join_all().await;
            });
        }
        floods.join_all().await;
        *counts.lock().unwrap()
    }

    async fn begun(&self) -> (u64, u64) {
        self.mills().next().unwrap().1.begun().await.unwrap()
    }
}

fn overload(kind: Kind) {
    if !alone() {
        return;
    }
    watch();
    let duration = Duration::from_secs(setting("WITRPC_OVERLOAD_SECS", 1));
    let directory = private_directory();
    let path = directory.path().to_owned();
    let measured = runtime(Flavor::MultiThread).block_on(async {
        let mut server = Peer::start(&Part::player(&path, Flavor::MultiThread, "grinds"));
        server.tell(&(kind, path.clone()));
        let Some(()) = server.hear().await else { panic!("the server has gone") };
        let measuring = timeout(2 * duration + GUARD, measure(kind, &path, duration));
        let measured = measuring.await.expect("a call never ends");
        server.leaves().await;
        measured
    });
    no_rescues();
    assert_eq!(files(directory.path()), [""; 0], "left behind");
    measured.judge(kind, duration);
}

async fn measure(kind: Kind, directory: &Path, duration: Duration) -> Measured {
    let mills = Mills::connect(directory, kind).await;
    let apart = (duration / 5).max(Duration::from_millis(500));
    // Before the second measurement, all is as it will be.
    mills.best(apart).await;
    let before = mills.best(apart).await;
    let (begun, late) = mills.begun().await;
    let counts = mills.flood(2 * before, duration).await;
    let (begun_then, late_then) = mills.begun().await;
    let after = mills.best(apart).await;
    for client in mills.clients {
        client.disconnect().await;
    }
    Measured { before, after, counts, begun: begun_then - begun, late: late_then - late }
}

struct Measured {
    before: u64,
    after: u64,
    counts: Counts,
    begun: u64,
    late: u64,
}

impl Measured {
    fn judge(&self, kind: Kind, duration: Duration) {
        let Self { before, after, counts, begun, late } = self;
        let throughput = per_second(counts.answered, duration);
        let percent = throughput * 100 / before;
        eprintln!(
            "overload: {kind:?}, {duration:?}: best {before}/s, after it {after}/s; with twice as many {throughput}/s, {percent} %; \
             {counts}; {begun} begun, {late} of them late"
        );
        let all = counts.answered + counts.refused + counts.timed_out;
        assert!(counts.refused > 0, "nothing was refused");
        assert!(late * 100 <= *begun, "handlers began after their deadlines");
        assert!(counts.answered * 2 >= *begun, "most work was for nothing");
        let is_long = duration >= LONG;
        assert!(!is_long || counts.timed_out * 10 <= all, "too many were not refused");
        // What the machine can do may have changed meanwhile.
        let (best, least) = (before.min(after), if is_long { 90 } else { 10 });
        assert!(throughput * 100 >= least * best, "{throughput}/s is less than {least} %");
    }
}

#[test]
fn handlers_that_compute() {
    overload(Kind::Computing);
}

#[test]
fn handlers_that_wait_and_compute() {
    overload(Kind::Waiting);
}

#[test]
fn blocking_handlers() {
    overload(Kind::Blocking);
}

#[test]
fn blocking_handlers_on_few_threads() {
    overload(Kind::FewThreads);
}

#[test]
fn handlers_of_all_kinds() {
    overload(Kind::Mixed);
}
