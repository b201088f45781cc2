//! Two processes that run one scenario: a client in this process and its server in the other. Either of the two can be the child.
//!
//! A child is a second instance of this test binary that runs only [`entry`]. The side with the scenario sends [`Order`]s, one JSON
//! line each, to the side with the servers. The scenario is over when its lines end.

use std::collections::HashMap;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use witrpc::Load;
use witrpc::prelude::*;

use crate::contract::{CalcClient, CalcServer, Calculator, WordsServer};
use crate::events::{Station, TickerServer};
use crate::fixture::{
    Flavor, GUARD, block_on, eventually, files, no_rescues, private_directory, runtime, watch,
};
use crate::streams::{Book, LogServer};
use crate::system::{anonymous_kib, descriptors, go_on, leave_descriptors, started, stop};

/// Tells a child its part.
const PART: &str = "WITRPC_IT_PART";
/// In front of every line that is for the other process: the test harness writes there too.
const MARK: &str = "witrpc-it ";

/// What a process has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) directory: PathBuf,
    pub(crate) flavor: Flavor,
    /// The scenario to play; the process has the servers if there is none.
    pub(crate) scenario: Option<String>,
    /// Whether its connections look for work that no wake-up announced; one that does is not silent when idle.
    pub(crate) watched: bool,
}

impl Part {
    pub(crate) fn host(directory: &Path, flavor: Flavor) -> Self {
        Self { directory: directory.to_owned(), flavor, scenario: None, watched: true }
    }

    pub(crate) fn player(directory: &Path, flavor: Flavor, scenario: &str) -> Self {
        Self { scenario: Some(scenario.to_owned()), ..Self::host(directory, flavor) }
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn unwatched(self) -> Self {
        Self { watched: false, ..self }
    }
}

/// Which process is the child.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cast {
    ServerInChild,
    ClientInChild,
}

/// An endpoint of the process with the servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Endpoint {
    pub(crate) name: String,
    pub(crate) max_clients: u32,
    pub(crate) size: u64,
    pub(crate) encrypted: bool,
    pub(crate) max_message_size: u64,
    pub(crate) max_buffered: Option<u64>,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            name: "test".to_owned(),
            max_clients: 8,
            size: 1 << 20,
            encrypted: false,
            max_message_size: 64 << 20,
            max_buffered: None,
        }
    }
}

impl Endpoint {
    fn file(&self, directory: &Path) -> MemoryMappedFile {
        MemoryMappedFile::new(&self.name)
            .with_directory(directory)
            .with_max_clients(self.max_clients)
            .with_size(self.size)
    }

    /// A server of all services.
    pub(crate) fn server(&self, directory: &Path, calculator: &Calculator) -> WitServer {
        let builder = WitServerBuilder::new();
        let builder = if self.encrypted { builder.with_encryption() } else { builder };
        let builder = match self.max_buffered {
            Some(bytes) => builder.with_max_buffered(bytes),
            None => builder,
        };
        builder
            .with_memory_mapped_file(self.file(directory))
            .with_max_message_size(self.max_message_size)
            .with_service(CalcServer::new(calculator.clone()))
            .with_service(WordsServer::new(calculator.clone()))
            .with_service(TickerServer::new(Station::default()))
            .with_service(LogServer::new(Book::default()))
            .build()
            .unwrap()
    }

    /// A client that is not connected.
    pub(crate) fn client(&self, directory: &Path) -> WitClient {
        let builder = WitClientBuilder::new();
        let builder = if self.encrypted { builder.with_encryption() } else { builder };
        builder.with_memory_mapped_file(self.file(directory)).build().unwrap()
    }
}

/// What the process with the servers is told to do. But for the first, it is about the endpoint `test`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Make a server, and let clients in.
    Serve(Endpoint),
    Start,
    Stop,
    Drop,
    /// How many clients are connected?
    Clients,
    /// The sum of all that the server's connections hold.
    Load,
    /// How many subscriptions and streams do they have together?
    Open,
    /// What do they hold for their peers, by their own account, tables included?
    Memory,
    /// Of that, requests.
    Requests,
    /// What may each of them hold, but for tables?
    MemoryBound,
    /// How many descriptors does the process have?
    Descriptors,
    /// Its anonymous memory, in KiB.
    Anonymous,
    /// From now on it may open so many descriptors more.
    LeaveDescriptors(u64),
    /// Nothing: somebody is there.
    Greet,
    /// From now on, a panic anywhere ends the process.
    PanicIsDeath,
}

type Report = Result<u64, String>;

/// The process with the servers.
struct Host {
    directory: PathBuf,
    servers: HashMap<String, WitServer>,
}

