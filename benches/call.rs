//! One call through the generated client and server, between two processes: this one, and a second instance of it.
//!
//! `null` has no arguments and no result. `echo` sends a text of that many bytes there and back as JSON; `blob` sends a blob. An id
//! begins with the placement, which has the largest effect: `one_core` pins both processes to one CPU, `two_cores` pins each to a CPU
//! of its own. `_encrypted` adds `with_encryption`. `_postcard` adds `with_postcard`, and measures only `null`. `in_flight_1` is the
//! time of one round trip, one call after the other. `in_flight_64` is the time per call with 64 tasks that call on one connection.
//! Both sides run tokio's multi_thread runtime with two workers. The calls are made from spawned tasks, because the future given to
//! `block_on` runs on a thread outside the workers, and pays for that. Before the figures of a placement, the bench prints the median
//! and the 99th percentile of single null calls.
//!
//! The throughput of `blob` counts each byte once, although it crosses twice, with four copies. The same blob is sent each time, so
//! the sender reads it from its cache as far as it fits.
//!
//! It does not show calls with pauses between them, where waking a sleeping CPU dominates; nor values that are harder to serialize;
//! nor several clients. On a machine with one CPU there is no `two_cores`.

#![expect(clippy::print_stdout, reason = "percentiles are no output of criterion")]

use std::hint::black_box;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use rustix::thread::{CpuSet, sched_getaffinity};
use tokio::runtime::Runtime;
use witrpc::prelude::*;

#[path = "shared/placement.rs"]
mod placement;

use placement::{pin, runtime};

#[witrpc::service]
pub(crate) trait Echo {
    async fn null(&self) -> witrpc::Result<()>;
    async fn echo(&self, text: String) -> witrpc::Result<String>;
    async fn blob(&self, blob: Blob) -> witrpc::Result<Blob>;
}

struct LocalEcho;

impl Echo for LocalEcho {
    async fn null(&self) -> witrpc::Result<()> {
        Ok(())
    }

    async fn echo(&self, text: String) -> witrpc::Result<String> {
        Ok(text)
    }

    async fn blob(&self, blob: Blob) -> witrpc::Result<Blob> {
        Ok(blob)
    }
}

/// What is called.
#[derive(Clone)]
enum Load {
    Null,
    Text(String),
    Blob(Blob),
}

/// Set in the environment of the second process: the endpoint's name, and the CPU.
const SERVER: &str = "WITRPC_BENCH_SERVER";
const CPU: &str = "WITRPC_BENCH_CPU";

const SIZES: [usize; 4] = [64, 4 << 10, 64 << 10, 1 << 20];
const BLOBS: [usize; 3] = [64 << 10, 1 << 20, 16 << 20];
const IN_FLIGHT: [u64; 2] = [1, 64];
/// Single calls for the percentiles.
const SINGLE_CALLS: usize = 50_000;

fn main() {
    if let Ok(endpoint) = std::env::var(SERVER) {
        let cpu = std::env::var(CPU).expect("set with the other").parse().expect("a number");
        return serve(endpoint, cpu);
    }
    let mut criterion = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let allowed = sched_getaffinity(None).expect("Linux tells");
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    placement(&mut criterion, "one_core", cpus[0], cpus[0]);
    placement(&mut criterion, "one_core_encrypted", cpus[0], cpus[0]);
    placement(&mut criterion, "one_core_postcard", cpus[0], cpus[0]);
    match cpus.get(1) {
        Some(second) => {
            placement(&mut criterion, "two_cores", cpus[0], *second);
            placement(&mut criterion, "two_cores_encrypted", cpus[0], *second);
            placement(&mut criterion, "two_cores_postcard", cpus[0], *second);
        }
        None => println!("two_cores: not measured, there is one CPU"),
    }
    criterion.final_summary();
}

/// Gives a builder the settings of its placement.
macro_rules! set_up {
    ($builder:expr, $endpoint:expr) => {
        match $endpoint.rsplit_once('_').map(|(_, last)| last) {
            Some("encrypted") => $builder.with_encryption(),
            Some("postcard") => $builder.with_postcard(),
            _ => $builder,
        }
    };
}

