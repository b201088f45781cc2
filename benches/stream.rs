//! The items of one stream between two processes, this one and a second instance of it, beside calls and events of the same size.
//!
//! An id begins with the placement, which has the largest effect: `one_core` pins both processes to one CPU, `two_cores` pins each to
//! a CPU of its own. `down` comes from the server, `up` goes to it. `items` are numbers as JSON, and the figure is the time per item;
//! `blobs` are of 64 KiB. Each run is one stream with so many items, opened and read to its end, so the cost of opening is spread
//! over them. `short` opens a stream for each item. `call` is a call that takes a number and returns it, one after the other and from
//! 64 tasks. `event` is a value that is raised and received, with an event that waits for room. Both sides run tokio's multi_thread
//! runtime with two workers.
//!
//! It does not show streams whose sender has to wait for its data, nor many streams at a time.

#![expect(clippy::print_stdout, reason = "a placement that is missing is told")]

use std::future::Future;
use std::hint::black_box;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use rustix::thread::{CpuSet, sched_getaffinity};
use witrpc::prelude::*;

#[path = "shared/placement.rs"]
mod placement;

use placement::{pin, runtime};

#[witrpc::service]
pub(crate) trait Flow {
    async fn echo(&self, number: u64) -> witrpc::Result<u64>;
    async fn items(&self, count: u64) -> witrpc::Result<Streaming<u64>>;
    async fn sum(&self, items: Streaming<u64>) -> witrpc::Result<u64>;
    async fn blobs(&self, count: u64) -> witrpc::Result<Streaming<Blob>>;
    async fn store(&self, blobs: Streaming<Blob>) -> witrpc::Result<u64>;
    async fn raise(&self, count: u64) -> witrpc::Result<()>;
    #[event]
    fn raised(&self) -> &Event<u64>;
}

struct LocalFlow {
    raised: Event<u64>,
}

/// Bytes of a blob.
const BLOB: usize = 64 << 10;

fn blobs(count: u64) -> Streaming<Blob> {
    let blob = Blob::from(vec![1; BLOB]);
    Streaming::iter((0..count).map(move |_| blob.clone()))
}

async fn count<T: Send + 'static>(mut stream: Streaming<T>) -> witrpc::Result<u64> {
    let mut count = 0;
    while let Some(item) = stream.next().await {
        black_box(item?);
        count += 1;
    }
    Ok(count)
}

impl Flow for LocalFlow {
    async fn echo(&self, number: u64) -> witrpc::Result<u64> {
        Ok(number)
    }

    async fn items(&self, count: u64) -> witrpc::Result<Streaming<u64>> {
        Ok(Streaming::iter(0..count))
    }

    async fn sum(&self, items: Streaming<u64>) -> witrpc::Result<u64> {
        count(items).await
    }

    async fn blobs(&self, count: u64) -> witrpc::Result<Streaming<Blob>> {
        Ok(blobs(count))
    }

    async fn store(&self, blobs: Streaming<Blob>) -> witrpc::Result<u64> {
        count(blobs).await
    }

    async fn raise(&self, count: u64) -> witrpc::Result<()> {
        for number in 0..count {
            self.raised.raise_async(number).await?;
        }
        Ok(())
    }

    fn raised(&self) -> &Event<u64> {
        &self.raised
    }
}

/// Set in the environment of the second process: the endpoint's name, and the CPU.
const SERVER: &str = "WITRPC_BENCH_SERVER";
const CPU: &str = "WITRPC_BENCH_CPU";

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
    match cpus.get(1) {
        Some(second) => placement(&mut criterion, "two_cores", cpus[0], *second),
        None => println!("two_cores: not measured, there is one CPU"),
    }
    criterion.final_summary();
}

