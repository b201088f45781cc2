//! What is measured: the one code for all systems.

use std::fmt;
use std::future::Future;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::allocations;
use crate::cpu::{self, CpuClock};
use crate::sample::{Sample, Used};
use crate::server::Server;
use crate::system::{Caller, Pipe};

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Scenario {
    /// `add(i32, i32) -> i32`, one call after the other.
    Small,
    /// The same with that many calls at a time on one connection.
    InFlight(usize),
    /// So many bytes there and back, one call after the other.
    Echo(usize),
    /// The small call once per millisecond.
    Paced,
    /// A connection without calls.
    Idle,
    /// An echo of 64 B, one after the other, while two tasks echo 1 MiB on the same connection.
    BesideBulk,
    /// As [`Small`](Self::Small), with what both processes allocate counted.
    Allocations,
}

impl Scenario {
    /// Those of the table.
    pub(crate) const TABLE: [Self; 9] = [
        Self::Small,
        Self::InFlight(64),
        Self::Echo(64),
        Self::Echo(4 << 10),
        Self::Echo(64 << 10),
        Self::Echo(1 << 20),
        Self::Echo(16 << 20),
        Self::Paced,
        Self::Idle,
    ];

    pub(crate) fn payload(self) -> usize {
        match self {
            Self::Echo(bytes) => bytes,
            Self::BesideBulk => SMALL_PAYLOAD,
            _ => 0,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => f.pad("small"),
            Self::InFlight(calls) => f.pad(&format!("in_flight_{calls}")),
            Self::Echo(bytes) => f.pad(&format!("echo_{}", size(*bytes))),
            Self::Paced => f.pad("paced"),
            Self::Idle => f.pad("idle"),
            Self::BesideBulk => f.pad("beside_bulk"),
            Self::Allocations => f.pad("allocations"),
        }
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes}"),
        1024..0x10_0000 => format!("{}k", bytes >> 10),
        _ => format!("{}m", bytes >> 20),
    }
}

impl FromStr for Scenario {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(calls) = text.strip_prefix("in_flight_") {
            return Ok(Self::InFlight(calls.parse().context("a number of calls")?));
        }
        if let Some(size) = text.strip_prefix("echo_") {
            let (digits, shift) = match size.strip_suffix('k') {
                Some(digits) => (digits, 10),
                None => size.strip_suffix('m').map_or((size, 0), |digits| (digits, 20)),
            };
            return Ok(Self::Echo(digits.parse::<usize>().context("a number of bytes")? << shift));
        }
        let all = [Self::Small, Self::Paced, Self::Idle, Self::BesideBulk, Self::Allocations];
        let known = all.into_iter().find(|scenario| scenario.to_string() == text);
        known.with_context(|| format!("there is no scenario {text:?}"))
    }
}

const SMALL_PAYLOAD: usize = 64;
const BULK_PAYLOAD: usize = 1 << 20;
const BULK_TASKS: usize = 2;
const PACE: Duration = Duration::from_millis(1);
/// How long it takes at least until caches, adaptive waiting and idle connections have settled.
const SETTLE: Duration = Duration::from_millis(300);

/// How long, and beside which server.
pub(crate) struct Meter {
    pub(crate) duration: Duration,
    pub(crate) server: Server,
}

impl Meter {
    fn cpu(&self) -> Result<Duration> {
        Ok(CpuClock::of_this_process().now() + CpuClock::of(self.server.id())?.now())
    }

    fn switches(&self) -> Result<u64> {
        Ok(cpu::switches(std::process::id())? + cpu::switches(self.server.id())?)
    }

    fn start_counting(&mut self) -> Result<()> {
        self.server.start_counting()?;
        allocations::start();
        Ok(())
    }

    fn stop_counting(&mut self) -> Result<u64> {
        Ok(allocations::stop() + self.server.stop_counting()?)
    }
}

/// Nanoseconds, one for each call.
#[derive(Debug)]
pub(crate) struct Times(Vec<u32>);

impl Default for Times {
    /// With room, so that growing falls into no call.
    fn default() -> Self {
        Self(Vec::with_capacity(1 << 20))
    }
}

