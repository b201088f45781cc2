//! Everything at once, for any length of time: calls, blobs, events, streams, calls within calls, cancelled calls, deadlines, reconnects,
//! restarts of the server and killed clients. Every result is checked, and so is what is held at the end.
//!
//! It runs for `WITRPC_SOAK_SECS` seconds (default 3), and reports its progress once a minute. The traffic follows from
//! `WITRPC_SOAK_SEED`, which is printed; its timing does not. The traffic is paced, so that the test can run beside other work.
//! docs/reliability.md says how to run it for an hour, and gives the results of such runs.

mod service;
mod worker;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::fixture::{Flavor, GUARD, files, no_rescues, private_directory, runtime, watch};
use crate::peer::{Part, Peer};
use crate::system::{anonymous_kib, descriptors};

pub(crate) use service::serve;
pub(crate) use worker::work;

/// Processes with clients, beside those that are killed.
const WORKERS: u32 = 2;
/// Clients in each of them.
const CLIENTS: u32 = 2;
/// No process holds as much at any time, whatever the traffic.
const MOST_ANONYMOUS: u64 = 192 << 10;
/// How much more a process may hold in the last quarter of a long run than in the second, in KiB.
const DRIFT: u64 = 8 << 10;
/// From this length on a run tells drift from chance.
const LONG: Duration = Duration::from_secs(600);

#[test]
fn plain() {
    soak(false);
}

#[test]
fn encrypted() {
    soak(true);
}

/// What a child is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Plan {
    directory: PathBuf,
    encrypted: bool,
    seed: u64,
    worker: u32,
}

/// What a child is told next. It answers each with its [`Vitals`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Command {
    Measure,
    /// The server is to go, in one way or the other, and to come again.
    Restart,
    Stop,
}

/// How a process is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Vitals {
    anonymous_kib: u64,
    descriptors: usize,
    /// All that its connections hold, and handlers that run.
    held: u64,
    rescues: u64,
    counts: Counts,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Counts {
    calls: u64,
    blob_bytes: u64,
    events: u64,
    lagged: u64,
    /// Of streams, in both directions.
    items: u64,
    /// Calls within calls.
    nested: u64,
    cancels: u64,
    deadlines: u64,
    reconnects: u64,
    /// Connections that ended without our doing.
    lost: u64,
    /// Operations that a lost connection ended.
    interrupted: u64,
    /// What may not be.
    anomalies: Vec<String>,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.blob_bytes += other.blob_bytes;
        self.events += other.events;
        self.lagged += other.lagged;
        self.items += other.items;
        self.nested += other.nested;
        self.cancels += other.cancels;
        self.deadlines += other.deadlines;
        self.reconnects += other.reconnects;
        self.lost += other.lost;
        self.interrupted += other.interrupted;
        self.anomalies.extend_from_slice(&other.anomalies);
    }
}

impl Vitals {
    fn measure(held: u64, counts: Counts) -> Self {
        Self {
            anonymous_kib: anonymous_kib(),
            descriptors: descriptors(),
            held,
            rescues: witrpc_runtime::rescue::count(),
            counts,
        }
    }
}

pub(crate) fn setting<T: std::str::FromStr>(name: &str, default: T) -> T {
    std::env::var(name).map_or(default, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} = {text:?}: give a number"))
    })
}

fn soak(encrypted: bool) {
    watch();
    let duration = Duration::from_secs(setting("WITRPC_SOAK_SECS", 3));
    let seed = setting("WITRPC_SOAK_SEED", fastrand::u64(..));
    let directory = private_directory();
    let path = directory.path().to_owned();
    eprintln!("soak: WITRPC_SOAK_SEED={seed}, encrypted: {encrypted}, for {duration:?}");
    runtime(Flavor::MultiThread).block_on(async {
        let plan = Plan { directory: path, encrypted, seed, worker: 0 };
        // No time limit on the whole but this: each step has its own.
        let limit = duration + 3 * GUARD;
        tokio::time::timeout(limit, Soak::new(plan, duration).run()).await.expect("it hangs");
    });
    no_rescues();
    assert_eq!(files(directory.path()), [""; 0], "left behind");
}

