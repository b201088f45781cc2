//! One scenario, carried out and measured: the one code for all systems.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::allocations;
use crate::client::{Calls, Echo, Times, small};
use crate::cpu::{self, CpuClock};
use crate::sample::{Sample, Used};
use crate::scenario::Scenario;
use crate::server::Server;

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
