//! What other clients of one server, which are connected and silent, cost one that calls; and the memory that each takes.
//!
//! There is a server for each number of clients, all of them at once, and they are called in turn, a slice each. The silent
//! clients of a server are in one further process, which is pinned to nothing.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cpu::{self, Placement};
use crate::job::{self, Job, Processes};
use crate::scenario::Scenario;
use crate::server::{self, Server};
use crate::system::{Endpoint, Flavour};
use crate::systems::witrpc::{EchoClient, Witrpc};

/// How many are connected, at each of the servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub(crate) counts: Vec<u32>,
    pub(crate) slices: u32,
    pub(crate) placement: Placement,
}

/// What was found at one server.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Found {
    pub(crate) clients: u32,
    /// Microseconds, of the client that calls.
    pub(crate) p50: f64,
    /// Memory that is no region, in bytes: of the server, and of the process with the silent clients.
    pub(crate) server: u64,
    pub(crate) silent: u64,
}

/// What the processes are told.
#[derive(Serialize, Deserialize)]
struct Task {
    crowd: Crowd,
    cpus: [Option<usize>; 2],
    directory: PathBuf,
}

/// Smaller than usual, as there are hundreds.
const REGION: u64 = 256 << 10;
/// Calls in a slice; the first of them warm up what others have used meanwhile.
const SLICE: i32 = 1000;
const WARM_UP: usize = 100;

impl Crowd {
    pub(crate) fn run(&self) -> Result<Vec<Found>> {
        let directory = job::directory()?;
        let cpus = self.placement.cpus();
        let task = Task { crowd: self.clone(), cpus, directory: directory.path().to_owned() };
        let output = Processes::start("crowd", &task)?.output(Duration::from_secs(120))?;
        Ok(serde_json::from_str(&output)?)
    }
}

/// The process of the client that calls.
pub(crate) fn play(argument: &str) -> Result<()> {
    let task: Task = serde_json::from_str(argument)?;
    job::raise_limit()?;
    let silent: Vec<_> = task.crowd.counts.iter().map(|n| Stand::start(&task, *n)).collect();
    cpu::pin(task.cpus[0])?;
    let mut stands = silent.into_iter().collect::<Result<Vec<_>>>()?;
    let found = Flavour::Mt.run(async move {
        for stand in &mut stands {
            stand.client = Some(connected(&stand.at).await?);
        }
        for _ in 0..task.crowd.slices {
            for stand in &mut stands {
                stand.slice().await?;
            }
        }
        stands.iter_mut().map(Stand::found).collect::<Result<Vec<_>>>()
    })?;
    println!("{}", serde_json::to_string(&found)?);
    Ok(())
}

/// The process of the silent clients.
pub(crate) fn play_silent(argument: &str) -> Result<()> {
    let job: Job = serde_json::from_str(argument)?;
    job::raise_limit()?;
    Flavour::Mt.run(async move {
        let mut clients = Vec::new();
        for _ in 1..job.at.clients {
            clients.push(connected(&job.at).await?);
        }
        println!("ready");
        server::told_to_end(Flavour::Mt).await;
        drop(clients);
        Ok(())
    })
}

async fn connected(at: &Endpoint) -> Result<EchoClient> {
    let client = Witrpc::Postcard.connected(Witrpc::file(at)).await?;
    Ok(client.get_service::<EchoClient>())
}

/// A server, its silent clients, and the client that calls.
struct Stand {
    at: Endpoint,
    silent: Server,
    server: Server,
    client: Option<EchoClient>,
    times: Vec<u32>,
}

impl Stand {
    fn start(task: &Task, clients: u32) -> Result<Self> {
        let mut job = Job::new("witrpc-postcard", Flavour::Mt, Placement::Free, Scenario::Small);
        job.cpus = task.cpus;
        let directory = task.directory.clone();
        job.at = Endpoint { directory, clients, region: REGION, in_flight: None };
        job.at.directory.push(clients.to_string());
        std::fs::DirBuilder::new().mode(0o700).create(&job.at.directory)?;
        let server = Server::start("server", &job)?;
        let silent = Server::start("silent", &job)?;
        Ok(Self { at: job.at, silent, server, client: None, times: Vec::new() })
    }

    async fn slice(&mut self) -> Result<()> {
        let Some(client) = &self.client else { return Ok(()) };
        let mut times = Vec::new();
        for n in 0..SLICE {
            let began = Instant::now();
            ensure!(client.add(n, 1).await? == n + 1, "a wrong answer");
            times.push(u32::try_from(began.elapsed().as_nanos())?);
        }
        self.times.extend_from_slice(&times[WARM_UP..]);
        Ok(())
    }

    fn found(&mut self) -> Result<Found> {
        self.times.sort_unstable();
        Ok(Found {
            clients: self.at.clients,
            p50: f64::from(self.times[self.times.len() / 2]) / 1e3,
            server: cpu::own_memory(self.server.id())?,
            silent: cpu::own_memory(self.silent.id())?,
        })
    }
}