/// The second process; it ends when its standard input does.
fn serve(endpoint: String, cpu: usize) {
    pin(cpu);
    let runtime = runtime();
    let server = set_up!(WitServerBuilder::new(), endpoint)
        .with_service(EchoServer::new(LocalEcho))
        .with_memory_mapped_file(endpoint)
        .build()
        .expect("good settings");
    runtime.block_on(server.start_waiting_for_connection()).expect("a name of our own");
    let end = std::io::stdin().read(&mut [0]).expect("a pipe");
    assert_eq!(end, 0);
    runtime.block_on(server.stop_waiting_for_connection());
}

/// The server's process, ended with this value.
struct Server(Child);

impl Server {
    fn start(endpoint: &str, cpu: usize) -> Self {
        let program = std::env::current_exe().expect("Linux tells");
        let mut command = Command::new(program);
        command.env(SERVER, endpoint).env(CPU, cpu.to_string()).stdin(Stdio::piped());
        Self(command.spawn().expect("it started once"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("a child of ours");
        assert!(status.success(), "the server failed: {status}");
    }
}

fn placement(criterion: &mut Criterion, name: &str, client_cpu: usize, server_cpu: usize) {
    let endpoint = format!("bench-{}-{name}", std::process::id());
    let _server = Server::start(&endpoint, server_cpu);
    pin(client_cpu);
    let runtime = runtime();
    let builder = set_up!(WitClientBuilder::new(), endpoint);
    let client = builder.with_memory_mapped_file(endpoint).build().expect("good settings");
    runtime.block_on(client.connect(Duration::from_secs(10))).expect("it has been started");
    let echo = client.get_service::<EchoClient>();

    println!("{name}: client on CPU {client_cpu}, server on CPU {server_cpu}");
    percentiles(&runtime, &echo, name);
    for in_flight in IN_FLIGHT {
        let mut group = criterion.benchmark_group(format!("call/{name}/in_flight_{in_flight}"));
        let mut bench = |id: BenchmarkId, bytes: usize, load: Load| {
            if bytes > 0 {
                group.throughput(Throughput::Bytes(bytes as u64));
            }
            group.bench_function(id, |bencher| {
                bencher
                    .iter_custom(|calls| runtime.block_on(timed(&echo, &load, calls, in_flight)));
            });
        };
        bench(BenchmarkId::from_parameter("null"), 0, Load::Null);
        if name.ends_with("_postcard") {
            continue;
        }
        for size in SIZES {
            bench(BenchmarkId::new("echo", size), size, Load::Text("x".repeat(size)));
        }
        if in_flight == 1 {
            for size in BLOBS {
                bench(BenchmarkId::new("blob", size), size, Load::Blob(vec![1; size].into()));
            }
        }
    }
    runtime.block_on(client.disconnect());
}

fn percentiles(runtime: &Runtime, echo: &EchoClient, name: &str) {
    let echo = echo.clone();
    let calls = runtime.spawn(async move {
        let mut times = Vec::with_capacity(2 * SINGLE_CALLS);
        for _ in 0..2 * SINGLE_CALLS {
            let began = Instant::now();
            echo.null().await.expect("an answer");
            times.push(began.elapsed());
        }
        // The first half was for warming up.
        let mut times = times.split_off(SINGLE_CALLS);
        times.sort_unstable();
        times
    });
    let times = runtime.block_on(calls).expect("every call was answered");
    let at = |per_mille: usize| times[times.len() * per_mille / 1000];
    println!(
        "call/{name}/in_flight_1/null: p50 {:.2?}, p99 {:.2?}, p99.9 {:.2?} of {SINGLE_CALLS} single calls",
        at(500),
        at(990),
        at(999)
    );
}

/// How long this many calls take, with `in_flight` at a time.
async fn timed(echo: &EchoClient, load: &Load, calls: u64, in_flight: u64) -> Duration {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..in_flight {
        let (echo, load) = (echo.clone(), load.clone());
        let share = calls / in_flight + u64::from(task < calls % in_flight);
        tasks.spawn(async move { repeat(&echo, &load, share).await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("every call was answered");
    }
    began.elapsed()
}

async fn repeat(echo: &EchoClient, load: &Load, calls: u64) {
    for _ in 0..calls {
        match load {
            Load::Null => echo.null().await.expect("an answer"),
            Load::Text(text) => {
                black_box(echo.echo(text.clone()).await.expect("an answer"));
            }
            Load::Blob(blob) => {
                black_box(echo.blob(blob.clone()).await.expect("an answer"));
            }
        }
    }
}
