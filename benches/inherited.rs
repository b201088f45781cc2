//! A call over an inherited region beside the same call over a named endpoint: what a `Worker` costs, or saves.
//!
//! There are two other processes: the server of an endpoint, and a worker. This process is the client of both. It calls them in turn, a
//! slice of single calls each, so that other work on the machine affects both alike. Every fourth slice is in the other order. The
//! ratio is to the named endpoint of the same run. `two_cores` pins this process to one CPU and the others to another; `one_core` pins
//! all of them to one, where each call takes two wake-ups. `park` is `two_cores` without polling.
//!
//! It does not show the cost of starting a worker or of connecting, nor many calls at a time: the rings are the same.

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity};
use witrpc::prelude::*;

#[path = "shared/placement.rs"]
mod placement;
#[path = "shared/slices.rs"]
mod slices;

use placement::{pin, runtime};
use slices::{percentiles, slice};

#[witrpc::service]
pub(crate) trait Echo {
    async fn null(&self) -> witrpc::Result<()>;
}

struct LocalEcho;

impl Echo for LocalEcho {
    async fn null(&self) -> witrpc::Result<()> {
        Ok(())
    }
}

/// Set in the environment of the other processes: the CPU, whether to park, and the endpoint's name if it has one.
const ROLE: &str = "WITRPC_BENCH_ROLE";
const ROUNDS: usize = 200;

fn main() {
    if let Ok(role) = std::env::var(ROLE) {
        return serve(&role);
    }
    let allowed = sched_getaffinity(None).expect("Linux tells");
    let cpus: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).collect();
    pin(cpus[0]);
    compare("one_core", cpus[0], WaitStrategy::Adaptive);
    if let Some(other) = cpus.get(1) {
        compare("two_cores", *other, WaitStrategy::Adaptive);
        compare("park", *other, WaitStrategy::Park);
    }
}

const fn waits(park: bool) -> WaitStrategy {
    if park { WaitStrategy::Park } else { WaitStrategy::Adaptive }
}

/// Another process: a server, or a worker.
fn serve(role: &str) {
    let words: Vec<_> = role.split(' ').collect();
    pin(words[0].parse().expect("a number"));
    let wait_strategy = waits(words[1] == "park");
    let runtime = runtime();
    let Some(endpoint) = words.get(2) else {
        let agent = Agent::from_env().expect("a worker").with_service(EchoServer::new(LocalEcho));
        return runtime.block_on(agent.with_wait_strategy(wait_strategy).run()).expect("a host");
    };
    let file = MemoryMappedFile::new(*endpoint).with_wait_strategy(wait_strategy);
    let server = WitServerBuilder::new().with_service(EchoServer::new(LocalEcho));
    let server = server.with_memory_mapped_file(file).build().expect("good settings");
    runtime.block_on(server.start_waiting_for_connection()).expect("a name of our own");
    println!("ready");
    assert_eq!(std::io::stdin().read(&mut [0]).expect("a pipe"), 0);
}

fn command(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("Linux tells"));
    command.env(ROLE, role);
    command
}

/// The server of an endpoint, ended with this value.
struct Server(Child);

impl Server {
    fn start(role: &str) -> Self {
        let mut command = command(role);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it started once");
        let mut line = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut line).expect("a pipe");
        assert_eq!(line, "ready\n", "{role} failed");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let status = self.0.wait().expect("a child of ours");
        assert!(status.success(), "the server failed: {status}");
    }
}

fn compare(name: &str, cpu: usize, wait_strategy: WaitStrategy) {
    let runtime = runtime();
    let park = if wait_strategy == WaitStrategy::Park { "park" } else { "poll" };
    let endpoint = format!("bench-{}-{name}", std::process::id());
    let role = format!("{cpu} {park}");
    let _server = Server::start(&format!("{role} {endpoint}"));
    let file = MemoryMappedFile::new(endpoint).with_wait_strategy(wait_strategy);
    let client = WitClientBuilder::new().with_memory_mapped_file(file).build();
    let client = client.expect("good settings");
    let worker = Worker::new(move || command(&role)).with_wait_strategy(wait_strategy);
    let worker = runtime.block_on(async {
        client.connect(Duration::from_secs(60)).await.expect("it has been started");
        worker.spawn().await.expect("it is this program")
    });
    let handles: [EchoClient; 2] = [client.get_service(), worker.get_service()];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let order = if round % 4 < 2 { [0, 1] } else { [1, 0] };
        for which in order {
            let echo = handles[which].clone();
            let slice = slice(&runtime, move || echo.null());
            // The first tenth is for warming up.
            if round >= ROUNDS / 10 {
                times[which].extend(slice);
            }
        }
    }
    let [named, inherited] = times.map(percentiles);
    let ratio = |at: usize| inherited[at].as_secs_f64() / named[at].as_secs_f64();
    println!(
        "{name}: named p50 {:.3?}, p99 {:.3?}; inherited p50 {:.3?} ({:.3}x), p99 {:.3?} ({:.3}x)",
        named[0],
        named[1],
        inherited[0],
        ratio(0),
        inherited[1],
        ratio(1)
    );
    runtime.block_on(async {
        client.disconnect().await;
        worker.shutdown(Duration::from_secs(2)).await;
    });
}
