//! Streams in both directions: a log that is followed, one that is only looked into, and one that is sent in. Run it with
//!
//! ```text
//! cargo run --release --example log_tail
//! ```
//!
//! This program is the host, and starts itself a second time as its worker.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use witrpc::prelude::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A log that others write.
#[witrpc::service]
pub(crate) trait Log {
    /// All lines from this number on: those that are there, and then each as it is written.
    async fn tail(&self, from: usize) -> witrpc::Result<Streaming<Line>>;
    /// Writes lines, and returns how many there are then.
    async fn append(&self, texts: Streaming<String>) -> witrpc::Result<usize>;
    /// Nothing is written any more: who follows comes to an end.
    async fn close(&self) -> witrpc::Result<()>;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    number: usize,
    text: String,
}

/// The lines, and whether more may come; who follows is woken at every change.
#[derive(Default)]
struct Book {
    pages: watch::Sender<(Vec<String>, bool)>,
}

impl Log for Book {
    async fn tail(&self, from: usize) -> witrpc::Result<Streaming<Line>> {
        let mut pages = self.pages.subscribe();
        // A task that writes into a channel is the plainest way to make a stream. It is at most so far ahead of the window.
        let (lines, stream) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut number = from;
            loop {
                let (text, closed) = {
                    let (texts, closed) = &*pages.borrow_and_update();
                    (texts.get(number).cloned(), *closed)
                };
                match text {
                    Some(text) => {
                        // The reader has dropped its stream, or is gone.
                        if lines.send(Line { number, text }).await.is_err() {
                            return;
                        }
                        number += 1;
                    }
                    None if closed => return,
                    None => tokio::select! {
                        changed = pages.changed() => if changed.is_err() { return },
                        () = lines.closed() => return,
                    },
                }
            }
        });
        Ok(stream.into())
    }

    async fn append(&self, mut texts: Streaming<String>) -> witrpc::Result<usize> {
        while let Some(text) = texts.next().await {
            let text = text?; // Also if the client is gone half-way: that is no end.
            self.pages.send_modify(|(texts, _)| texts.push(text));
        }
        Ok(self.pages.borrow().0.len())
    }

    async fn close(&self) -> witrpc::Result<()> {
        self.pages.send_modify(|(_, closed)| *closed = true);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Outcome {
    if Agent::is_announced() {
        return Ok(Agent::from_env()?.with_service(LogServer::new(Book::default())).run().await?);
    }
    let worker = Worker::this_program().spawn().await?;
    follow(&worker.get_service::<LogClient>()).await?;
    worker.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

async fn follow(log: &LogClient) -> Outcome {
    println!("a log that is followed while it is written:");
    let mut tail = log.tail(0).await?;
    let (texts, stream) = mpsc::channel(1);
    let append = tokio::spawn(log.append(stream.into()));
    for text in ["it begins", "it goes on", "it pauses"] {
        texts.send(text.to_owned()).await?;
        let line = tail.next().await.ok_or("an end")??;
        println!("  {}: {}", line.number, line.text);
    }
    drop(texts); // That is the end of what is sent in.
    println!("  {} lines were written\n", append.await??);

    println!("a hundred thousand lines, of which three are looked at:");
    let texts = Streaming::iter((0..100_000).map(|number| format!("line {number}")));
    let count = log.append(texts).await?;
    let mut few = log.tail(count - 50_000).await?.with_window(3);
    for _ in 0..3 {
        println!("  {:?}", few.next().await.ok_or("an end")??);
    }
    drop(few); // The server's task is told, and stops; it was no further than the window, and its channel.

    println!("\nand all the others:");
    log.close().await?;
    let (mut lines, mut bytes) = (0, 0);
    while let Some(line) = tail.next().await {
        lines += 1;
        bytes += line?.text.len();
    }
    println!("  {lines} lines of {bytes} bytes, and then the end");
    Ok(())
}
