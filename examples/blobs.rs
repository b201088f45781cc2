//! How fast bytes cross: blobs of several sizes, to the worker and back from it. Run it with
//!
//! ```text
//! cargo run --release --example blobs
//! ```
//!
//! This program is the host, and starts itself a second time as its worker. Each row is one blob at a time, one call after
//! the other; each megabyte is copied into the ring by one process and out of it by the other.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use witrpc::prelude::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const SIZES: [usize; 8] =
    [4 << 10, 64 << 10, 1 << 20, 8 << 20, 32 << 20, 64 << 20, 128 << 20, 256 << 20];
/// The largest of them, and what its message counts beside.
const LARGEST_MESSAGE: u64 = (256 << 20) + 1024;
/// Bytes for each figure.
const AMOUNT: usize = 2 << 30;

#[witrpc::service]
pub(crate) trait Store {
    /// Takes bytes, and returns how many.
    async fn put(&self, bytes: Blob) -> witrpc::Result<usize>;
    /// Returns this many bytes.
    async fn take(&self, len: usize) -> witrpc::Result<Blob>;
}

/// A store with one blob in it, of which everybody gets a part. A part is no copy.
struct OneBlob(Blob);

impl Store for OneBlob {
    async fn put(&self, bytes: Blob) -> witrpc::Result<usize> {
        Ok(bytes.len())
    }

    async fn take(&self, len: usize) -> witrpc::Result<Blob> {
        if len > self.0.len() {
            return Err(witrpc::Error::fault("there is not as much"));
        }
        Ok(self.0.slice(..len))
    }
}

#[tokio::main]
async fn main() -> Outcome {
    if Agent::is_announced() {
        let largest = SIZES.into_iter().max().unwrap_or_default();
        let store = StoreServer::new(OneBlob(vec![7; largest].into()));
        let agent = Agent::from_env()?.with_service(store);
        let agent = agent.with_server(|server| server.with_max_message_size(LARGEST_MESSAGE));
        return Ok(agent.run().await?);
    }
    let worker = Worker::this_program()
        .with_size(4 << 20)
        .with_client(|client| client.with_max_message_size(LARGEST_MESSAGE))
        .spawn()
        .await?;
    measure(&worker.get_service::<StoreClient>()).await?;
    worker.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

async fn measure(store: &StoreClient) -> Outcome {
    println!("{:>12} {:>16} {:>16}", "bytes", "to the worker", "from the worker");
    for size in SIZES {
        let count = AMOUNT / size;
        let blob = Blob::from(vec![1; size]);
        // Warm: of both processes.
        store.put(blob.clone()).await?;
        store.take(size).await?;
        let began = Instant::now();
        for _ in 0..count {
            assert_eq!(store.put(blob.clone()).await?, size);
        }
        let there = rate(began.elapsed());
        let began = Instant::now();
        for _ in 0..count {
            assert_eq!(store.take(size).await?.len(), size);
        }
        println!("{size:>12} {there:>11} MB/s {:>11} MB/s", rate(began.elapsed()));
    }
    Ok(())
}

/// Bytes per microsecond are megabytes per second.
const fn rate(elapsed: Duration) -> u128 {
    AMOUNT as u128 / elapsed.as_micros()
}