/// A child, and how it has been.
struct Process {
    name: String,
    peer: Peer,
    first: Vitals,
    last: Vitals,
    anonymous: Vec<u64>,
}

impl Process {
    async fn start(scenario: &str, flavor: Flavor, plan: &Plan) -> Self {
        let mut peer = Peer::start(&Part::player(&plan.directory, flavor, scenario));
        peer.tell(plan);
        let first: Vitals = peer.hear().await.expect("the child has gone");
        let name = format!("{scenario} {}, process {}", plan.worker, peer.id());
        Self { name, peer, last: first.clone(), first, anonymous: Vec::new() }
    }

    async fn command(&mut self, command: Command) {
        self.peer.tell(&command);
        let answer = tokio::time::timeout(GUARD, self.peer.hear()).await;
        let answer = answer.unwrap_or_else(|_| panic!("{} hangs: {command:?}", self.name));
        self.last = answer.unwrap_or_else(|| panic!("{} has gone: {command:?}", self.name));
        assert_eq!(self.last.rescues, 0, "wake-ups were lost");
        assert!(self.last.anonymous_kib < MOST_ANONYMOUS, "{:?}", self.last);
        self.anonymous.push(self.last.anonymous_kib);
    }

    /// How much more it held in the last quarter of all measurements than in the second.
    fn drift(&self) -> i64 {
        let quarter = |n: usize| {
            let (from, to) = (self.anonymous.len() * n / 4, self.anonymous.len() * (n + 1) / 4);
            let mut quarter = self.anonymous[from..to].to_vec();
            quarter.sort_unstable();
            quarter.get(quarter.len() / 2).map_or(0, |kib| kib.cast_signed())
        };
        quarter(3) - quarter(1)
    }
}

struct Soak {
    plan: Plan,
    duration: Duration,
    rng: fastrand::Rng,
    restarts: u64,
    killed: u64,
}

impl Soak {
    fn new(plan: Plan, duration: Duration) -> Self {
        let rng = fastrand::Rng::with_seed(plan.seed);
        Self { plan, duration, rng, restarts: 0, killed: 0 }
    }

    async fn run(mut self) {
        let mut server = Process::start("soak_server", Flavor::MultiThread, &self.plan).await;
        let mut workers = Vec::new();
        for worker in 0..WORKERS {
            let flavor = if worker == 0 { Flavor::MultiThread } else { Flavor::CurrentThread };
            let plan = Plan { worker, ..self.plan.clone() };
            workers.push(Process::start("soak_worker", flavor, &plan).await);
        }
        self.disturb(&mut server, &mut workers).await;
        let mut total = Counts::default();
        for worker in &mut workers {
            worker.command(Command::Stop).await;
            total.add(&worker.last.counts);
        }
        self.tell("end", &server, &workers);
        // What killed clients left is swept by a server that starts.
        self.restart(&mut server).await;
        let deadline = Instant::now() + GUARD;
        while (server.last.held, server.last.descriptors) != (0, server.first.descriptors) {
            assert!(Instant::now() < deadline, "held: {:?}, not {:?}", server.last, server.first);
            server.command(Command::Measure).await;
        }
        server.command(Command::Stop).await;
        total.add(&server.last.counts);
        self.judge(&server, &workers, &total);
        for process in workers.into_iter().chain([server]) {
            process.peer.leaves().await;
        }
    }

