//! How other clients of a server slow down a client that calls: clients that are connected and idle, and a client that floods.
//!
//! `idle/N` is a call without arguments and result by one client of N; the others are connected and send nothing. There is a server
//! for each N. All servers run at the same time and are called in turn, one slice each, so that other work on the machine affects all
//! of them alike. The ratio is to N = 1 of the same run. Beside it stands the anonymous memory of the server's process per client.
//! `flood` is the same call beside another client that calls from 64 tasks without a pause: small calls (`small`), or a mebibyte there
//! and back as a blob (`blobs`). Its ratio is to the same client without the flood.
//!
//! Client and servers are pinned to a CPU each, where there are two. Idle and flooding processes are not pinned, so a flood takes
//! time from both CPUs. It does not show the cost of connecting, nor many clients that call at the same time.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use witrpc::prelude::*;

#[path = "shared/placement.rs"]
mod placement;

use placement::{pin, runtime};

#[witrpc::service]
pub(crate) trait Echo {
    async fn null(&self) -> witrpc::Result<()>;
    async fn blob(&self, blob: Blob) -> witrpc::Result<Blob>;
}

struct LocalEcho;

impl Echo for LocalEcho {
    async fn null(&self) -> witrpc::Result<()> {
        Ok(())
    }

    async fn blob(&self, blob: Blob) -> witrpc::Result<Blob> {
        Ok(blob)
    }
}

/// Set in the environment of further processes: what to be, and at which endpoint.
const ROLE: &str = "WITRPC_BENCH_ROLE";
const ENDPOINT: &str = "WITRPC_BENCH_ENDPOINT";

const CLIENTS: [usize; 4] = [1, 10, 100, 500];
const ROUNDS: usize = 60;
/// Calls in a slice; the first of them warm up what others have used meanwhile.
const SLICE: usize = 1000;
const WARM_UP: usize = 100;
const FLOOD_TASKS: usize = 64;
const FLOOD_BLOB: usize = 1 << 20;

fn main() {
    raise_limit();
    if let Ok(role) = std::env::var(ROLE) {
        return play(&role, std::env::var(ENDPOINT).expect("set with the other"));
    }
    let allowed = sched_getaffinity(None).expect("Linux tells");
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    let server_cpu = cpus.get(1).copied().unwrap_or(cpus[0]);
    pin(cpus[0]);
    println!("client on CPU {}, servers on CPU {server_cpu}", cpus[0]);
    let runtime = runtime();
    idle(&runtime, server_cpu);
    for kind in ["small", "blobs"] {
        flood(&runtime, server_cpu, kind);
    }
}

/// Five hundred clients take more descriptors than is usual to allow.
fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .expect("up to the hard one");
}

fn file(endpoint: String) -> MemoryMappedFile {
    MemoryMappedFile::new(endpoint).with_size(256 << 10).with_max_clients(500)
}

async fn connected(endpoint: String) -> WitClient {
    let client = WitClientBuilder::new().with_memory_mapped_file(file(endpoint)).build();
    let client = client.expect("good settings");
    client.connect(Duration::from_secs(60)).await.expect("it has been started");
    client
}

/// Another process: `serve CPU`, `idle CLIENTS` or `flood KIND`. It says when it is ready, and ends with its input.
fn play(role: &str, endpoint: String) {
    let (role, argument) = role.split_once(' ').expect("two words");
    if role == "serve" {
        pin(argument.parse().expect("a number"));
    }
    let runtime = runtime();
    let held: Box<dyn std::any::Any> = match role {
        "serve" => {
            let server = WitServerBuilder::new().with_service(EchoServer::new(LocalEcho));
            let server =
                server.with_memory_mapped_file(file(endpoint)).build().expect("good settings");
            runtime.block_on(server.start_waiting_for_connection()).expect("a name of our own");
            Box::new(server)
        }
        "idle" => {
            let clients = argument.parse::<usize>().expect("a number");
            let connecting: JoinSet<_> = runtime
                .block_on(async { (0..clients).map(|_| connected(endpoint.clone())).collect() });
            Box::new(runtime.block_on(connecting.join_all()))
        }
        _ => {
            let client = runtime.block_on(connected(endpoint));
            let blob = (argument == "blobs").then(|| Blob::from(vec![7; FLOOD_BLOB]));
            for _ in 0..FLOOD_TASKS {
                let (echo, blob) = (client.get_service::<EchoClient>(), blob.clone());
                // It ends with its connection.
                runtime.spawn(async move { while call(&echo, blob.as_ref()).await.is_ok() {} });
            }
            Box::new(client)
        }
    };
    println!("ready");
    let end = std::io::stdin().read(&mut [0]).expect("a pipe");
    assert_eq!(end, 0);
    drop(held);
    drop(runtime);
}

