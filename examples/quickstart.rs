//! Two processes, and typed calls between them. Run it with
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! This program is the client. It starts itself a second time as the server, connects, calls, measures, and leaves
//! nothing behind: no process, no file; not at Ctrl-C either.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::io::Read;
use std::process::{ExitCode, Stdio};
use std::time::Instant;

use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use witrpc::prelude::*;

#[path = "shared/contract.rs"]
mod contract;
#[path = "shared/worker.rs"]
mod worker;

use contract::{WorkerClient, WorkerServer};
use worker::LocalWorker;

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

const WARM_UP: usize = 2_000;
const CALLS: usize = 20_000;

#[tokio::main]
async fn main() -> Outcome<ExitCode> {
    // From here on a signal ends this process by way of the code below, which cleans up.
    let signals = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    if let Some(endpoint) = std::env::args().nth(1) {
        serve(endpoint, signals).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let endpoint = format!("quickstart-{}", std::process::id());
    let mut server = start_server(&endpoint)?;
    let called = tokio::select! {
        called = call(&endpoint) => called.map(|()| ExitCode::SUCCESS),
        () = interrupted(signals) => Ok(ExitCode::from(130)),
    };
    // The server ends when its standard input does, so it never outlives this process.
    drop(server.stdin.take());
    let status = server.wait().await?;
    println!("the server process has ended: {status}");
    called
}

async fn interrupted((mut interrupt, mut terminate): (Signal, Signal)) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The server's process.
async fn serve(endpoint: String, signals: (Signal, Signal)) -> Outcome {
    let server = WitServerBuilder::new()
        .with_service(WorkerServer::new(LocalWorker))
        .with_memory_mapped_file(MemoryMappedFile::new(endpoint).with_size(1_000_000))
        .build()?;
    server.start_waiting_for_connection().await?;

    // A thread, because reading standard input cannot be cancelled; it ends with the process.
    let (gone, parent_gone) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let end = std::io::stdin().read(&mut [0]);
        drop((end, gone));
    });
    tokio::select! {
        _ = parent_gone => {}
        () = interrupted(signals) => {}
    }
    server.stop_waiting_for_connection().await;
    Ok(())
}

fn start_server(endpoint: &str) -> Outcome<Child> {
    let program = std::env::current_exe()?;
    let child = Command::new(program).arg(endpoint).stdin(Stdio::piped()).spawn()?;
    println!("this is process {}, the client", std::process::id());
    println!("the server is process {}, on {endpoint:?}", child.id().unwrap_or_default());
    Ok(child)
}

/// The client's part.
async fn call(endpoint: &str) -> Outcome {
    let client = WitClientBuilder::new().with_memory_mapped_file(endpoint).build()?;
    let began = Instant::now();
    client.connect(Duration::from_secs(5)).await?;
    println!("connected after {:.1?}\n", began.elapsed());

    let worker = client.get_service::<WorkerClient>();
    println!("add(2, 3)     = {}", worker.add(2, 3).await?);
    println!("divide(1, 0)  = {:?}", worker.divide(1, 0).await);
    let (words, primes) =
        tokio::join!(worker.count_words("two at once".to_owned()), worker.count_primes(100_000));
    println!("at once       = {} words, {} primes below 100000", words?, primes?);
    let hasty = worker.with_timeout(Duration::from_millis(50));
    let late = hasty.count_primes(u64::MAX).await;
    println!("with_timeout  = {:?}\n", late.map_err(|error| error.to_string()));

    measure(&worker).await?;
    client.disconnect().await;
    Ok(())
}

async fn measure(worker: &WorkerClient) -> Outcome {
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..WARM_UP + CALLS {
        let began = Instant::now();
        worker.add(20, 22).await?;
        if call >= WARM_UP {
            times.push(began.elapsed());
        }
    }
    times.sort_unstable();
    println!("{CALLS} calls of add, one after the other, there and back between the processes:");
    println!("  median {:.2?}   p99 {:.2?}\n", times[CALLS / 2], times[CALLS * 99 / 100]);
    Ok(())
}
