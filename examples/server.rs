//! A server in a process of its own. Start it in one terminal, and `client` in another:
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example client
//! ```
//!
//! It serves one client after another, and ends at Ctrl-C without leaving a file.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use tokio::signal::unix::{SignalKind, signal};
use witrpc::prelude::*;

#[path = "shared/contract.rs"]
mod contract;
#[path = "shared/worker.rs"]
mod worker;

use contract::WorkerServer;
use worker::LocalWorker;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before anything is made that would have to be cleaned up.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let server = WitServerBuilder::new()
        .with_service(WorkerServer::new(LocalWorker::default()))
        .with_memory_mapped_file(MemoryMappedFile::new("MySharedMap").with_size(1_000_000))
        .with_json()
        .build()?;
    server.start_waiting_for_connection().await?;
    println!("waiting for clients on \"MySharedMap\"; Ctrl-C ends it");

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    println!("stopping, with {} client(s) connected", server.client_count());
    server.stop_waiting_for_connection().await;
    Ok(())
}