impl Times {
    /// Notes the time since `began`, and returns the time.
    fn note(&mut self, began: Instant) -> Instant {
        let now = Instant::now();
        self.0.push(u32::try_from((now - began).as_nanos()).unwrap_or(u32::MAX));
        now
    }
}

/// What the scenarios need of a client, whichever shape it has.
pub(crate) trait Calls: Send + 'static {
    fn add(&mut self, a: i32, b: i32) -> impl Future<Output = Result<i32>> + Send;

    fn echo(&mut self, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>>> + Send;

    /// Small calls, so many at a time.
    fn flood(
        &mut self,
        in_flight: usize,
        until: Instant,
        times: &mut Times,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Begins to echo large payloads without a pause, on the same connection.
    fn start_bulk(&mut self) -> Result<JoinSet<Result<()>>>;
}

/// Runs one scenario: a while to warm up, and then the one that counts.
pub(crate) async fn run<C: Calls>(
    client: &mut C,
    scenario: Scenario,
    meter: &mut Meter,
) -> Result<Sample> {
    ensure!(client.add(1, 2).await? == 3, "a wrong answer");
    let mut times = Times::default();
    let mut echo = Echo::new(scenario.payload());
    let bulk = match scenario {
        Scenario::BesideBulk => Some(client.start_bulk()?),
        _ => None,
    };
    let warm = Instant::now() + (meter.duration / 4).max(SETTLE);
    repeat(client, scenario, &mut echo, warm, &mut times).await?;
    times.0.clear();

    if scenario == Scenario::Allocations {
        meter.start_counting()?;
    }
    // Counting the switches takes CPU time, and so is outside of what is measured.
    let (switches, cpu) = (meter.switches()?, meter.cpu()?);
    let began = Instant::now();
    repeat(client, scenario, &mut echo, began + meter.duration, &mut times).await?;
    let wall = began.elapsed();
    let cpu = meter.cpu()? - cpu;
    let switches = meter.switches()? - switches;

    let allocations = match scenario {
        Scenario::Allocations => meter.stop_counting()?,
        _ => 0,
    };
    if let Some(ended) = bulk.and_then(|mut tasks| tasks.try_join_next()) {
        ended?.context("the bulk beside it")?;
    }
    let used = Used { wall, cpu, switches, allocations };
    Ok(Sample::new(&mut times.0, scenario.payload(), &used))
}

/// Does what the scenario says, until then.
async fn repeat(
    client: &mut impl Calls,
    scenario: Scenario,
    echo: &mut Echo,
    until: Instant,
    times: &mut Times,
) -> Result<()> {
    match scenario {
        Scenario::Small | Scenario::Allocations => small(client, until, times).await,
        Scenario::InFlight(calls) => client.flood(calls, until, times).await,
        Scenario::Echo(_) | Scenario::BesideBulk => echo.repeat(client, until, times).await,
        Scenario::Paced => paced(client, until, times).await,
        // A timer of the runtime would have it wake now and then.
        Scenario::Idle => match tokio::runtime::Handle::try_current() {
            Ok(_) => Ok(tokio::task::spawn_blocking(move || sleep_until(until)).await?),
            Err(_) => Ok(sleep_until(until)),
        },
    }
}

async fn small(client: &mut impl Calls, until: Instant, times: &mut Times) -> Result<()> {
    let mut now = Instant::now();
    let mut n = 0;
    while now < until {
        ensure!(client.add(n, 1).await? == n + 1, "a wrong answer");
        now = times.note(now);
        n += 1;
    }
    Ok(())
}

async fn paced(client: &mut impl Calls, until: Instant, times: &mut Times) -> Result<()> {
    let mut next = Instant::now();
    let mut n = 0;
    while next < until {
        pause_until(next).await;
        let began = Instant::now();
        ensure!(client.add(n, 1).await? == n + 1, "a wrong answer");
        times.note(began);
        (next, n) = (next + PACE, n + 1);
    }
    Ok(())
}

/// Sleeps as programs of this flavour do.
async fn pause_until(when: Instant) {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => tokio::time::sleep_until(when.into()).await,
        Err(_) => sleep_until(when),
    }
}

fn sleep_until(when: Instant) {
    std::thread::sleep(when.saturating_duration_since(Instant::now()));
}

