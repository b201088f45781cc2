//! What the processes of these tests do.

#![expect(clippy::print_stdout, reason = "what they print is for their hosts")]

use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use witrpc::prelude::*;
use witrpc::{Agent, CallContext, Descriptor, Error, Overflow, Streaming, Worker};

use super::{GUARD, MARK, worker};
use crate::fixture::{Flavor, runtime, watch};

/// Tells a process its role.
pub(super) const ROLE: &str = "WITRPC_IT_WORKER";

/// What workers do.
#[witrpc::service]
pub(super) trait Job {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
    async fn process(&self) -> witrpc::Result<u32>;
    /// Calls the host.
    async fn ring(&self, times: u32) -> witrpc::Result<u32>;
    /// Rings, and never answers.
    async fn wait(&self) -> witrpc::Result<()>;
    /// Rings, and blocks its thread from then on.
    async fn block(&self) -> witrpc::Result<()>;
    /// Prints a line on standard output, and one on standard error.
    async fn print(&self, line: String) -> witrpc::Result<()>;
    /// Ends the process with this status.
    async fn leave(&self, status: i32) -> witrpc::Result<()>;
    /// Closes the connection, and goes on.
    async fn break_off(&self) -> witrpc::Result<()>;
    async fn tick(&self, value: u32) -> witrpc::Result<()>;
    /// Reads all of a file.
    async fn read(&self, file: Descriptor) -> witrpc::Result<String>;
    /// Returns a pipe from which these texts can be read, one each.
    async fn pipes(&self, texts: Vec<String>) -> witrpc::Result<Vec<Descriptor>>;
    /// Fails, with a file from which the text can be read.
    async fn complain(&self, text: String) -> Result<(), Complaint>;
    /// Has the host read a pipe with this text.
    async fn show_host(&self, text: String) -> witrpc::Result<String>;
    /// Takes a file, rings, and never answers.
    async fn take_and_wait(&self, file: Descriptor) -> witrpc::Result<()>;
    /// Rings, and never answers.
    async fn hold(&self, file: Descriptor) -> witrpc::Result<()>;
    /// Does nothing with it.
    async fn ignore(&self, file: Descriptor) -> witrpc::Result<()>;
    /// Leaves this process so many descriptors.
    async fn leave_descriptors(&self, free: u64) -> witrpc::Result<()>;
    /// The number of descriptors that the process has.
    async fn descriptors(&self) -> witrpc::Result<usize>;
    /// Raises `opened` for each of these texts.
    async fn publish(&self, texts: Vec<String>) -> witrpc::Result<()>;
    /// Raises `many` with so many descriptors.
    async fn publish_many(&self, count: usize) -> witrpc::Result<()>;
    /// Raises `awaited` for each of these texts.
    async fn publish_and_wait(&self, texts: Vec<String>) -> witrpc::Result<()>;
    /// Raises `opened` with the writing end of a pipe, and returns what all that got it have written, once they have closed it.
    async fn collect(&self) -> witrpc::Result<String>;
    /// Pipes from which these texts can be read.
    async fn stream_pipes(&self, texts: Vec<String>) -> witrpc::Result<Streaming<Descriptor>>;
    /// Reads all of each file.
    async fn read_stream(&self, files: Streaming<Descriptor>) -> witrpc::Result<Vec<String>>;
    /// Gets so many items, rings, and never answers. It has them, and takes none of their descriptors.
    async fn get_and_wait(&self, files: Streaming<Descriptor>, count: u32) -> witrpc::Result<()>;
    /// Subscribes to what the host shows, and rings. Gets so many values, takes the descriptor of one of them, rings, and never answers.
    async fn watch_and_wait(&self, count: u32) -> witrpc::Result<()>;
    /// What the system proves about the host: process, user and group; and whether there is a pidfd of it.
    async fn host(&self) -> witrpc::Result<(Option<u32>, Option<u32>, Option<u32>, bool)>;
    #[event]
    fn ticked(&self) -> &Event<u32>;
    #[event]
    fn opened(&self) -> &Event<(usize, Descriptor)>;
    #[event]
    fn awaited(&self) -> &Event<(usize, Descriptor)>;
    #[event]
    fn many(&self) -> &Event<Vec<Descriptor>>;
}

/// An error that has a descriptor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Complaint {
    Written(Descriptor),
    Rpc(String),
}

