//! Hosts and their workers, killed at every step of launching, being ready, serving and restarting, and at any moment. After each round there is
//! no process left, and no descriptor. There are no files that could be left. The same with a host that has a pool.
//!
//! This process is the parent of the hosts, and becomes that of workers whose host has died: so it sees each process that is left, be it as a
//! zombie. A host asks its worker to fail once, so that each round has a restart.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{WaitOptions, getpid, set_child_subreaper, waitpid};
use serde::{Deserialize, Serialize};
use witrpc::prelude::*;
use witrpc::{Error, WorkerState};

use super::victim::{
    self, Book, End, Fate, Life, MortalClient, MortalServer, PATIENCE, Victim, call, exercise,
};
use super::{Plan, Tally, Who, flavor, names_of_steps};
use crate::fixture::{Flavor, alone, eventually, private_directory, runtime};
use crate::hostile::{Random, setting};
use crate::system::{descriptors, now};
use crate::tidy::sources;

const HOST: &str = "WITRPC_KILL_HOST";
const WORKER: &str = "WITRPC_KILL_WORKER";
/// Each step of both at least once.
const ROUNDS: u64 = 100;
/// The same of a host with a pool, whose rounds are longer.
const ROUNDS_OF_POOLS: u64 = 50;
/// Values of an event.
const TICKS: u64 = 20;

/// A host's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct HostPart {
    end: End,
    report: PathBuf,
    worker: WorkerPart,
    /// Whether it has a pool of two workers and a spare.
    has_pool: bool,
}

/// A worker's part. The other workers of its host live, and so do those that replace it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct WorkerPart {
    /// Which of the first two: 0, which its host asks to fail if it has no pool; or 1, which its host dismisses.
    which: u32,
    end: End,
    report: PathBuf,
    flavor: Flavor,
}

#[test]
fn whoever_of_a_host_and_its_worker_is_killed_nothing_is_left() {
    if !alone() {
        return;
    }
    let rounds = setting("WITRPC_KILL_ROUNDS", ROUNDS);
    let runtime = runtime(Flavor::MultiThread);
    let stage = Stage::new(false);
    let plans = runtime.block_on(stage.rehearse());
    let reached: BTreeSet<_> = plans.0.steps.iter().chain(&plans.1.steps).cloned().collect();
    let named: BTreeSet<_> = sources()
        .into_iter()
        .filter(|(name, _)| name.starts_with("crates/witrpc-process"))
        .flat_map(|(_, text)| names_of_steps(&text))
        .collect();
    let missed: Vec<_> = named.difference(&reached).collect();
    assert!(named.len() > 10 && missed.is_empty(), "never reached: {missed:?}");
    runtime.block_on(stage.kill(&plans, rounds));
}

#[test]
fn whoever_of_a_host_and_the_workers_of_its_pool_is_killed_nothing_is_left() {
    if !alone() {
        return;
    }
    let rounds = setting("WITRPC_KILL_ROUNDS", ROUNDS_OF_POOLS);
    let runtime = runtime(Flavor::MultiThread);
    let stage = Stage::new(true);
    let plans = runtime.block_on(stage.rehearse());
    runtime.block_on(stage.kill(&plans, rounds));
}

struct Stage {
    directory: tempfile::TempDir,
    /// How many hosts were started: each has folders of its own.
    starts: Cell<u32>,
    has_pool: bool,
}

impl Stage {
    fn new(has_pool: bool) -> Self {
        set_child_subreaper(Some(getpid())).unwrap();
        Self { directory: private_directory(), starts: Cell::new(0), has_pool }
    }

    /// Kills whom it may, and prints a table.
    async fn kill(&self, (host, worker): &(Plan, Plan), rounds: u64) {
        let mut random = Random(setting("WITRPC_KILL_SEED", 20_261_201));
        println!("| killed | rounds | at a step | at any moment | left first | p50 | p99 | max |");
        println!("|---|--:|--:|--:|--:|--:|--:|--:|");
        // The host is the client, the worker the server.
        for (who, share) in [(Who::Client, 4), (Who::Server, 4), (Who::Both, 2)] {
            let rounds = rounds * share / 10;
            let tally = self.rounds(who, host, worker, rounds, &mut random).await;
            let name = match who {
                Who::Client => "host",
                Who::Server => "worker",
                Who::Both => "both",
            };
            println!("{}", tally.row(name));
        }
    }

    /// The folder of this name for the host that was started last.
    fn folder(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{}-{name}", self.starts.get()))
    }

    /// What the worker has reported of the host that was started last.
    fn report_of_worker(&self) -> std::io::Result<String> {
        fs::read_to_string(self.folder("worker").join("report"))
    }

