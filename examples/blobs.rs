//! How fast bytes cross: blobs of several sizes, to the server and back from it. Run it with
//!
//! ```text
//! cargo run --release --example blobs
//! ```
//!
//! This program is the client, and starts itself a second time as the server. Each row is one blob at a time, one call after
//! the other; each megabyte is copied into the ring by one process and out of it by the other.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::process::ExitCode;
use std::time::Instant;

use witrpc::prelude::*;

#[path = "shared/processes.rs"]
mod processes;

use processes::{Meeting, Outcome};

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
async fn main() -> Outcome<ExitCode> {
    processes::run("blobs", server, client).await
}

fn server(meeting: Meeting) -> witrpc::Result<WitServer> {
    let largest = SIZES.into_iter().max().unwrap_or_default();
    WitServerBuilder::new()
        .with_service(StoreServer::new(OneBlob(vec![7; largest].into())))
        .with_access_token(meeting.token)
        .with_max_message_size(LARGEST_MESSAGE)
        .with_memory_mapped_file(MemoryMappedFile::new(meeting.endpoint).with_size(4 << 20))
        .build()
}

async fn client(meeting: Meeting) -> Outcome {
    let client = WitClientBuilder::new()
        .with_memory_mapped_file(meeting.endpoint)
        .with_access_token(meeting.token)
        .with_max_message_size(LARGEST_MESSAGE)
        .build()?;
    client.connect(Duration::from_secs(5)).await?;
    let store = client.get_service::<StoreClient>();
    println!("{:>12} {:>16} {:>16}", "bytes", "to the server", "from the server");
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
    client.disconnect().await;
    Ok(())
}

/// Bytes per microsecond are megabytes per second.
const fn rate(elapsed: Duration) -> u128 {
    AMOUNT as u128 / elapsed.as_micros()
}
