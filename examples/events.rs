//! The progress of a long job, as events: a subscriber that keeps up, one that does not, and a job that is called off.
//! Run it with
//!
//! ```text
//! cargo run --release --example events
//! ```
//!
//! This program is the host, and starts itself a second time as its worker.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use serde::{Deserialize, Serialize};
use witrpc::prelude::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Copies files, so to speak.
#[witrpc::service]
pub(crate) trait Backup {
    /// Copies this many files, and returns how many bytes they had.
    async fn run(&self, files: u32) -> witrpc::Result<u64>;
    /// One value for each file.
    #[event]
    fn copied(&self) -> &Event<Copied>;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Copied {
    name: String,
    bytes: u64,
}

struct Disk {
    copied: Event<Copied>,
}

impl Backup for Disk {
    async fn run(&self, files: u32) -> witrpc::Result<u64> {
        let mut sum = 0;
        for number in 0..files {
            // Where the work would be. If the caller drops the call, this handler is dropped here.
            tokio::task::yield_now().await;
            let copied = Copied { name: format!("file-{number}"), bytes: u64::from(number) };
            sum += copied.bytes;
            self.copied.raise(copied)?;
        }
        Ok(sum)
    }

    fn copied(&self) -> &Event<Copied> {
        &self.copied
    }
}

#[tokio::main]
async fn main() -> Outcome {
    if Agent::is_announced() {
        // At most 100 values wait here for a subscriber that does not keep up; beyond that the oldest go.
        let copied = Event::new().with_capacity(100).with_overflow(Overflow::DropOldest);
        let disk = BackupServer::new(Disk { copied });
        return Ok(Agent::from_env()?.with_service(disk).run().await?);
    }
    let worker = Worker::this_program().spawn().await?;
    watch(&worker.get_service::<BackupClient>()).await?;
    worker.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

async fn watch(backup: &BackupClient) -> Outcome {
    println!("five files, watched:");
    let mut copied = backup.copied().subscribe();
    let run = tokio::spawn(backup.run(5));
    for _ in 0..5 {
        println!("  {:?}", copied.next().await.ok_or("an end")??);
    }
    println!("  {} bytes in all\n", run.await??);

    println!("five thousand, and nobody looks until they are done:");
    backup.run(5_000).await?;
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < 5_000 {
        match copied.next().await {
            Some(Ok(_)) => seen += 1,
            Some(Err(EventError::Lagged(values))) => lost += values,
            other => return Err(format!("unexpected: {other:?}").into()),
        }
    }
    println!("  {seen} values were kept, {lost} dropped; the job did not wait\n");

    println!("an endless job, called off:");
    drop(copied);
    let mut copied = backup.copied().subscribe();
    let run = tokio::spawn(backup.run(u32::MAX));
    println!("  it runs: {:?}", copied.next().await.ok_or("an end")??);
    run.abort(); // The call is dropped, and so its handler.
    let pause = Duration::from_millis(200);
    while let Ok(Some(_)) = tokio::time::timeout(pause, copied.next()).await {}
    println!("  and now it does not");
    Ok(())
}