impl Host {
    async fn obey(&mut self, order: Order) -> Report {
        let test = self.servers.get("test").ok_or_else(|| "no server".to_owned());
        match order {
            Order::Serve(endpoint) => {
                let server = endpoint.server(&self.directory, &Calculator::default());
                server.start_waiting_for_connection().await.map_err(|e| e.to_string())?;
                self.servers.insert(endpoint.name, server);
                Ok(0)
            }
            Order::Start => {
                let started = test?.start_waiting_for_connection().await;
                started.map(|()| 0).map_err(|e| e.to_string())
            }
            Order::Stop => {
                test?.stop_waiting_for_connection().await;
                Ok(0)
            }
            Order::Drop => {
                drop(self.servers.remove("test"));
                Ok(0)
            }
            Order::Clients => Ok(test?.client_count() as u64),
            Order::Load => Ok(test?.load().iter().map(sum).sum()),
            Order::Open => {
                let open = |load: &Load| (load.subscriptions + load.streams) as u64;
                Ok(test?.load().iter().map(open).sum())
            }
            Order::Memory => {
                let all = |load: &Load| load.memory.bounded() + load.memory.tables;
                Ok(test?.load().iter().map(all).sum())
            }
            Order::Requests => Ok(test?.load().iter().map(|load| load.memory.requests).sum()),
            Order::MemoryBound => Ok(test?.memory_bound()),
            Order::Descriptors => Ok(descriptors() as u64),
            Order::Anonymous => Ok(anonymous_kib()),
            Order::LeaveDescriptors(free) => leave_descriptors(free).map(|()| 0),
            Order::Greet => Ok(0),
            Order::PanicIsDeath => {
                let report = std::panic::take_hook();
                std::panic::set_hook(Box::new(move |panic| {
                    report(panic);
                    std::process::abort();
                }));
                Ok(0)
            }
        }
    }

    async fn obey_all(mut self, link: &mut Link) {
        while let Some(order) = link.receive().await {
            let report = self.obey(order).await;
            link.send(&report);
        }
    }
}

/// All that a connection holds, as one number; 0 is nothing.
pub(crate) fn sum(load: &Load) -> u64 {
    let counts = load.calls + load.partial_messages + load.handlers;
    counts as u64 + load.queued_bytes
}

/// Lines to and from the other process.
struct Link {
    lines: mpsc::UnboundedReceiver<String>,
    writer: Box<dyn Write + Send>,
}

