//! The progress of a long job, as events: a subscriber that keeps up, one that does not, and a job that is called off.
//! Run it with
//!
//! ```text
//! cargo run --release --example events
//! ```
//!
//! This program is the client, and starts itself a second time as the server.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::process::ExitCode;

use serde::{Deserialize, Serialize};
use witrpc::prelude::*;

#[path = "shared/processes.rs"]
mod processes;

use processes::{Meeting, Outcome};

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
async fn main() -> Outcome<ExitCode> {
    processes::run("events", server, client).await
}

fn server(meeting: Meeting) -> witrpc::Result<WitServer> {
    // At most 100 values wait here for a subscriber that does not keep up; beyond that the oldest go.
    let copied = Event::new().with_capacity(100).with_overflow(Overflow::DropOldest);
    WitServerBuilder::new()
        .with_service(BackupServer::new(Disk { copied }))
        .with_memory_mapped_file(meeting.endpoint)
        .with_access_token(meeting.token)
        .build()
}

async fn client(meeting: Meeting) -> Outcome {
    let client = WitClientBuilder::new()
        .with_memory_mapped_file(meeting.endpoint)
        .with_access_token(meeting.token)
        .build()?;
    client.connect(Duration::from_secs(5)).await?;
    let backup = client.get_service::<BackupClient>();

    println!("five files, watched:");
    let mut copied = backup.copied().subscribe();
    let mut run = std::pin::pin!(backup.run(5));
    let bytes = loop {
        tokio::select! {
            biased; // All that a handler raised arrives before its answer: so it is printed before.
            Some(next) = copied.next() => println!("  {:?}", next?),
            bytes = &mut run => break bytes?,
        }
    };
    println!("  {bytes} bytes in all\n");

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

    client.disconnect().await;
    Ok(())
}
