//! Two processes: typed calls, an event and a blob between them, and how long a call takes. Run it with
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! This program is the client. It starts itself a second time as the server, hands it a token, connects, calls, measures,
//! and leaves nothing behind: no process, no file; not at Ctrl-C either. All that crosses is encrypted.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::process::ExitCode;
use std::time::Instant;

use witrpc::prelude::*;

#[path = "shared/contract.rs"]
mod contract;
#[path = "shared/processes.rs"]
mod processes;
#[path = "shared/worker.rs"]
mod worker;

use contract::{WorkerClient, WorkerServer};
use processes::{Meeting, Outcome};
use worker::LocalWorker;

const WARM_UP: usize = 2_000;
const CALLS: usize = 20_000;

#[tokio::main]
async fn main() -> Outcome<ExitCode> {
    processes::run("quickstart", server, call).await
}

/// The server's process.
fn server(meeting: Meeting) -> witrpc::Result<WitServer> {
    WitServerBuilder::new()
        .with_service(WorkerServer::new(LocalWorker::default()))
        .with_access_token(meeting.token)
        .with_memory_mapped_file(MemoryMappedFile::new(meeting.endpoint).with_size(1_000_000))
        .with_json()
        .with_encryption()
        .build()
}

/// The client's process.
async fn call(meeting: Meeting) -> Outcome {
    let client = WitClientBuilder::new()
        .with_memory_mapped_file(meeting.endpoint)
        .with_json()
        .with_encryption()
        .with_access_token(meeting.token)
        .build()?;
    let began = Instant::now();
    client.connect(Duration::from_secs(5)).await?;
    println!(
        "process {} is the client; connected after {:.1?}\n",
        std::process::id(),
        began.elapsed()
    );
    let worker = client.get_service::<WorkerClient>();

    println!("add(2, 3)        = {}", worker.add(2, 3).await?);
    println!("divide(1, 0)     = {:?}", worker.divide(1, 0).await);
    let (words, primes) =
        tokio::join!(worker.count_words("two at once".to_owned()), worker.count_primes(100_000));
    println!("at once          = {} words, {} primes below 100000", words?, primes?);
    let hasty = worker.with_timeout(Duration::from_millis(50));
    let late = hasty.count_primes(u64::MAX).await;
    println!("with_timeout     = {:?}", late.map_err(|error| error.to_string()));

    let mut progress = worker.progress().subscribe();
    let counting = tokio::spawn(worker.count_primes(200_000));
    while let Some(percent) = progress.next().await.transpose()? {
        println!("event progress   = {percent} %");
        if percent == 100 {
            break;
        }
    }
    println!("count_primes     = {}", counting.await??);

    let picture = Blob::from(vec![0; 8 << 20]);
    let began = Instant::now();
    let negative = worker.invert(picture).await?;
    println!(
        "invert           = a blob of {} bytes after {:.1?}\n",
        negative.len(),
        began.elapsed()
    );

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
    println!("  median {:.2?}   p99 {:.2?}", times[CALLS / 2], times[CALLS * 99 / 100]);
    Ok(())
}
