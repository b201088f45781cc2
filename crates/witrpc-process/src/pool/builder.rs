//! [`PoolBuilder`]: the settings of a pool of workers.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;
use witrpc_core::Error;
use witrpc_runtime::ClientPool;

use crate::pool::crew::Crew;
use crate::pool::keeper::{Keeper, Limits, Make};
use crate::pool::{Kept, Pool};
use crate::sys;

/// Builds a [`Pool`] of workers. [`Pool::of_workers`] begins it; everything has a default.
///
/// ```no_run
/// use std::time::Duration;
/// use witrpc::{Pool, Worker};
///
/// # async fn host() -> witrpc::Result<()> {
/// let pool = Pool::of_workers(2, Worker::this_program)
///     .with_max(8)
///     .with_idle_timeout(Duration::from_secs(10))
///     .with_spares(1)
///     .with_retirement_after(10_000)
///     .spawn()
///     .await?;
/// # drop(pool);
/// # Ok(())
/// # }
/// ```
#[must_use = "call spawn()"]
pub struct PoolBuilder {
    make: Arc<Make>,
    limits: Limits,
}

impl fmt::Debug for PoolBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl PoolBuilder {
    pub(super) fn new(n: usize, make: Arc<Make>) -> Self {
        let limits = Limits {
            min: n,
            max: n,
            spares: 0,
            calls_per_worker: None,
            idle_timeout: Duration::from_secs(60),
            max_calls: None,
            max_memory: None,
            drain_timeout: Duration::from_secs(30),
        };
        Self { make, limits }
    }

    /// Sets how many workers there are at least. Default: `n`. With 0, the first one is started when it is called.
    pub const fn with_min(mut self, workers: usize) -> Self {
        self.limits.min = workers;
        self
    }

    /// Sets how many workers there are at most, beside spares and those that leave. Default: `n`.
    ///
    /// As many are started as there are calls at once, or as these need by [`with_calls_per_worker`](Self::with_calls_per_worker). Without that, a
    /// call that finds all workers busy does not wait for another one: it goes to one of those that there are.
    pub const fn with_max(mut self, workers: usize) -> Self {
        self.limits.max = workers;
        self
    }

    /// Sets how many calls a worker has at most at a time. More calls wait in the pool, and go to whichever worker is the first to have done one:
    /// 1 suits calls that compute for long. Default: no limit, but that of the worker's server.
    ///
    /// A call waits within its deadline. A call that is made by a handler of such a call waits, too: do not have workers wait for each other.
    pub const fn with_calls_per_worker(mut self, calls: usize) -> Self {
        self.limits.calls_per_worker = Some(calls);
        self
    }

    /// Sets after what time a worker beyond the minimum is ended that was not needed: within that time, there were never as many calls at
    /// once as workers. Default 60 s.
    pub const fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle_timeout = timeout;
        self
    }

    /// Sets how many more workers are kept that run, and get no calls. They take the place of a worker that dies, of one that retires, and are
    /// there at once where more are needed. Default 0.
    pub const fn with_spares(mut self, workers: usize) -> Self {
        self.limits.spares = workers;
        self
    }

    /// Replaces a worker that has had this many calls. It ends when it has done those that it has, and another one has taken its place.
    /// Default: never.
    pub const fn with_retirement_after(mut self, calls: u64) -> Self {
        self.limits.max_calls = Some(calls);
        self
    }

    /// Replaces a worker in the same way whose process occupies more memory than this, in bytes, when it is looked at, once a second. Default:
    /// never. Linux only. A limit that cannot be exceeded is set by a sandbox.
    pub const fn with_retirement_above(mut self, bytes: u64) -> Self {
        self.limits.max_memory = Some(bytes);
        self
    }

    /// Sets how long a worker that leaves may take for the calls and streams that it has. Then they fail. Default 30 s.
    pub const fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.limits.drain_timeout = timeout;
        self
    }

    /// Starts the workers that there are at first, at once, and waits until all of them can be called. If the future is dropped before that,
    /// their processes are killed.
    ///
    /// # Errors
    ///
    /// * Those of [`WorkerBuilder::spawn`](crate::WorkerBuilder::spawn): that of the first worker that cannot be started. No process is left.
    /// * [`Error::Config`] if there can be no worker, or there are more at least than at most; [`Error::Unsupported`] if the memory of a process
    ///   cannot be told here.
    pub async fn spawn(self) -> Result<Pool, Error> {
        let Self { make, limits } = self;
        limits.check()?;
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::NoRuntime { what: "spawn()" });
        }
        let clients = ClientPool::new(
            &make().settings()?,
            true,
            limits.calls_per_worker.unwrap_or(usize::MAX),
        );
        let crew = Crew::new(clients.clone());
        // Dropping it ends whatever was started.
        let mut keeper = Keeper::new(Arc::clone(&crew), make, limits);
        keeper.start().await?;
        let task = keeper.keep().instrument(tracing::info_span!("pool"));
        let task = tokio::spawn(task).abort_handle();
        Ok(Pool { clients, kept: Some(Kept { crew, task }) })
    }
}

impl Limits {
    fn check(&self) -> Result<(), Error> {
        if self.max == 0 {
            let advice = "a pool without workers can call nobody; give at least 1";
            return Err(Error::config("with_max", 0, advice));
        }
        if self.min > self.max {
            let advice = format!("there are {} workers at least; give no less", self.min);
            return Err(Error::config("with_max", self.max, advice));
        }
        if self.calls_per_worker == Some(0) {
            let advice = "no worker could be called; give at least 1";
            return Err(Error::config("with_calls_per_worker", 0, advice));
        }
        if self.max_calls == Some(0) {
            let advice = "no worker could be called; give at least 1";
            return Err(Error::config("with_retirement_after", 0, advice));
        }
        if self.max_memory.is_some() && sys::memory_of(std::process::id()).is_none() {
            let advice =
                "the memory of another process cannot be told here: it takes Linux, and /proc";
            return Err(Error::Unsupported {
                what: "with_retirement_above".to_owned(),
                advice: advice.to_owned(),
            });
        }
        Ok(())
    }
}