/// The second process; it ends when its standard input does.
fn serve(endpoint: String, cpu: usize) {
    pin(cpu);
    let runtime = runtime();
    let raised = Event::new().with_overflow(Overflow::Block(Duration::from_secs(60)));
    let server = WitServerBuilder::new()
        .with_service(FlowServer::new(LocalFlow { raised }))
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

/// What is measured.
#[derive(Clone, Copy)]
enum Scene {
    ItemsDown,
    ItemsUp,
    BlobsDown,
    BlobsUp,
    ShortDown,
    Calls(u64),
    Events,
}

fn placement(criterion: &mut Criterion, name: &str, client_cpu: usize, server_cpu: usize) {
    let endpoint = format!("bench-stream-{}-{name}", std::process::id());
    let _server = Server::start(&endpoint, server_cpu);
    pin(client_cpu);
    let runtime = runtime();
    let builder = WitClientBuilder::new();
    let client = builder.with_memory_mapped_file(endpoint).build().expect("good settings");
    runtime.block_on(client.connect(Duration::from_secs(10))).expect("it has been started");
    let flow = client.get_service::<FlowClient>();

    let mut group = criterion.benchmark_group(format!("stream/{name}"));
    for (id, scene) in [
        (BenchmarkId::new("items", "down"), Scene::ItemsDown),
        (BenchmarkId::new("items", "up"), Scene::ItemsUp),
        (BenchmarkId::new("short", "down"), Scene::ShortDown),
        (BenchmarkId::new("call", 1), Scene::Calls(1)),
        (BenchmarkId::new("call", 64), Scene::Calls(64)),
        (BenchmarkId::from_parameter("event"), Scene::Events),
        (BenchmarkId::new("blobs", "down"), Scene::BlobsDown),
        (BenchmarkId::new("blobs", "up"), Scene::BlobsUp),
    ] {
        group.throughput(match scene {
            Scene::BlobsDown | Scene::BlobsUp => Throughput::Bytes(BLOB as u64),
            _ => Throughput::Elements(1),
        });
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|count| {
                let (flow, began) = (flow.clone(), Instant::now());
                // In a task: the future given to `block_on` runs on a thread of its own, and pays for it.
                let task = runtime.spawn(play(flow, scene, count));
                runtime.block_on(task).expect("no panic").expect("an answer");
                began.elapsed()
            });
        });
    }
    group.finish();
    runtime.block_on(client.disconnect());
}

async fn play(flow: FlowClient, scene: Scene, many: u64) -> witrpc::Result<()> {
    match scene {
        Scene::ItemsDown => assert_eq!(count(flow.items(many).await?).await?, many),
        Scene::ItemsUp => assert_eq!(flow.sum(Streaming::iter(0..many)).await?, many),
        Scene::BlobsDown => assert_eq!(count(flow.blobs(many).await?).await?, many),
        Scene::BlobsUp => assert_eq!(flow.store(blobs(many)).await?, many),
        Scene::ShortDown => {
            for _ in 0..many {
                assert_eq!(count(flow.items(1).await?).await?, 1);
            }
        }
        Scene::Calls(tasks) => {
            let calls = |task| {
                let (flow, share) = (flow.clone(), many / tasks + u64::from(task < many % tasks));
                async move {
                    for number in 0..share {
                        black_box(flow.echo(number).await?);
                    }
                    Ok(())
                }
            };
            all((0..tasks).map(calls)).await?;
        }
        Scene::Events => {
            let mut raised = flow.raised().subscribe();
            let raising = tokio::spawn(flow.raise(many));
            for expected in 0..many {
                assert_eq!(raised.next().await, Some(Ok(expected)));
            }
            raising.await.expect("no panic")?;
        }
    }
    Ok(())
}

/// Runs these in tasks of their own.
async fn all<F>(futures: impl Iterator<Item = F>) -> witrpc::Result<()>
where
    F: Future<Output = witrpc::Result<()>> + Send + 'static,
{
    let mut tasks: tokio::task::JoinSet<_> = futures.collect();
    while let Some(ended) = tasks.join_next().await {
        ended.expect("no panic")?;
    }
    Ok(())
}