impl From<witrpc::Error> for Complaint {
    fn from(error: witrpc::Error) -> Self {
        Self::Rpc(error.to_string())
    }
}

/// What a worker is not offered by its host, and a host not by its worker.
#[witrpc::service]
pub(super) trait Absent {
    async fn take(&self, file: Descriptor) -> witrpc::Result<()>;
}

/// The reading end of a pipe with this text in it.
fn pipe(text: &str) -> Descriptor {
    let (reading, mut writing) = std::io::pipe().unwrap();
    writing.write_all(text.as_bytes()).unwrap();
    Descriptor::new(reading)
}

/// What hosts offer.
#[witrpc::service]
pub(super) trait Bell {
    /// Returns how often it has been rung.
    async fn ring(&self, times: u32) -> witrpc::Result<u32>;
    /// Reads all of a file.
    async fn read(&self, file: Descriptor) -> witrpc::Result<String>;
    #[event]
    fn shown(&self) -> &Event<Descriptor>;
}

/// The host's implementation.
#[derive(Clone, Debug, Default)]
pub(super) struct Doorbell {
    pub(super) rung: Arc<AtomicU32>,
    pub(super) shown: Event<Descriptor>,
}

impl Bell for Doorbell {
    async fn ring(&self, times: u32) -> witrpc::Result<u32> {
        Ok(self.rung.fetch_add(times, Ordering::SeqCst) + times)
    }

    async fn read(&self, file: Descriptor) -> witrpc::Result<String> {
        let file = std::fs::File::from(file.take().await?);
        std::io::read_to_string(file).map_err(Error::fault)
    }

    fn shown(&self) -> &Event<Descriptor> {
        &self.shown
    }
}

/// The worker's.
#[derive(Debug)]
struct Craft {
    ticked: Event<u32>,
    opened: Event<(usize, Descriptor)>,
    awaited: Event<(usize, Descriptor)>,
    many: Event<Vec<Descriptor>>,
    break_off: Arc<Notify>,
}

impl Default for Craft {
    fn default() -> Self {
        Self {
            ticked: Event::new(),
            opened: Event::new(),
            awaited: Event::new().with_overflow(Overflow::Block(GUARD)),
            many: Event::new(),
            break_off: Arc::default(),
        }
    }
}

async fn ring() -> witrpc::Result<()> {
    let bell: BellClient = CallContext::current().peer().get_service();
    bell.ring(1).await.map(drop)
}