    fn start(&self, host: End, (which, worker): (u32, End), flavor: Flavor) -> Victim {
        self.starts.set(self.starts.get() + 1);
        let folder = |name: &str| {
            let path = self.folder(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let worker = WorkerPart { which, end: worker, report: folder("worker"), flavor };
        let report = folder("host");
        let part = HostPart { end: host, report, worker, has_pool: self.has_pool };
        let json = serde_json::to_string(&part).unwrap();
        let test = "kill::workers::a_host_plays_its_part";
        Victim::start_by(test, HOST, &json, &part.report)
    }

    /// The steps that a host and its second worker reach.
    async fn rehearse(&self) -> (Plan, Plan) {
        let began = std::time::Instant::now();
        let mut host = self.start(End::InGoodOrder, (1, End::InGoodOrder), Flavor::CurrentThread);
        assert!(matches!(host.ends().await, Fate::Left));
        let takes = began.elapsed();
        nothing_is_left("rehearsal").await;
        let of_worker = self.report_of_worker().unwrap().lines().map(str::to_owned).collect();
        (Plan::new(host.said(), takes), Plan::new(of_worker, takes))
    }

    async fn rounds(
        &self,
        who: Who,
        host: &Plan,
        worker: &Plan,
        rounds: u64,
        random: &mut Random,
    ) -> Tally {
        let mut tally = Tally::default();
        let open = descriptors();
        let least = if who == Who::Server { worker.names.len() } else { host.names.len() };
        let rounds = if who == Who::Both { rounds } else { rounds.max(least as u64) };
        for round in 0..rounds {
            let lives = (End::Outside, None);
            let [mut of_host, of_worker] = match who {
                Who::Client => [host.end(round, random), lives],
                Who::Server => [lives, worker.end(round, random)],
                // Anything.
                Who::Both => [host.end(u64::MAX, random), worker.end(u64::MAX, random)],
            };
            // A host that is not to die ends in good order.
            if who == Who::Server {
                of_host = (End::Hit(u64::MAX), None);
            }
            let text = format!("round {round}, {who:?}: {of_host:?}, {of_worker:?}");
            let moment = of_host.1;
            // A worker that is to die at any moment does so at any step.
            let of_worker = match of_worker {
                (End::Outside, Some(_)) => End::Hit(random.below(worker.steps.len() as u64)),
                (end, _) => end,
            };
            // Each step of the second one; then of either.
            let which = if round < worker.names.len() as u64 { 1 } else { random.below(2) };
            let of_worker = (which as u32, of_worker);
            let mut victim = self.start(of_host.0, of_worker, flavor(round));
            if let Some(moment) = moment {
                tokio::time::sleep(moment).await;
                victim.kill();
            }
            let fate = victim.ends().await;
            if who == Who::Server {
                assert!(matches!(fate, Fate::Left), "{text}: the host: {fate:?}");
            }
            nothing_is_left(&text).await;
            let fate = match who {
                Who::Server => self.fate_of_worker(fate),
                Who::Client | Who::Both => fate,
            };
            let noticed = matches!(fate, Fate::Killed { .. }).then(now);
            tally.count(&fate, noticed.filter(|_| who != Who::Server), &text);
            assert_eq!(descriptors(), open, "{text}");
        }
        tally
    }

    /// What the worker that was to die has reported.
    fn fate_of_worker(&self, of_host: Fate) -> Fate {
        let said = self.report_of_worker().unwrap_or_default();
        match said.lines().find_map(victim::killed) {
            Some((at, step)) => Fate::Killed { at, step: Some(step) },
            None => of_host,
        }
    }
}

/// This process has no child any more, and so has nobody below it.
async fn nothing_is_left(text: &str) {
    let childless = || loop {
        match waitpid(None, WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return false,
            Err(Errno::CHILD) => return true,
            Err(error) => panic!("{error}"),
        }
    };
    super::within(&format!("{text}: no process is left"), childless).await;
}

/// A host begins here.
#[test]
fn a_host_plays_its_part() {
    let Ok(part) = std::env::var(HOST) else { return };
    let part: HostPart = serde_json::from_str(&part).unwrap();
    victim::install(&part.end, &part.report);
    // As a process that only waits to be killed does: again and again.
    let forever = matches!(part.end, End::Outside);
    runtime(part.worker.flavor).block_on(async {
        loop {
            match part.has_pool {
                true => host_of_pool(&part.worker).await,
                false => host(&part.worker).await,
            }
            if !forever {
                break;
            }
        }
    });
}

fn command(test: &str, part: &WorkerPart) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]);
    command.env(WORKER, serde_json::to_string(part).unwrap());
    command
}

