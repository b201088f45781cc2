//! A client, as the scenarios use it.
//!
//! Two shapes are enough: a [`Caller`] has any number of calls under way, a [`Pipe`] has its answers in the order of its
//! requests. A system that blocks is written as futures that never wait.

use std::future::Future;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use tokio::task::JoinSet;

const BULK_PAYLOAD: usize = 1 << 20;
const BULK_TASKS: usize = 2;

/// A client with any number of calls under way on one connection.
pub(crate) trait Caller: Clone + Send + Sync + 'static {
    /// The small call.
    fn add(&self, a: i32, b: i32) -> impl Future<Output = Result<i32>> + Send;

    /// Bytes there and back. They begin and end in memory of this process alone, for every system.
    fn echo(&self, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>>> + Send;
}

/// A client whose answers come in the order of its requests.
pub(crate) trait Pipe: Send + 'static {
    /// Sends the request of the small call.
    fn ask(&mut self, a: i32, b: i32) -> impl Future<Output = Result<()>> + Send;

    /// Takes the answer to the request that has waited longest.
    fn answer(&mut self) -> impl Future<Output = Result<i32>> + Send;

    /// Bytes there and back, with nothing else under way.
    fn echo(&mut self, payload: Vec<u8>) -> impl Future<Output = Result<Vec<u8>>> + Send;
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

/// Nanoseconds, one for each call.
#[derive(Debug)]
pub(crate) struct Times(pub(crate) Vec<u32>);

impl Default for Times {
    /// With room, so that growing falls into no call.
    fn default() -> Self {
        Self(Vec::with_capacity(1 << 20))
    }
}

impl Times {
    /// Notes the time since `began`, and returns the time.
    pub(crate) fn note(&mut self, began: Instant) -> Instant {
        let now = Instant::now();
        self.0.push(u32::try_from((now - began).as_nanos()).unwrap_or(u32::MAX));
        now
    }
}

pub(crate) async fn small(
    client: &mut impl Calls,
    until: Instant,
    times: &mut Times,
) -> Result<()> {
    let mut now = Instant::now();
    let mut n = 0;
    while now < until {
        ensure!(client.add(n, 1).await? == n + 1, "a wrong answer");
        now = times.note(now);
        n += 1;
    }
    Ok(())
}

/// A payload that goes there and back, again and again.
pub(crate) struct Echo {
    payload: Vec<u8>,
    bytes: usize,
    trip: u64,
}

/// Distance between the bytes that are written anew before each trip, and read after it.
const STAMPS: usize = 4096;

impl Echo {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { payload: vec![0x5a; bytes], bytes, trip: 0 }
    }

    pub(crate) async fn repeat(
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
