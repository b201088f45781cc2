//! Two processes: typed calls, an event and a blob between them, and how long a call takes. Run it with
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! This program is the host. It starts itself a second time as its worker, calls it, measures, and ends it. Nothing is left behind: no process,
//! no file; not at Ctrl-C either.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use serde::{Deserialize, Serialize};
use witrpc::prelude::*;

const WARM_UP: usize = 2_000;
const CALLS: usize = 20_000;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// What the worker does for its host.
#[witrpc::service]
pub(crate) trait Job {
    /// Adds.
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
    /// Divides, with an error type of the service's own.
    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, MathError>;
    /// Counts primes, on the pool for blocking work; it stops early once nobody waits for it.
    #[witrpc(blocking)]
    async fn count_primes(&self, below: u64) -> witrpc::Result<u64>;
    /// Inverts every byte of a picture.
    async fn invert(&self, picture: Blob) -> witrpc::Result<Blob>;
    /// Percent of the counting that is done, a value for every quarter.
    #[event]
    fn progress(&self) -> &Event<u64>;
}

/// What can go wrong in [`Job::divide`]; it arrives at the host as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MathError {
    /// There is no such quotient.
    DivisionByZero,
    /// What witrpc itself had to say: a lost connection, a deadline.
    Rpc(String),
}

impl From<witrpc::Error> for MathError {
    fn from(error: witrpc::Error) -> Self {
        Self::Rpc(error.to_string())
    }
}

/// The worker's implementation. Its event is a field.
#[derive(Debug, Default)]
struct Clerk {
    progress: Event<u64>,
}

impl Job for Clerk {
    async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
        a.checked_add(b).ok_or_else(|| witrpc::Error::fault("the sum is too large"))
    }

    async fn divide(&self, dividend: i64, divisor: i64) -> Result<i64, MathError> {
        dividend.checked_div(divisor).ok_or(MathError::DivisionByZero)
    }

    async fn count_primes(&self, below: u64) -> witrpc::Result<u64> {
        let call = CallContext::current();
        let mut primes = 0;
        for number in 2..below {
            if call.is_cancelled() {
                return Err(witrpc::Error::Cancelled);
            }
            primes += u64::from((2..=number.isqrt()).all(|divisor| number % divisor != 0));
            if (number + 1) % (below / 4).max(1) == 0 {
                self.progress.raise((number + 1) / (below / 4).max(1) * 25)?;
            }
        }
        Ok(primes)
    }

    async fn invert(&self, picture: Blob) -> witrpc::Result<Blob> {
        Ok(picture.iter().map(|byte| !byte).collect())
    }

    fn progress(&self) -> &Event<u64> {
        &self.progress
    }
}

#[tokio::main]
async fn main() -> Outcome {
    if Agent::is_announced() {
        return Ok(Agent::from_env()?.with_service(JobServer::new(Clerk::default())).run().await?);
    }
    let began = Instant::now();
    let worker = Worker::this_program().spawn().await?;
    println!(
        "process {} is the host, process {:?} its worker; ready after {:.1?}\n",
        std::process::id(),
        worker.process_id(),
        began.elapsed()
    );
    call(&worker.get_service::<JobClient>()).await?;
    worker.shutdown(Duration::from_secs(2)).await;
    Ok(())
}

async fn call(job: &JobClient) -> Outcome {
    println!("add(2, 3)        = {}", job.add(2, 3).await?);
    println!("divide(1, 0)     = {:?}", job.divide(1, 0).await);
    let (sum, primes) = tokio::join!(job.add(20, 22), job.count_primes(100_000));
    println!("at once          = {}, and {} primes below 100000", sum?, primes?);
    let hasty = job.with_timeout(Duration::from_millis(50));
    let late = hasty.count_primes(u64::MAX).await;
    println!("with_timeout     = {:?}", late.map_err(|error| error.to_string()));

    let mut progress = job.progress().subscribe();
    let counting = tokio::spawn(job.count_primes(200_000));
    while let Some(percent) = progress.next().await.transpose()? {
        println!("event progress   = {percent} %");
        if percent == 100 {
            break;
        }
    }
    println!("count_primes     = {}", counting.await??);

    let picture = Blob::from(vec![0; 8 << 20]);
    let began = Instant::now();
    let negative = job.invert(picture).await?;
    println!(
        "invert           = a blob of {} bytes after {:.1?}\n",
        negative.len(),
        began.elapsed()
    );
    measure(job).await
}

async fn measure(job: &JobClient) -> Outcome {
    let mut times = Vec::with_capacity(CALLS);
    for call in 0..WARM_UP + CALLS {
        let began = Instant::now();
        job.add(20, 22).await?;
        if call >= WARM_UP {
            times.push(began.elapsed());
        }
    }
    times.sort_unstable();
    println!("{CALLS} calls of add, one after the other, there and back between the processes:");
    println!("  median {:.2?}   p99 {:.2?}", times[CALLS / 2], times[CALLS * 99 / 100]);
    Ok(())
}