/// Two lives with a worker, the first of which the worker ends; and however many more it takes.
async fn host(part: &WorkerPart) {
    let open = descriptors();
    let starts = AtomicU32::new(0);
    let (it, other) = (part.clone(), WorkerPart { end: End::Outside, ..part.clone() });
    let start = move || {
        let is_it = starts.fetch_add(1, Ordering::SeqCst) == it.which;
        command("kill::workers::a_worker_plays_its_part", if is_it { &it } else { &other })
    };
    let start = std::sync::Arc::new(start);
    let policy = RestartPolicy::on_failure().with_initial_delay(Duration::from_millis(1));
    let worker = loop {
        let start = std::sync::Arc::clone(&start);
        let worker = Worker::new(move || start()).with_name("mortal").with_ready_timeout(PATIENCE);
        match worker.with_restart(policy.clone().with_limit(0, PATIENCE)).spawn().await {
            Ok(worker) => break worker,
            Err(Error::Exited { status, .. }) if status.is_some_and(|s| !s.success()) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let (mortal, mut book) = (worker.get_service::<MortalClient>(), Book::default());
    let mut ticked = mortal.ticked().subscribe();
    for life in 0..2 {
        while exercise(&mortal, &mut ticked, &mut book).await.is_err() {
            // Whatever values were under way are of no interest any more.
            ticked = mortal.ticked().subscribe();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if life == 0 {
            replaced(&worker, &mortal).await;
            ticked = mortal.ticked().subscribe();
        }
    }
    drop(ticked);
    worker.shutdown(PATIENCE).await;
    drop(worker);
    book_agrees(&book, &part.report);
    eventually("all descriptors are closed", || descriptors() == open).await;
}

/// Calls the workers of a pool, however many of them end, and dismisses them.
async fn host_of_pool(part: &WorkerPart) {
    let open = descriptors();
    let starts = Arc::new(AtomicU32::new(0));
    let (it, other) = (part.clone(), WorkerPart { end: End::Outside, ..part.clone() });
    let make = move || {
        let (starts, it, other) = (Arc::clone(&starts), it.clone(), other.clone());
        let start = move || {
            let is_it = starts.fetch_add(1, Ordering::SeqCst) == it.which;
            command("kill::workers::a_worker_plays_its_part", if is_it { &it } else { &other })
        };
        let policy = RestartPolicy::on_failure().with_initial_delay(Duration::from_millis(1));
        let worker = Worker::new(start).with_name("mortal").with_ready_timeout(PATIENCE);
        worker.with_restart(policy.with_limit(0, PATIENCE))
    };
    let pool = loop {
        match Pool::of_workers(2, make.clone()).with_spares(1).spawn().await {
            Ok(pool) => break pool,
            Err(Error::Exited { status, .. }) if status.is_some_and(|s| !s.success()) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let (mortal, mut book) = (pool.get_service::<MortalClient>(), Book::default());
    for _ in 0..3 {
        while exercise_pool(&pool, &mortal, &mut book).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    pool.shutdown(PATIENCE).await;
    assert_eq!(pool.state().members, []);
    drop((pool, mortal));
    book_agrees(&book, &part.report);
    eventually("all descriptors are closed", || descriptors() == open).await;
}

/// Calls each worker, and has one raise events.
async fn exercise_pool(pool: &Pool, mortal: &MortalClient, book: &mut Book) -> witrpc::Result<()> {
    let mut ticked = pool.subscribe(|mortal: &MortalClient| mortal.ticked());
    let from = call(mortal, book, TICKS).await?;
    let (mut due, mut of) = (from, None);
    while due < from + TICKS {
        match ticked.next().await {
            Some((index, Ok(value))) if value == due => {
                assert_eq!(*of.get_or_insert(index), index);
                due += 1;
            }
            // Of a worker that has ended, the last values may be missing.
            Some((_, Err(EventError::Reconnected | EventError::Closed(_)))) => {
                return Err(Error::fault("a worker has ended"));
            }
            other => panic!("{other:?} instead of {due}"),
        }
    }
    Ok(())
}

/// Has the worker fail, and waits for the next.
async fn replaced(worker: &Worker, mortal: &MortalClient) {
    let mut state = worker.state();
    let running = |state: &WorkerState| match state {
        WorkerState::Running { process_id } => Some(*process_id),
        _ => None,
    };
    let old = running(&state.wait_for(|state| running(state).is_some()).await.unwrap());
    mortal.leave().await.ok();
    state.wait_for(|state| running(state).is_some() && running(state) != old).await.unwrap();
}

/// What was answered was executed once; what is certain not to have been executed was not.
fn book_agrees(book: &Book, report: &Path) {
    let notes = fs::read(report.join("notes")).unwrap();
    let notes: Vec<_> =
        notes.chunks_exact(8).map(|note| u64::from_le_bytes(note.try_into().unwrap())).collect();
    let times = |number: &u64| notes.iter().filter(|note| *note == number).count();
    assert!(book.answered.len() >= 6 && book.answered.iter().all(|number| times(number) == 1));
    assert!(book.unsent.iter().all(|number| times(number) == 0));
    assert!(book.perhaps.iter().all(|number| times(number) <= 1));
}

/// A worker begins here.
#[test]
fn a_worker_plays_its_part() {
    let Ok(part) = std::env::var(WORKER) else { return };
    let part: WorkerPart = serde_json::from_str(&part).unwrap();
    victim::install(&part.end, &part.report);
    let life = Life::new(Some(victim::append(&part.report.join("notes"))));
    let agent = Agent::from_env().unwrap().with_service(MortalServer::new(life.clone()));
    runtime(part.flavor).block_on(async {
        tokio::select! {
            // Its host may be dead already.
            served = agent.run() => drop(served),
            () = life.leaves() => std::process::exit(1),
        }
    });
    std::process::exit(0);
}
