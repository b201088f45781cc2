//! What a pool costs, and what it gains.
//!
//! *A call*: single calls over a pool of one worker, beside the same calls over that worker's own handle. It is one connection; what differs is
//! the choice of a member, and the copy of the arguments that a pool keeps. The two take turns, a slice of calls each, so that other work on
//! the machine affects both alike; every fourth slice is in the other order. `two_cores` pins this process to one CPU and the worker to
//! another; `one_core` pins both to one.
//!
//! *Computing*: the time of a batch of calls that compute, over a pool of two workers on a CPU each, beside the same batch over one worker on
//! one of these CPUs. The host waits meanwhile. Batches take turns, too. Where others compute on the same CPUs, both numbers of workers get
//! a share, and the gain says little: the line tells how much of the CPUs the workers had.
//!
//! It does not show what starting or replacing a worker takes.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use witrpc::prelude::*;

#[path = "shared/placement.rs"]
mod placement;
#[path = "shared/slices.rs"]
mod slices;

use placement::{pin, runtime};
use slices::{percentiles, slice};

#[witrpc::service]
pub(crate) trait Work {
    async fn null(&self) -> witrpc::Result<()>;
    /// Computes for this many steps.
    async fn compute(&self, steps: u64) -> witrpc::Result<u64>;
    /// The CPU time that the process has taken, in nanoseconds.
    async fn cpu_time(&self) -> witrpc::Result<u64>;
}

struct Worked;

impl Work for Worked {
    async fn null(&self) -> witrpc::Result<()> {
        Ok(())
    }

    async fn compute(&self, steps: u64) -> witrpc::Result<u64> {
        Ok(compute(steps))
    }

    async fn cpu_time(&self) -> witrpc::Result<u64> {
        let time = clock_gettime(ClockId::ProcessCPUTime);
        Ok((time.tv_sec * 1_000_000_000 + time.tv_nsec).unsigned_abs())
    }
}

fn compute(steps: u64) -> u64 {
    (0..steps)
        .fold(1, |state, step| black_box(state ^ step).wrapping_mul(6_364_136_223_846_793_005))
}

/// Set in the environment of a worker: its CPU.
const ROLE: &str = "WITRPC_BENCH_ROLE";
const ROUNDS: usize = 200;
/// Calls in a batch, of about a millisecond each.
const BATCH: usize = 64;
const STEPS: u64 = 400_000;
const BATCHES: usize = 60;

fn main() {
    if let Ok(cpu) = std::env::var(ROLE) {
        pin(cpu.parse().expect("a number"));
        let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let agent = Agent::from_env().expect("a worker").with_service(WorkServer::new(Worked));
        return one_thread.expect("one").block_on(agent.run()).expect("a host");
    }
    let allowed = sched_getaffinity(None).expect("Linux tells");
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    if let [first, second, ..] = cpus[..] {
        // Before this process is pinned.
        compare_computing([first, second]);
    }
    pin(cpus[0]);
    compare_calls("one_core", cpus[0]);
    if let Some(other) = cpus.get(1) {
        compare_calls("two_cores", *other);
    }
}

async fn worker(cpu: usize) -> Worker {
    let command = move || {
        let mut command = Command::new(std::env::current_exe().expect("Linux tells"));
        command.env(ROLE, cpu.to_string());
        command
    };
    Worker::new(command).spawn().await.expect("it is this program")
}

fn compare_calls(name: &str, cpu: usize) {
    let runtime = runtime();
    let worker = runtime.block_on(worker(cpu));
    let pool = Pool::of_clients([worker.client().clone()]).expect("a client");
    let handles: [WorkClient; 2] = [worker.get_service(), pool.get_service()];
    let mut times = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let order = if round % 4 < 2 { [0, 1] } else { [1, 0] };
        let mut medians = [0.0; 2];
        for which in order {
            let work = handles[which].clone();
            let slice = slice(&runtime, move || work.null());
            medians[which] = percentiles(slice.clone())[0].as_secs_f64();
            // The first tenth is for warming up.
            if round >= ROUNDS / 10 {
                times[which].extend(slice);
            }
        }
        ratios.push(medians[1] / medians[0]);
    }
    let [direct, pooled] = times.map(percentiles);
    println!(
        "{name}: direct p50 {:.3?}, p99 {:.3?}; pool of one p50 {:.3?}, p99 {:.3?}; ratio of p50 {:.3}, median of the ratios of {ROUNDS} slices {:.3}",
        direct[0],
        direct[1],
        pooled[0],
        pooled[1],
        pooled[0].as_secs_f64() / direct[0].as_secs_f64(),
        median(ratios)
    );
    runtime.block_on(worker.shutdown(Duration::from_secs(2)));
}

fn compare_computing(cpus: [usize; 2]) {
    let runtime = runtime();
    let workers = runtime.block_on(async { [worker(cpus[0]).await, worker(cpus[1]).await] });
    let pool = Pool::of_clients(workers.iter().map(|worker| worker.client().clone()));
    let pool = pool.expect("clients");
    let each: [WorkClient; 2] = [workers[0].get_service(), workers[1].get_service()];
    let two: WorkClient = pool.get_service();
    let (mut gains, mut shares) = (Vec::new(), [Vec::new(), Vec::new()]);
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..BATCHES {
        let one = &each[round % 2];
        let order = if round % 4 < 2 { [0, 1] } else { [1, 0] };
        let mut took = [0.0; 2];
        for which in order {
            let handle = if which == 0 { one } else { &two };
            let before = cpu_time(&runtime, &each);
            took[which] = batch(&runtime, handle).as_secs_f64();
            let share = (cpu_time(&runtime, &each) - before) / took[which];
            shares[which].push(share);
            times[which].push(took[which]);
        }
        gains.push(took[0] / took[1]);
    }
    let [one, two] = times.map(median);
    let [of_one, of_two] = shares.map(median);
    println!(
        "computing: {BATCH} calls take {:.1} ms by one worker, {:.1} ms by two: {:.3} times as many a second; median of the gains of {BATCHES} batches {:.3}; the workers had {of_one:.2} and {of_two:.2} CPUs",
        one * 1e3,
        two * 1e3,
        one / two,
        median(gains),
    );
    runtime.block_on(async {
        for worker in workers {
            worker.shutdown(Duration::from_secs(2)).await;
        }
    });
}

/// The CPU time that the workers have taken, in seconds.
fn cpu_time(runtime: &Runtime, workers: &[WorkClient; 2]) -> f64 {
    workers
        .iter()
        .map(|worker| {
            let nanoseconds = runtime.block_on(worker.cpu_time()).expect("an answer");
            Duration::from_nanos(nanoseconds).as_secs_f64()
        })
        .sum()
}

/// How long a batch of calls takes, all of which are made at once.
fn batch(runtime: &Runtime, work: &WorkClient) -> Duration {
    runtime.block_on(async {
        let began = Instant::now();
        let calls: Vec<_> = (0..BATCH).map(|_| tokio::spawn(work.compute(STEPS))).collect();
        for call in calls {
            call.await.expect("it does not panic").expect("an answer");
        }
        began.elapsed()
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