impl Job for Craft {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
        Ok(a + b)
    }

    async fn process(&self) -> witrpc::Result<u32> {
        Ok(std::process::id())
    }

    async fn ring(&self, times: u32) -> witrpc::Result<u32> {
        let bell: BellClient = CallContext::current().peer().get_service();
        bell.ring(times).await
    }

    async fn wait(&self) -> witrpc::Result<()> {
        ring().await?;
        std::future::pending().await
    }

    async fn block(&self) -> witrpc::Result<()> {
        ring().await?;
        loop {
            std::thread::park();
        }
    }

    async fn print(&self, line: String) -> witrpc::Result<()> {
        println!("{line}");
        eprintln!("{line}");
        Ok(())
    }

    async fn leave(&self, status: i32) -> witrpc::Result<()> {
        std::process::exit(status)
    }

    async fn break_off(&self) -> witrpc::Result<()> {
        self.break_off.notify_one();
        Ok(())
    }

    async fn tick(&self, value: u32) -> witrpc::Result<()> {
        self.ticked.raise(value)
    }

    async fn read(&self, file: Descriptor) -> witrpc::Result<String> {
        let file = std::fs::File::from(file.take().await?);
        std::io::read_to_string(file).map_err(Error::fault)
    }

    async fn pipes(&self, texts: Vec<String>) -> witrpc::Result<Vec<Descriptor>> {
        Ok(texts.iter().map(|text| pipe(text)).collect())
    }

    async fn complain(&self, text: String) -> Result<(), Complaint> {
        Err(Complaint::Written(pipe(&text)))
    }

    async fn show_host(&self, text: String) -> witrpc::Result<String> {
        let bell: BellClient = CallContext::current().peer().get_service();
        bell.read(pipe(&text)).await
    }

    async fn take_and_wait(&self, file: Descriptor) -> witrpc::Result<()> {
        let _file = file.take().await?;
        self.wait().await
    }

    async fn hold(&self, _file: Descriptor) -> witrpc::Result<()> {
        self.wait().await
    }

    async fn ignore(&self, _file: Descriptor) -> witrpc::Result<()> {
        Ok(())
    }

    async fn leave_descriptors(&self, free: u64) -> witrpc::Result<()> {
        // What it inherited has numbers of its host's, far above those that are free.
        let lowest = std::fs::File::open("/dev/null").map_err(Error::fault)?.as_raw_fd();
        let current = Some(u64::from(lowest.cast_unsigned()) + free);
        let limit = Rlimit { current, ..getrlimit(Resource::Nofile) };
        setrlimit(Resource::Nofile, limit).map_err(Error::fault)
    }

    async fn descriptors(&self) -> witrpc::Result<usize> {
        Ok(crate::system::descriptors())
    }

    async fn publish(&self, texts: Vec<String>) -> witrpc::Result<()> {
        texts.iter().enumerate().try_for_each(|(at, text)| self.opened.raise((at, pipe(text))))
    }

    async fn publish_many(&self, count: usize) -> witrpc::Result<()> {
        self.many.raise((0..count).map(|_| pipe("")).collect())
    }

    async fn publish_and_wait(&self, texts: Vec<String>) -> witrpc::Result<()> {
        for (at, text) in texts.iter().enumerate() {
            self.awaited.raise_async((at, pipe(text))).await?;
        }
        Ok(())
    }

    async fn collect(&self) -> witrpc::Result<String> {
        let (reading, writing) = std::io::pipe().map_err(Error::fault)?;
        self.opened.raise((0, Descriptor::new(writing)))?;
        let read = tokio::task::spawn_blocking(move || std::io::read_to_string(reading));
        read.await.map_err(Error::fault)?.map_err(Error::fault)
    }

    async fn stream_pipes(&self, texts: Vec<String>) -> witrpc::Result<Streaming<Descriptor>> {
        Ok(Streaming::iter(texts.into_iter().map(|text| pipe(&text))))
    }

    async fn read_stream(&self, mut files: Streaming<Descriptor>) -> witrpc::Result<Vec<String>> {
        let mut texts = Vec::new();
        while let Some(file) = files.next().await {
            texts.push(self.read(file?).await?);
        }
        Ok(texts)
    }

    async fn get_and_wait(
        &self,
        mut files: Streaming<Descriptor>,
        count: u32,
    ) -> witrpc::Result<()> {
        let mut kept = Vec::new();
        for _ in 0..count {
            kept.extend(files.next().await.transpose()?);
        }
        self.wait().await
    }

    async fn watch_and_wait(&self, count: u32) -> witrpc::Result<()> {
        let bell: BellClient = CallContext::current().peer().get_service();
        let mut shown = bell.shown().subscribe();
        bell.ring(1).await?;
        let mut kept = Vec::new();
        for _ in 0..count {
            kept.extend(shown.next().await.transpose().map_err(Error::fault)?);
        }
        let taken = kept.pop().ok_or_else(|| Error::fault("it got none"))?.take().await?;
        let waited = self.wait().await;
        drop((kept, taken, shown));
        waited
    }

    async fn host(&self) -> witrpc::Result<(Option<u32>, Option<u32>, Option<u32>, bool)> {
        let host = CallContext::current().peer().credentials();
        let pidfd = host.process_handle::<std::os::fd::OwnedFd>().is_some();
        Ok((host.process_id, host.user_id, host.group_id, pidfd))
    }

    fn ticked(&self) -> &Event<u32> {
        &self.ticked
    }

    fn opened(&self) -> &Event<(usize, Descriptor)> {
        &self.opened
    }

    fn awaited(&self) -> &Event<(usize, Descriptor)> {
        &self.awaited
    }

    fn many(&self) -> &Event<Vec<Descriptor>> {
        &self.many
    }
}

/// An implementation, for a server of another kind.
pub(super) fn craft() -> impl Job {
    Craft::default()
}

fn agent() -> Agent {
    Agent::from_env().unwrap().with_service(JobServer::new(Craft::default()))
}