/// A payload that goes there and back, again and again.
struct Echo {
    payload: Vec<u8>,
    bytes: usize,
    trip: u64,
}

/// Distance between the bytes that are written anew before each trip, and read after it.
const STAMPS: usize = 4096;

impl Echo {
    fn new(bytes: usize) -> Self {
        Self { payload: vec![0x5a; bytes], bytes, trip: 0 }
    }

    async fn repeat(
        &mut self,
        client: &mut impl Calls,
        until: Instant,
        times: &mut Times,
    ) -> Result<()> {
        let mut now = Instant::now();
        while now < until {
            self.once(client).await?;
            now = times.note(now);
        }
        Ok(())
    }

    async fn once(&mut self, client: &mut impl Calls) -> Result<()> {
        self.trip += 1;
        let stamp = (self.trip % 251) as u8;
        for part in self.payload.chunks_mut(STAMPS) {
            part[0] = stamp;
        }
        self.payload = client.echo(std::mem::take(&mut self.payload)).await?;
        ensure!(self.payload.len() == self.bytes, "a payload of {} bytes", self.payload.len());
        let mut parts = self.payload.chunks(STAMPS);
        ensure!(parts.all(|part| part[0] == stamp), "a payload that is not the one sent");
        Ok(())
    }
}

/// The shape of a [`Caller`].
pub(crate) struct Multiplexed<C>(pub(crate) C);

impl<C: Caller> Calls for Multiplexed<C> {
    async fn add(&mut self, a: i32, b: i32) -> Result<i32> {
        self.0.add(a, b).await
    }

    async fn echo(&mut self, payload: Vec<u8>) -> Result<Vec<u8>> {
        self.0.echo(payload).await
    }

    async fn flood(&mut self, in_flight: usize, until: Instant, times: &mut Times) -> Result<()> {
        let mut tasks = JoinSet::new();
        for _ in 0..in_flight {
            let mut client = Self(self.0.clone());
            tasks.spawn(async move {
                let mut times = Times(Vec::with_capacity((1 << 20) / in_flight));
                small(&mut client, until, &mut times).await.map(|()| times)
            });
        }
        while let Some(ended) = tasks.join_next().await {
            times.0.append(&mut ended??.0);
        }
        Ok(())
    }

    fn start_bulk(&mut self) -> Result<JoinSet<Result<()>>> {
        let mut tasks = JoinSet::new();
        for _ in 0..BULK_TASKS {
            let mut client = Self(self.0.clone());
            tasks.spawn(async move {
                let mut echo = Echo::new(BULK_PAYLOAD);
                loop {
                    echo.once(&mut client).await?;
                }
            });
        }
        Ok(tasks)
    }
}

/// The shape of a [`Pipe`].
pub(crate) struct InOrder<P>(pub(crate) P);

impl<P: Pipe> Calls for InOrder<P> {
    async fn add(&mut self, a: i32, b: i32) -> Result<i32> {
        self.0.ask(a, b).await?;
        self.0.answer().await
    }

    async fn echo(&mut self, payload: Vec<u8>) -> Result<Vec<u8>> {
        self.0.echo(payload).await
    }

    async fn flood(&mut self, in_flight: usize, until: Instant, times: &mut Times) -> Result<()> {
        let mut asked = std::collections::VecDeque::with_capacity(in_flight);
        let (mut now, mut n) = (Instant::now(), 0);
        loop {
            while now < until && asked.len() < in_flight {
                self.0.ask(n, 1).await?;
                asked.push_back((n, now));
                n += 1;
            }
            let Some((n, began)) = asked.pop_front() else { return Ok(()) };
            ensure!(self.0.answer().await? == n + 1, "a wrong answer");
            now = times.note(began);
        }
    }

    fn start_bulk(&mut self) -> Result<JoinSet<Result<()>>> {
        bail!("it answers in order: nothing passes anything")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_has_one_name() {
        for scenario in
            Scenario::TABLE.into_iter().chain([Scenario::BesideBulk, Scenario::Allocations])
        {
            let name = scenario.to_string();
            assert_eq!(name.parse::<Scenario>().unwrap(), scenario, "{name}");
        }
        assert!("echo_x".parse::<Scenario>().is_err());
    }
}
