//! What the processes of these tests do.

#![expect(clippy::print_stdout, reason = "what they print is for their hosts")]

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use witrpc::prelude::*;
use witrpc::{Agent, CallContext, Worker};

use super::{MARK, worker};
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
    #[event]
    fn ticked(&self) -> &Event<u32>;
}

/// What hosts offer.
#[witrpc::service]
pub(super) trait Bell {
    /// Returns how often it has been rung.
    async fn ring(&self, times: u32) -> witrpc::Result<u32>;
}

/// The host's implementation.
#[derive(Clone, Debug, Default)]
pub(super) struct Doorbell {
    pub(super) rung: Arc<AtomicU32>,
}

impl Bell for Doorbell {
    async fn ring(&self, times: u32) -> witrpc::Result<u32> {
        Ok(self.rung.fetch_add(times, Ordering::SeqCst) + times)
    }
}

/// The worker's.
#[derive(Debug, Default)]
struct Craft {
    ticked: Event<u32>,
    break_off: Arc<Notify>,
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

    fn ticked(&self) -> &Event<u32> {
        &self.ticked
    }
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