#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    watch();
    match &*role {
        "serves" => serve(Flavor::MultiThread),
        "paints" => super::lending::paint(false),
        "paints_trusting" => super::lending::paint(true),
        "paints_encrypted" => super::lending::paint_encrypted(),
        "serves_on_one_thread" => serve(Flavor::CurrentThread),
        "outlives_its_connection" => outlive(),
        "ignores_everything" => ignore_everything(),
        "breaks_off" => break_off(),
        "rings_at_start" => ring_at_start(),
        "fails" => fail(),
        "succeeds" => std::process::exit(0),
        "is_killed" => crate::system::kill_self(),
        "does_nothing" => loop {
            std::thread::park();
        },
        "starts_another" => start_another(),
        "speaks_postcard" => speak_postcard(),
        "is_impatient" => be_impatient(),
        "is_secret" => be_secret(),
        "hosts" => host(),
        _ => panic!("there is no role {role}"),
    }
    // The harness would print, and do more.
    std::process::exit(0);
}

fn serve(flavor: Flavor) {
    let agent = agent();
    runtime(flavor).block_on(agent.run()).unwrap();
}

/// Does not end when it should.
fn outlive() {
    let agent = agent();
    runtime(Flavor::MultiThread).block_on(agent.run()).unwrap();
    loop {
        std::thread::park();
    }
}

fn ignore_everything() {
    let agent = agent();
    runtime(Flavor::MultiThread).block_on(async {
        let _ignored = signal(SignalKind::terminate()).unwrap();
        agent.run().await.unwrap();
        std::future::pending::<()>().await;
    });
}

fn break_off() {
    let craft = Craft::default();
    let asked = Arc::clone(&craft.break_off);
    let agent = Agent::from_env().unwrap().with_service(JobServer::new(craft));
    runtime(Flavor::MultiThread).block_on(async {
        let host = agent.connect().await.unwrap();
        asked.notified().await;
        drop(host);
        std::future::pending::<()>().await;
    });
}

/// Asks its host before it was called.
fn ring_at_start() {
    let agent = agent();
    runtime(Flavor::MultiThread).block_on(async {
        let mut host = agent.connect().await.unwrap();
        let bell: BellClient = host.get_service();
        assert!(bell.ring(7).await.unwrap() >= 7);
        assert!(host.process_id().is_some());
        host.ended().await;
    });
}

fn fail() {
    for line in 0..30 {
        eprintln!("line {line}\x1b[2J");
    }
    std::process::exit(3);
}

/// Gives a command of its own the environment that it was given.
fn start_another() {
    assert!(Agent::is_announced());
    let agent = agent();
    assert!(!Agent::is_announced());
    let again = Agent::from_env().unwrap_err().to_string();
    assert!(again.contains("call Agent::from_env() once"), "{again}");
    let mut other = Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "workers::roles::looks_for_a_host"]).env(ROLE, "looks_for_a_host");
    assert!(other.status().unwrap().success());
    runtime(Flavor::MultiThread).block_on(agent.run()).unwrap();
}

#[test]
fn looks_for_a_host() {
    if std::env::var(ROLE).is_ok_and(|role| role == "looks_for_a_host") {
        assert!(!Agent::is_announced());
        let missing = Agent::from_env().unwrap_err().to_string();
        assert!(missing.contains("was not started by a Worker"), "{missing}");
    }
}

/// Ends with 7 if nobody comes.
fn be_impatient() {
    let agent = agent().with_host_timeout(super::SHORT);
    let nobody = runtime(Flavor::MultiThread).block_on(agent.run()).unwrap_err();
    assert!(nobody.to_string().contains("no connection to the host"), "{nobody}");
    std::process::exit(7);
}

fn be_secret() {
    let agent = agent().with_server(|server| server.with_message_pack().with_encryption());
    runtime(Flavor::MultiThread).block_on(agent.run()).unwrap();
}

fn speak_postcard() {
    let agent = agent().with_server(WitServerBuilder::with_postcard);
    // The host refuses it, or is refused.
    assert!(runtime(Flavor::MultiThread).block_on(agent.run()).is_err());
}

/// A host with a worker whose only thread is stuck. It says so, and waits to be killed.
fn host() {
    runtime(Flavor::MultiThread).block_on(async {
        let bell = Doorbell::default();
        let worker = worker("serves_on_one_thread").with_service(BellServer::new(bell.clone()));
        let worker: Worker = worker.spawn().await.unwrap();
        let stuck = tokio::spawn(worker.get_service::<JobClient>().block());
        while bell.rung.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let process = worker.process_id().unwrap();
        println!("\n{MARK}{process}");
        stuck.await.unwrap().unwrap();
    });
}