    /// Measures, restarts the server, and kills clients, now and then.
    async fn disturb(&mut self, server: &mut Process, workers: &mut [Process]) {
        let began = Instant::now();
        let minute = Duration::from_secs(60);
        let (mut told, mut restarted, mut killed) = (began, began, began);
        // Short runs have one of each, too.
        let every = |most: u64| Duration::from_secs(most).min(self.duration / 3);
        let (restart_every, kill_every) = (every(45), every(20));
        while began.elapsed() < self.duration {
            sleep(Duration::from_secs(2).min(self.duration / 10)).await;
            for process in workers.iter_mut().chain([&mut *server]) {
                process.command(Command::Measure).await;
            }
            if killed.elapsed() >= kill_every {
                killed = Instant::now();
                self.kill_one().await;
            }
            if restarted.elapsed() >= restart_every {
                restarted = Instant::now();
                self.restart(server).await;
            }
            if told.elapsed() >= minute {
                told = Instant::now();
                self.tell(&format!("{} s", began.elapsed().as_secs()), server, workers);
            }
        }
    }

    async fn restart(&mut self, server: &mut Process) {
        server.command(Command::Restart).await;
        self.restarts += 1;
    }

    /// A client's process that is killed in the middle of what it does.
    async fn kill_one(&mut self) {
        self.killed += 1;
        let worker = WORKERS + u32::try_from(self.killed).unwrap();
        let plan = Plan { worker, ..self.plan.clone() };
        let mut peer =
            Peer::start(&Part::player(&plan.directory, Flavor::MultiThread, "soak_worker"));
        peer.tell(&plan);
        if self.rng.bool() {
            // Else it is killed wherever it is on its way to its first call.
            let started: Option<Vitals> = peer.hear().await;
            assert!(started.is_some(), "a child has gone");
        }
        sleep(Duration::from_millis(self.rng.u64(0..200))).await;
        peer.kill();
    }

    fn tell(&self, at: &str, server: &Process, workers: &[Process]) {
        let mut counts = Counts::default();
        workers.iter().for_each(|worker| counts.add(&worker.last.counts));
        let of = |process: &Process| {
            format!("{} KiB/{} fds", process.last.anonymous_kib, process.last.descriptors)
        };
        let workers: Vec<_> = workers.iter().map(of).collect();
        eprintln!(
            "soak: {at}: {} calls, {} MiB of blobs, {} events ({} lagged), {} items, {} nested, {} cancelled, {} deadlines, \
             {} reconnects, {} interrupted, {} restarts, {} killed, {} anomalies; \
             server {}, workers {}",
            counts.calls,
            counts.blob_bytes >> 20,
            counts.events,
            counts.lagged,
            counts.items,
            counts.nested,
            counts.cancels,
            counts.deadlines,
            counts.reconnects,
            counts.interrupted,
            self.restarts,
            self.killed,
            counts.anomalies.len(),
            of(server),
            workers.join(", "),
        );
    }

    fn judge(&self, server: &Process, workers: &[Process], total: &Counts) {
        assert_eq!(total.anomalies, [""; 0], "WITRPC_SOAK_SEED={}", self.plan.seed);
        let restarts_seen = self.restarts * u64::from(WORKERS * CLIENTS);
        assert!(total.lost <= restarts_seen, "{} lost, {restarts_seen} expected", total.lost);
        for (what, count) in HashMap::from([
            ("calls", total.calls),
            ("bytes of blobs", total.blob_bytes),
            ("events", total.events),
            ("items", total.items),
            ("calls within calls", total.nested),
            ("cancelled calls", total.cancels),
            ("deadlines", total.deadlines),
            ("reconnects", total.reconnects),
        ]) {
            assert!(count > 0, "there were no {what}");
        }
        for process in [server].into_iter().chain(workers) {
            let name = &process.name;
            eprintln!(
                "soak: {name}: anonymous memory {} KiB at first, {} at most, {:+} from the second quarter to the last",
                process.first.anonymous_kib,
                process.anonymous.iter().max().unwrap(),
                process.drift()
            );
            let drifts = process.drift() > DRIFT.cast_signed();
            assert!(self.duration < LONG || !drifts, "{name}: {:?}", process.anonymous);
        }
    }
}

impl Plan {
    fn file(&self, directory: &Path) -> witrpc::MemoryMappedFile {
        witrpc::MemoryMappedFile::new("soak").with_directory(directory).with_max_clients(16)
    }
}
