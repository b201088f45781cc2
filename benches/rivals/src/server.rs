//! The server's process, as the client's sees it: started, asked, ended.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::allocations;
use crate::system::Flavour;

/// The server's process, ended with this value.
pub(crate) struct Server {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it said when it was ready.
    pub(crate) words: String,
}

impl Server {
    /// Starts it, and waits until it can be reached.
    pub(crate) fn start(role: &str, job: &impl Serialize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([role, &serde_json::to_string(job)?])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take().context("a pipe")?;
        let stdout = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut server = Self { child, stdin, stdout, words: String::new() };
        let line = server.line()?;
        let words = line.strip_prefix("ready").with_context(|| format!("not ready: {line:?}"))?;
        words.trim().clone_into(&mut server.words);
        Ok(server)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Begins to count what the server allocates.
    pub(crate) fn start_counting(&mut self) -> Result<()> {
        let answer = self.ask("count")?;
        ensure!(answer == "counting", "{answer:?}");
        Ok(())
    }

    /// Ends that, and tells how many allocations there were.
    pub(crate) fn stop_counting(&mut self) -> Result<u64> {
        Ok(self.ask("tell")?.parse()?)
    }

    fn ask(&mut self, question: &str) -> Result<String> {
        writeln!(self.stdin, "{question}")?;
        self.line()
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.stdout.read_line(&mut line)? > 0, "the server has ended");
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its input ends when this process does; this is for those that go on.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// In the server's process: answers its client's process, until that closes the input.
pub(crate) async fn told_to_end(flavour: Flavour) {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            match line.as_str() {
                "count" => {
                    allocations::start();
                    println!("counting");
                }
                _ => println!("{}", allocations::stop()),
            }
        }
        if sender.send(()).is_err() || flavour == Flavour::Blocking {
            std::process::exit(0);
        }
    });
    // The sender is never dropped before it has sent.
    receiver.await.ok();
}