async fn call(echo: &EchoClient, blob: Option<&Blob>) -> witrpc::Result<()> {
    match blob {
        None => echo.null().await,
        Some(blob) => echo.blob(blob.clone()).await.map(drop),
    }
}

/// Another process, ended with this value.
struct Process(Child);

impl Process {
    /// Starts it, and waits until it is ready.
    fn start(role: &str, endpoint: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("Linux tells"));
        command.env(ROLE, role).env(ENDPOINT, endpoint);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it started once");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a pipe");
        assert_eq!(line, "ready\n", "{role} failed");
        Self(child)
    }

    /// Its anonymous memory.
    fn anonymous_kib(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it lives");
        let line =
            status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("a child of ours");
        assert!(status.success(), "another process failed: {status}");
    }
}

fn endpoint(name: &str) -> String {
    format!("bench-{}-{name}", std::process::id())
}

/// A slice of single calls: how long each took.
fn slice(runtime: &Runtime, client: &WitClient) -> Vec<Duration> {
    let echo: EchoClient = client.get_service();
    let calls = runtime.spawn(async move {
        let mut times = Vec::with_capacity(SLICE);
        for _ in 0..SLICE {
            let began = Instant::now();
            echo.null().await.expect("an answer");
            times.push(began.elapsed());
        }
        times.split_off(WARM_UP)
    });
    runtime.block_on(calls).expect("every call was answered")
}

/// p50, p99 and the longest.
fn percentiles(mut times: Vec<Duration>) -> [Duration; 3] {
    times.sort_unstable();
    [times.len() / 2, times.len() * 99 / 100, times.len() - 1].map(|at| times[at])
}

fn tell(name: &str, times: [Duration; 3], to: [Duration; 3], more: &str) {
    let [p50, p99, longest] = times;
    let ratio = |at: usize| times[at].as_secs_f64() / to[at].as_secs_f64();
    println!(
        "{name}: p50 {p50:.2?} ({:.2}x), p99 {p99:.2?} ({:.2}x), longest {longest:.2?}{more}",
        ratio(0),
        ratio(1)
    );
    std::io::stdout().flush().expect("somebody reads");
}

/// One client that calls, of so many.
struct Level {
    server: Process,
    _idle: Process,
    client: WitClient,
    times: Vec<Duration>,
    /// Of the server's memory, for each client.
    kib: u64,
}

impl Level {
    fn start(runtime: &Runtime, server_cpu: usize, clients: usize) -> Self {
        let endpoint = endpoint(&clients.to_string());
        let server = Process::start(&format!("serve {server_cpu}"), &endpoint);
        let before = server.anonymous_kib();
        let idle = Process::start(&format!("idle {}", clients - 1), &endpoint);
        let client = runtime.block_on(connected(endpoint));
        let kib = (server.anonymous_kib() - before) / clients as u64;
        Self { server, _idle: idle, client, times: Vec::new(), kib }
    }
}

fn idle(runtime: &Runtime, server_cpu: usize) {
    let mut levels = CLIENTS.map(|clients| Level::start(runtime, server_cpu, clients));
    for round in 0..ROUNDS {
        for level in &mut levels {
            let times = slice(runtime, &level.client);
            // The first tenth is for warming up.
            if round >= ROUNDS / 10 {
                level.times.extend(times);
            }
        }
    }
    let mut alone = None;
    for (level, clients) in levels.iter_mut().zip(CLIENTS) {
        let times = percentiles(std::mem::take(&mut level.times));
        let memory =
            format!("; {} KiB per client, {} KiB in all", level.kib, level.server.anonymous_kib());
        tell(&format!("idle/{clients}"), times, *alone.get_or_insert(times), &memory);
    }
    for level in levels {
        runtime.block_on(level.client.disconnect());
    }
}

fn flood(runtime: &Runtime, server_cpu: usize, kind: &str) {
    let endpoint = endpoint(kind);
    let _server = Process::start(&format!("serve {server_cpu}"), &endpoint);
    let client = runtime.block_on(connected(endpoint.clone()));
    let measure = || percentiles((0..ROUNDS).flat_map(|_| slice(runtime, &client)).collect());
    let alone = measure();
    let flooding = Process::start(&format!("flood {kind}"), &endpoint);
    tell(&format!("flood/{kind}"), measure(), alone, "");
    drop(flooding);
    runtime.block_on(client.disconnect());
}