impl Link {
    fn new(reader: impl Read + Send + 'static, writer: impl Write + Send + 'static) -> Self {
        let (sender, lines) = mpsc::unbounded_channel();
        // Reading blocks; the end of the other process ends it.
        std::thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map_while(Result::ok);
            for line in lines {
                let Some(line) = line.strip_prefix(MARK) else { continue };
                if sender.send(line.to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { lines, writer: Box::new(writer) }
    }

    /// `None` once the other process has closed its end.
    async fn receive<T: DeserializeOwned>(&mut self) -> Option<T> {
        let line = self.lines.recv().await?;
        Some(serde_json::from_str(&line).unwrap())
    }

    fn send(&mut self, value: &impl Serialize) {
        // The harness may be in the middle of a line of its own.
        let line = format!("\n{MARK}{}\n", serde_json::to_string(value).unwrap());
        self.writer.write_all(line.as_bytes()).unwrap();
        self.writer.flush().unwrap();
    }
}

/// A child process, which is killed at the end at the latest.
pub(crate) struct Peer {
    child: Child,
    link: Option<Link>,
}

impl Peer {
    /// Starts this test binary once more.
    pub(crate) fn start(part: &Part) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "peer::a_child_says_that_it_is_there_and_leaves", "--nocapture"])
            .env(PART, serde_json::to_string(part).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = started(|| command.spawn());
        let link = Link::new(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        Self { child, link: Some(link) }
    }

    /// Starts a process with the servers.
    pub(crate) fn host(directory: &Path, flavor: Flavor) -> Self {
        Self::start(&Part::host(directory, flavor))
    }

    /// Starts a process that plays a scenario.
    pub(crate) fn player(directory: &Path, flavor: Flavor, scenario: &str) -> Self {
        Self::start(&Part::player(directory, flavor, scenario))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has the child do something.
    pub(crate) async fn order(&mut self, order: Order) -> Report {
        let link = self.link.as_mut().unwrap();
        link.send(&order);
        link.receive().await.expect("the child has gone")
    }

    /// The next order that the child gives; `None` once it has closed its end.
    pub(crate) async fn receive(&mut self) -> Option<Order> {
        self.link.as_mut().unwrap().receive().await
    }

    /// Tells the child that its order was carried out.
    pub(crate) fn answer(&mut self) {
        self.link.as_mut().unwrap().send(&Report::Ok(0));
    }

    /// For plays of their own kind: a line to the child.
    pub(crate) fn tell(&mut self, value: &impl Serialize) {
        self.link.as_mut().unwrap().send(value);
    }

    /// A line of the child; `None` once it has closed its end.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Option<T> {
        self.link.as_mut().unwrap().receive().await
    }

    /// Takes it all processor time.
    pub(crate) async fn stop(&self) {
        stop(self.id()).await;
    }

    /// Gives it back.
    pub(crate) fn go_on(&self) {
        go_on(self.id());
    }

    /// As `SIGKILL` does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Closes our end, and waits for the child to leave in good order.
    pub(crate) async fn leaves(mut self) {
        drop(self.link.take());
        eventually("the child leaves", || self.child.try_wait().unwrap().is_some()).await;
        assert!(self.child.wait().unwrap().success(), "the child failed");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended long ago.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a scenario has: a directory of its own, and somebody with servers in another process.
pub(crate) struct Stage {
    pub(crate) directory: PathBuf,
    link: Link,
}

impl Stage {
    /// Has the other process do something.
    pub(crate) async fn order(&mut self, order: Order) -> Report {
        self.link.send(&order);
        self.link.receive().await.expect("the other process has gone")
    }

    /// For plays of their own kind: a line to the other process.
    pub(crate) fn tell(&mut self, value: &impl Serialize) {
        self.link.send(value);
    }

    /// A line of the other process; `None` once it has closed its end.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Option<T> {
        self.link.receive().await
    }

    /// Has the other process do something that may not fail.
    pub(crate) async fn must(&mut self, order: Order) -> u64 {
        self.order(order).await.unwrap()
    }

    /// A client of the endpoint `test` that is not connected.
    pub(crate) fn client(&self) -> WitClient {
        Endpoint::default().client(&self.directory)
    }

    /// Has a server made, and connects to it.
    pub(crate) async fn connected(&mut self, endpoint: Endpoint) -> (WitClient, CalcClient) {
        self.must(Order::Serve(endpoint)).await;
        let client = self.client();
        client.connect(GUARD).await.unwrap();
        let calc = client.get_service();
        (client, calc)
    }

    /// Waits until the server says so.
    pub(crate) async fn until(&mut self, order: Order, value: u64) {
        let deadline = tokio::time::Instant::now() + GUARD / 2;
        loop {
            let is = self.must(order.clone()).await;
            if is == value {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{order:?} is {is}, never {value}");
            tokio::task::yield_now().await;
        }
    }

    /// Waits until neither side holds anything.
    pub(crate) async fn nothing_is_left(&mut self, client: &WitClient) {
        eventually("the client holds nothing", || client.load() == Load::default()).await;
        self.until(Order::Load, 0).await;
    }
}

/// A scenario, played by the side with the client.
pub(crate) type Scenario = fn(Stage) -> Pin<Box<dyn Future<Output = ()>>>;

/// Plays a scenario in two processes; nothing may be left in its directory.
pub(crate) fn play(cast: Cast, flavor: Flavor, name: &str, scenario: Scenario) {
    let directory = private_directory();
    let path = directory.path().to_owned();
    block_on(flavor, async {
        match cast {
            Cast::ServerInChild => {
                let mut peer = Peer::host(&path, flavor);
                let link = peer.link.take().unwrap();
                scenario(Stage { directory: path, link }).await;
                peer.leaves().await;
            }
            Cast::ClientInChild => {
                let mut peer = Peer::player(&path, flavor, name);
                let host = Host { directory: path, servers: HashMap::new() };
                host.obey_all(peer.link.as_mut().unwrap()).await;
                peer.leaves().await;
            }
        }
    });
    assert_eq!(files(directory.path()), [""; 0], "left behind");
}

/// A child begins here. In the parent it is the least of all plays.
#[test]
fn a_child_says_that_it_is_there_and_leaves() {
    if let Ok(part) = std::env::var(PART) {
        return perform(serde_json::from_str(&part).unwrap());
    }
    let directory = private_directory();
    block_on(Flavor::MultiThread, async {
        let mut peer = Peer::host(directory.path(), Flavor::CurrentThread);
        assert_eq!(peer.order(Order::Greet).await, Ok(0));
        assert!(peer.order(Order::Stop).await.is_err(), "there is no server to stop");
        peer.leaves().await;
    });
    assert_eq!(files(directory.path()), [""; 0]);
}

/// What a child does.
fn perform(part: Part) {
    let Part { directory, flavor, scenario, watched } = part;
    if watched {
        watch();
    }
    let mut link = Link::new(std::io::stdin(), std::io::stdout());
    // Without a limit of its own: the end of its parent is the end of its lines, and of it.
    runtime(flavor).block_on(async {
        match scenario {
            None => Host { directory, servers: HashMap::new() }.obey_all(&mut link).await,
            Some(name) => crate::processes::scenario(&name)(Stage { directory, link }).await,
        }
    });
    no_rescues();
}
