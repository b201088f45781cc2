//! A server in a process of its own. Start it in one terminal, and `client` in another:
//!
//! ```text
//! cargo run --release --example server
//! cargo run --release --example client
//! ```
//!
//! It serves one client after another, and ends at Ctrl-C without leaving a file.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::future::Future;

use witrpc::prelude::*;

/// The contract. `client` has a part of it; two programs of yours would share a crate.
#[witrpc::service]
pub(crate) trait Texts {
    /// Counts words.
    async fn count_words(&self, text: String) -> witrpc::Result<usize>;
    /// Repeats a text.
    async fn repeat(&self, text: String, times: usize) -> witrpc::Result<String>;
    /// Returns how many texts were counted.
    async fn counted(&self) -> witrpc::Result<u64>;
}

#[derive(Debug, Default)]
struct Scribe {
    counted: std::sync::atomic::AtomicU64,
}

impl Texts for Scribe {
    async fn count_words(&self, text: String) -> witrpc::Result<usize> {
        self.counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(text.split_whitespace().count())
    }

    async fn repeat(&self, text: String, times: usize) -> witrpc::Result<String> {
        if text.len().saturating_mul(times) > 1 << 20 {
            return Err(witrpc::Error::fault("that is too long"));
        }
        Ok(text.repeat(times))
    }

    async fn counted(&self) -> witrpc::Result<u64> {
        Ok(self.counted.load(std::sync::atomic::Ordering::Relaxed))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Before anything is made that would have to be cleaned up: from now on a signal does not end the process by itself.
    let ended = end_is_wanted()?;

    let server = WitServerBuilder::new()
        .with_service(TextsServer::new(Scribe::default()))
        .with_memory_mapped_file(MemoryMappedFile::new("MySharedMap").with_size(1_000_000))
        .with_json()
        .build()?;
    server.start_waiting_for_connection().await?;
    println!("waiting for clients on \"MySharedMap\"; Ctrl-C ends it");

    ended.await;
    println!("stopping, with {} client(s) connected", server.client_count());
    server.stop_waiting_for_connection().await;
    Ok(())
}

/// Completes at Ctrl-C, or `SIGTERM`.
#[cfg(unix)]
fn end_is_wanted() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

/// Completes at Ctrl-C.
#[cfg(windows)]
fn end_is_wanted() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
