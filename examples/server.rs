//! A server in a process of its own. Start it in one terminal, and `client` in another:
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example client
//! ```
//!
//! It serves one client after another, and ends at Ctrl-C without leaving a file.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use witrpc::prelude::*;

#[path = "shared/contract.rs"]
mod contract;
#[path = "shared/signals.rs"]
mod signals;
#[path = "shared/worker.rs"]
mod worker;

use contract::WorkerServer;
use signals::Signals;
use worker::LocalWorker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before anything is made that would have to be cleaned up.
    let mut signals = Signals::new()?;

    let server = WitServerBuilder::new()
        .with_service(WorkerServer::new(LocalWorker::default()))
        .with_memory_mapped_file(MemoryMappedFile::new("MySharedMap").with_size(1_000_000))
        .with_json()
        .build()?;
    server.start_waiting_for_connection().await?;
    println!("waiting for clients on \"MySharedMap\"; Ctrl-C ends it");

    signals.wait().await;
    println!("stopping, with {} client(s) connected", server.client_count());
    server.stop_waiting_for_connection().await;
    Ok(())
}
