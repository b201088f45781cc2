//! What a system is to the comparison: a server that is started, and a client that calls.

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::client::Calls;

/// Bytes of a client's shared memory, for systems that are told.
pub(crate) const REGION: u64 = 1 << 20;

/// What runs a system's futures, on both sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Flavour {
    /// A thread, which blocks or polls.
    Blocking,
    /// tokio's `current_thread`.
    Ct,
    /// tokio's `multi_thread` with two workers.
    Mt,
}

impl Flavour {
    /// Runs `future` to its end. With tokio that is in a task: the future given to `block_on` has a thread of its own
    /// beside the workers, and would pay for a hop to them.
    pub(crate) fn run<T: Send + 'static>(
        self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let mut builder = match self {
            Self::Blocking => return poll_once(future),
            Self::Ct => tokio::runtime::Builder::new_current_thread(),
            Self::Mt => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder.worker_threads(2).enable_all().build().expect("threads can be made");
        let ended = runtime.block_on(async { tokio::spawn(future).await });
        // What the tasks that are left hold on to must not hold up the end.
        runtime.shutdown_background();
        ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Blocking => "blocking",
            Self::Ct => "ct",
            Self::Mt => "mt",
        })
    }
}

fn poll_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a system that blocks has a future that waits"),
    }
}

/// Where client and server meet: a directory of their own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) directory: PathBuf,
    /// Clients at a time.
    pub(crate) clients: u32,
    /// Bytes of each client's shared memory, for systems that are told.
    pub(crate) region: u64,
    /// Calls that a server takes at a time, if more than usual.
    pub(crate) in_flight: Option<u32>,
}

impl Endpoint {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A name that nobody else has, for systems that have names instead of files.
    pub(crate) fn name(&self) -> String {
        let name = self.directory.file_name().unwrap_or(Path::new("rivals").as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// Tells the client's process that the server can be reached.
#[derive(Debug)]
pub(crate) struct Ready(());

impl Ready {
    /// For the server's process, once.
    pub(crate) fn new() -> Self {
        Self(())
    }

    pub(crate) fn tell(self, word: &str) {
        println!("ready {word}");
    }
}

/// One way between two processes.
pub(crate) trait System: Send + Sync + 'static {
    /// The client's side.
    type Client: Calls;

    /// Serves, until it is dropped or the process ends.
    fn serve(&self, at: Endpoint, ready: Ready) -> impl Future<Output = Result<()>> + Send;

    /// Connects to a server that has told that it is ready, with these words.
    fn connect(
        &self,
        at: Endpoint,
        words: String,
    ) -> impl Future<Output = Result<Self::Client>> + Send;
}

/// What a system is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No RPC: what cannot be undercut.
    Floor,
    Ours,
    Rival,
}
