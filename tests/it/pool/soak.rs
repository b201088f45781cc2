//! A pool for any length of time, whose workers are killed and stopped at random, retire, and are confined or not, also at random.
//!
//! It runs for `WITRPC_SOAK_SECS` seconds (default 3). Calls that are idempotent never fail. Others fail only if their worker was killed, and then
//! say that they may have run. All results are checked; at the end there is no process, no call and no descriptor more than at the
//! beginning. docs/reliability.md has the results of a long run.

#![expect(clippy::print_stdout, reason = "its results are what it is for")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use witrpc::prelude::*;
use witrpc::{Error, HangDetection, PoolSubscription, Sandbox};

use crate::fixture::{Flavor, GUARD, alone, eventually, no_rescues, runtime, watch};
use crate::hostile::{Random, setting};
use crate::sandbox::toil::{ToilClient, compute};
use crate::system::descriptors;

/// Tasks that call.
const CALLERS: u64 = 8;
/// Of a confined worker.
const MEMORY: u64 = 256 << 20;
/// A worker that is stopped for longer is killed.
const HANG: Duration = Duration::from_millis(500);

/// What has happened.
#[derive(Debug, Default)]
struct Counts {
    calls: AtomicU64,
    /// Calls that were not idempotent, and streams, whose worker was killed.
    lost: AtomicU64,
    /// Calls that a confined worker has answered.
    confined: AtomicU64,
    events: AtomicU64,
    /// Where a subscription went on with another process.
    interrupted: AtomicU64,
    /// Workers, not counting how often each was started again.
    workers: AtomicU64,
    killed: AtomicU64,
    stopped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn a_pool_loses_nothing_whose_workers_are_killed_stopped_and_confined_at_random() {
    if !alone() {
        return;
    }
    watch();
    let (seconds, seed) = (setting("WITRPC_SOAK_SECS", 3), setting("WITRPC_SOAK_SEED", 20_261_201));
    println!("seed {seed}, {seconds} s");
    runtime(Flavor::MultiThread).block_on(soak(Duration::from_secs(seconds), seed));
    no_rescues();
}

async fn soak(length: Duration, seed: u64) {
    let before = descriptors();
    let counts = Arc::new(Counts::default());
    let pool = start(&counts, seed).await;
    let stopping = Arc::new(AtomicBool::new(false));
    let events = pool.subscribe(|toil: &ToilClient| toil.announced());
    let events = tokio::spawn(read(events, Arc::clone(&counts)));
    let mut callers = JoinSet::new();
    for number in 1..=CALLERS {
        let toil = pool.get_service::<ToilClient>();
        let (counts, stopping) = (Arc::clone(&counts), Arc::clone(&stopping));
        let mut random = Random(seed ^ (number << 32));
        callers.spawn(async move {
            while !stopping.load(Ordering::SeqCst) {
                call(&toil, &counts, &mut random).await;
                count(&counts.calls);
                sleep(Duration::from_micros(random.below(2000))).await;
            }
        });
    }
    disturb(&pool, length, Random(seed), &counts).await;
    stopping.store(true, Ordering::SeqCst);
    while let Some(done) = timeout(GUARD, callers.join_next()).await.expect("a call hangs") {
        done.unwrap();
    }
    let state = pool.state();
    assert!(state.members.iter().all(|member| member.in_flight == 0), "{state:?}");
    assert_eq!(state.waiting, 0);
    pool.shutdown(GUARD).await;
    timeout(GUARD, events).await.expect("the events end").unwrap();
    drop(pool);
    eventually("no process is left", || children().is_empty()).await;
    eventually("all descriptors are closed", || descriptors() <= before).await;
    println!("{counts:?}");
    let all = counts.calls.load(Ordering::Relaxed);
    assert!(all > 100 && counts.killed.load(Ordering::Relaxed) > 0, "{counts:?}");
}

async fn start(counts: &Arc<Counts>, seed: u64) -> Pool {
    let counts = Arc::clone(counts);
    let make = move || {
        let number = counts.workers.fetch_add(1, Ordering::Relaxed);
        let policy = RestartPolicy::always()
            .with_initial_delay(Duration::from_millis(1))
            .with_max_delay(Duration::from_millis(20))
            .with_limit(0, GUARD);
        let retry = |policy: witrpc::RetryPolicy| {
            policy.with_attempts(0).with_fixed_delay(Duration::from_millis(1))
        };
        let worker = Worker::new(|| Command::new(env!("CARGO_BIN_EXE_sandboxed")))
            .with_ready_timeout(GUARD)
            .with_restart(policy)
            .with_hang_detection(HangDetection::after(HANG).with_kill())
            .with_client(|client| client.with_retry_policy(retry));
        match Random(seed ^ (number << 16)).below(2) {
            0 => worker,
            _ => worker.with_sandbox(Sandbox::compute().with_max_memory(MEMORY)),
        }
    };
    Pool::of_workers(2, make)
        .with_max(4)
        .with_spares(1)
        .with_calls_per_worker(3)
        .with_idle_timeout(Duration::from_millis(300))
        .with_retirement_after(500)
        .with_drain_timeout(4 * HANG)
        .spawn()
        .await
        .unwrap()
}

/// Makes one call.
async fn call(toil: &ToilClient, counts: &Counts, random: &mut Random) {
    let number = random.below(1 << 40);
    match random.below(8) {
        0 => match toil.add(number, 1).await {
            Ok(sum) => assert_eq!(sum, number + 1),
            Err(error) => lost(&error, counts),
        },
        1 => {
            let len = random.below(200_000) as usize;
            let (text, bytes) = (number.to_string(), Blob::from(vec![number as u8; len]));
            let back = toil.echo(text.clone(), bytes.clone()).await.unwrap();
            assert!(back == (text, bytes));
        }
        2 => {
            let steps = random.below(300_000);
            assert_eq!(toil.compute(steps).await.unwrap(), compute(steps));
        }
        3 => stream(toil, counts, random.below(2000)).await,
        4 => {
            let to = random.below(2000);
            match toil.sum(Streaming::iter(0..to)).await {
                Ok(sum) => assert_eq!(sum, (0..to).sum::<u64>()),
                Err(error) => lost(&error, counts),
            }
        }
        5 => {
            toil.announce(number).await.unwrap();
        }
        6 => {
            if toil.is_confined().await.unwrap() {
                count(&counts.confined);
            }
        }
        // Dropped at any time.
        _ => {
            let time = Duration::from_micros(random.below(3000));
            drop(timeout(time, toil.compute(1_000_000)).await);
        }
    }
}

async fn stream(toil: &ToilClient, counts: &Counts, to: u64) {
    let mut numbers = match toil.count(to).await {
        Ok(numbers) => numbers,
        Err(error) => return lost(&error, counts),
    };
    for expected in 0..to {
        match numbers.next().await {
            Some(Ok(number)) => assert_eq!(number, expected),
            Some(Err(error)) => return lost(&error, counts),
            None => panic!("the stream ended after {expected} of {to}"),
        }
    }
    match numbers.next().await {
        None => {}
        // All items have come, and the end has not.
        Some(Err(error)) => lost(&error, counts),
        Some(Ok(number)) => panic!("{number} after {to} numbers"),
    }
}

/// Only its worker can have taken a call with it.
fn lost(error: &Error, counts: &Counts) {
    assert!(matches!(error, Error::Closed { .. }), "{error}");
    count(&counts.lost);
}

async fn read(mut events: PoolSubscription<u64>, counts: Arc<Counts>) {
    while let Some((_, item)) = events.next().await {
        match item {
            Ok(_) => count(&counts.events),
            Err(EventError::Reconnected | EventError::Closed(_)) => count(&counts.interrupted),
            Err(EventError::Lagged(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// Kills and stops processes of the pool.
async fn disturb(pool: &Pool, length: Duration, mut random: Random, counts: &Counts) {
    let began = Instant::now();
    let mut stopped = JoinSet::new();
    let mut next_report = Duration::from_secs(60);
    while began.elapsed() < length {
        sleep(Duration::from_millis(10 + random.below(90))).await;
        if began.elapsed() > next_report {
            next_report += Duration::from_secs(60);
            println!("{:?}: {counts:?}", began.elapsed());
        }
        let state = pool.state();
        assert!(state.members.len() <= 24, "{state:?}");
        let processes: Vec<_> =
            state.members.iter().filter_map(|member| member.process_id).collect();
        if processes.is_empty() {
            continue;
        }
        let process = processes[random.below(processes.len() as u64) as usize];
        let pid = Pid::from_raw(process.cast_signed()).unwrap();
        // It may have ended just now.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let time = match random.below(20) {
            0..10 => None,
            10..19 => Some(Duration::from_millis(1 + random.below(200))),
            _ => Some(3 * HANG),
        };
        let Some(time) = time else {
            if pidfd_send_signal(&process, Signal::KILL).is_ok() {
                count(&counts.killed);
            }
            continue;
        };
        if pidfd_send_signal(&process, Signal::STOP).is_ok() {
            count(&counts.stopped);
        }
        stopped.spawn(async move {
            sleep(time).await;
            // An error: it has been killed meanwhile.
            pidfd_send_signal(&process, Signal::CONT).ok();
        });
    }
    while stopped.join_next().await.is_some() {}
}

/// The processes that this one has started.
fn children() -> String {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let of = |thread: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(thread.ok()?.path().join("children")).ok()
    };
    threads.filter_map(of).collect()
}
