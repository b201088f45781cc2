//! The server of the soak test: a service whose answers can be checked, and an event that is raised all the time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use witrpc::prelude::*;

use super::{Command, Counts, Plan, Vitals};
use crate::peer::Stage;

#[witrpc::service]
pub(crate) trait Soak {
    /// The sum, wrapping; counted for this worker.
    async fn sum(&self, worker: u32, values: Vec<u64>) -> witrpc::Result<u64>;
    /// How many of this worker's sums have been executed.
    async fn executed(&self, worker: u32) -> witrpc::Result<u64>;
    /// Checks that the blob is [`pattern`] of `seed`, and answers with that of the next.
    async fn mirror(&self, blob: Blob, seed: u64) -> witrpc::Result<Blob>;
    /// Answers after a while.
    async fn nap(&self, millis: u64, token: u64) -> witrpc::Result<u64>;
    /// Never answers.
    async fn rest(&self) -> witrpc::Result<()>;
    async fn fails(&self, text: String) -> witrpc::Result<()>;
    /// So many beats from `first` on.
    async fn download(&self, first: u64, count: u64) -> witrpc::Result<Streaming<Beat>>;
    /// Checks that the items are the beats from `first` on; how many there were.
    async fn upload(&self, first: u64, beats: Streaming<Beat>) -> witrpc::Result<u64>;
    /// Goes to and fro `depth` times more. Comes back with the token, one more for each time.
    async fn descend(&self, depth: u32, token: u64) -> witrpc::Result<u64>;
    #[event]
    fn beat(&self) -> &Event<Beat>;
}

/// What clients offer.
#[witrpc::service]
pub(crate) trait Ground {
    /// As [`Soak::descend`].
    async fn descend(&self, depth: u32, token: u64) -> witrpc::Result<u64>;
}

pub(super) struct Bottom;

impl Ground for Bottom {
    async fn descend(&self, depth: u32, token: u64) -> witrpc::Result<u64> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(token) };
        let soak: SoakClient = CallContext::current().peer().get_service();
        Ok(soak.descend(depth, token).await?.wrapping_add(1))
    }
}

/// One of an endless, gapless series.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Beat {
    pub(super) number: u64,
    /// As long as [`filler`] says.
    pub(super) filler: Blob,
}

impl Beat {
    pub(super) fn new(number: u64) -> Self {
        Self { number, filler: filler(number).into() }
    }

    /// Whether it is the one of this number, undamaged.
    pub(super) fn is(&self, number: u64) -> bool {
        self.number == number && *self.filler == filler(number)[..]
    }
}

/// Most are small, one in 500 is not.
pub(super) fn filler(number: u64) -> Vec<u8> {
    pattern(number, if number.is_multiple_of(500) { 200_000 } else { number as usize % 64 })
}

/// Bytes that follow from a seed.
pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

#[derive(Clone, Default)]
struct Bench {
    beat: Event<Beat>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    executed: Mutex<HashMap<u32, u64>>,
    resting: AtomicU64,
}

struct Resting<'a>(&'a AtomicU64);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Soak for Bench {
    async fn sum(&self, worker: u32, values: Vec<u64>) -> witrpc::Result<u64> {
        *self.state.executed.lock().unwrap().entry(worker).or_default() += 1;
        Ok(values.into_iter().fold(0, u64::wrapping_add))
    }

    async fn executed(&self, worker: u32) -> witrpc::Result<u64> {
        Ok(self.state.executed.lock().unwrap().get(&worker).copied().unwrap_or_default())
    }

    async fn mirror(&self, blob: Blob, seed: u64) -> witrpc::Result<Blob> {
        if *blob != pattern(seed, blob.len())[..] {
            return Err(witrpc::Error::fault("the blob was damaged on its way"));
        }
        Ok(pattern(seed.wrapping_add(1), blob.len()).into())
    }

    async fn nap(&self, millis: u64, token: u64) -> witrpc::Result<u64> {
        sleep(Duration::from_millis(millis)).await;
        Ok(token)
    }

    async fn rest(&self) -> witrpc::Result<()> {
        self.state.resting.fetch_add(1, Ordering::SeqCst);
        let _resting = Resting(&self.state.resting);
        std::future::pending().await
    }

    async fn fails(&self, text: String) -> witrpc::Result<()> {
        Err(witrpc::Error::fault(text))
    }

    async fn download(&self, first: u64, count: u64) -> witrpc::Result<Streaming<Beat>> {
        Ok(Streaming::iter((first..first + count).map(Beat::new)))
    }

    async fn upload(&self, first: u64, mut beats: Streaming<Beat>) -> witrpc::Result<u64> {
        let mut count = 0;
        while let Some(beat) = beats.next().await {
            if !beat?.is(first + count) {
                return Err(witrpc::Error::fault("an item is missing, or was damaged"));
            }
            count += 1;
        }
        Ok(count)
    }

    async fn descend(&self, depth: u32, token: u64) -> witrpc::Result<u64> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(token) };
        let ground: GroundClient = CallContext::current().peer().get_service();
        Ok(ground.descend(depth, token).await?.wrapping_add(1))
    }

    fn beat(&self) -> &Event<Beat> {
        &self.beat
    }
}

/// A child with the server.
pub(crate) async fn serve(mut stage: Stage) {
    let plan: Plan = stage.hear().await.unwrap();
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    // A burst is more than this and a window.
    let bench = Bench { beat: Event::new().with_capacity(200), ..Bench::default() };
    let mut server = start(&plan, &bench).await;
    let beating = tokio::spawn(beat(bench.beat.clone(), rng.fork()));
    let mut counts = Counts::default();
    stage.tell(&vitals(&server, &bench, &counts));
    while let Some(command) = stage.hear().await {
        match command {
            Command::Measure => {}
            Command::Restart => {
                if rng.bool() {
                    server.shutdown(Duration::from_millis(rng.u64(0..50))).await;
                    if server.client_count() > 0 {
                        counts.anomalies.push("clients of a server that was shut down".to_owned());
                    }
                }
                drop(server);
                server = start(&plan, &bench).await;
            }
            Command::Stop => {
                beating.abort();
                server.stop_waiting_for_connection().await;
            }
        }
        stage.tell(&vitals(&server, &bench, &counts));
    }
}

async fn start(plan: &Plan, bench: &Bench) -> WitServer {
    let builder = WitServerBuilder::new();
    let builder = if plan.encrypted { builder.with_encryption() } else { builder };
    let server = builder
        .with_memory_mapped_file(plan.file(&plan.directory))
        .with_service(SoakServer::new(bench.clone()))
        .build()
        .unwrap();
    server.start_waiting_for_connection().await.unwrap();
    server
}

fn vitals(server: &WitServer, bench: &Bench, counts: &Counts) -> Vitals {
    let loads = server.load();
    let held: u64 =
        loads.iter().map(|load| crate::peer::sum(load) + load.subscriptions as u64).sum();
    let held = held + loads.len() as u64 + bench.state.resting.load(Ordering::SeqCst);
    Vitals::measure(held, counts.clone())
}

/// Raises beats, mostly a few at a time, now and then a burst.
async fn beat(beat: Event<Beat>, mut rng: fastrand::Rng) {
    let mut number = 0;
    loop {
        let burst = if rng.u32(0..200) == 0 { 600 } else { rng.u64(0..5) };
        for _ in 0..burst {
            beat.raise(Beat::new(number)).unwrap();
            number += 1;
        }
        sleep(Duration::from_millis(rng.u64(1..30))).await;
    }
}
