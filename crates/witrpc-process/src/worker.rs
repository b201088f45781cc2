//! [`Worker`] and its builder: the host's side.

use std::fmt;
use std::process::{ChildStderr, ChildStdout, Command};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::task::AbortHandle;
use tracing::Instrument as _;
use witrpc_core::{Error, WaitStrategy};
use witrpc_runtime::{Service, ServiceClient, WitClient, WitClientBuilder};

use crate::connection::Connection;
use crate::hang::HangDetection;
use crate::output::Output;
use crate::process::WorkerExit;
use crate::restart::{History, RestartPolicy};
use crate::sandbox::Sandbox;
use crate::seat::Seat;
use crate::supervision::{Plan, Shared, Supervisor, WorkerEvent, WorkerState};

/// Far more than a program takes to start on a busy machine.
const DEFAULT_READY_TIMEOUT: Duration = Duration::from_secs(10);

/// A worker: a process that this one has launched, calls, owns and replaces. [`Worker::new`] begins a builder.
///
/// The worker's program serves as an [`Agent`](crate::Agent). Its process ends when this one ends, however that ends, and when the `Worker` is
/// dropped: then it is killed. [`shutdown`](Self::shutdown) ends it in good order. Service handles belong to the worker and not to a process:
/// they call whichever process there is.
///
/// ```no_run
/// use std::process::Command;
/// use witrpc::Worker;
///
/// #[witrpc::service]
/// trait Calc {
///     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
/// }
///
/// # async fn host() -> witrpc::Result<()> {
/// let worker = Worker::new(|| Command::new("/usr/lib/app/calc-worker")).spawn().await?;
/// let calc = worker.get_service::<CalcClient>();
/// assert_eq!(calc.add(2, 3).await?, 5);
/// # Ok(())
/// # }
/// ```
pub struct Worker {
    shared: Arc<Shared>,
    client: WitClient,
    task: AbortHandle,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.shared.worker)
            .field("state", &*self.shared.state().borrow())
            .finish_non_exhaustive()
    }
}

impl Worker {
    /// Begins to build a worker whose processes `command` starts. It is called for every start, so each process may get arguments of its own.
    ///
    /// The process gets an empty standard input, and a process group of its own, so that Ctrl-C in a terminal reaches the host only. On Unix it
    /// inherits its connection, its standard streams, and no other descriptor. On Windows it is told of its connection through its standard
    /// input, which is empty once the agent has read that.
    #[expect(
        clippy::new_ret_no_self,
        reason = "a worker begins with its command; `spawn` makes it"
    )]
    pub fn new(command: impl Fn() -> Command + Send + Sync + 'static) -> WorkerBuilder {
        WorkerBuilder {
            command: Box::new(command),
            sandbox: None,
            name: None,
            client: WitClientBuilder::new(),
            restart: None,
            ready_timeout: DEFAULT_READY_TIMEOUT,
            hang_detection: None,
            connection: Connection::default(),
            output: [Output::default(); 2],
        }
    }

    /// Begins to build a worker that is this program once more. Its `main` calls [`Agent::is_announced`](crate::Agent::is_announced) first, and serves
    /// if that is so; or it would start workers without end.
    pub fn this_program() -> WorkerBuilder {
        Self::new(|| {
            // The second is good for as long as the program runs, also if its file was replaced or removed.
            let program = std::env::current_exe();
            Command::new(program.unwrap_or_else(|_| "/proc/self/exe".into()))
        })
    }

    /// Returns a handle to one of the worker's services. It stays valid when the worker is replaced.
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        self.client.get_service()
    }

    /// Returns the client whose server the worker is: for `ping`, `describe`, `load`. Do not connect or disconnect it: the worker does that. If
    /// its connection ends, the worker's process is ended, too.
    #[must_use]
    pub const fn client(&self) -> &WitClient {
        &self.client
    }

    /// Returns a receiver of the worker's state: `borrow()` gives the current state, `changed()` waits for the next one.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<WorkerState> {
        self.shared.state()
    }

    /// Returns a receiver of what happens to the worker from now on. A receiver that is 64 events behind misses the oldest.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<WorkerEvent> {
        self.shared.events()
    }

    /// Returns the id of the worker's process; `None` while there is none.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        let process = self.shared.process()?;
        process.exit().is_none().then(|| process.id())
    }

    /// Waits until the worker has ended and will not be replaced, and returns how its last process ended.
    pub async fn exited(&self) -> WorkerExit {
        self.shared.exited().await
    }

    /// Ends the worker, and returns how it ended. It is not replaced.
    ///
    /// First the connection is closed; then [`Agent::run`](crate::Agent::run) returns in the worker. If the process has not ended after half of
    /// `grace`, it gets `SIGTERM`, and after all of it `SIGKILL`. (On Windows it is ended after all of it.) Calls under way fail: await them first.
    pub async fn shutdown(&self, grace: Duration) -> WorkerExit {
        self.shared.stop(grace);
        self.shared.exited().await
    }

    /// Takes the pipe of the standard output of the current process, if it is [`Output::Piped`] and was not taken yet.
    #[must_use]
    pub fn take_stdout(&self) -> Option<ChildStdout> {
        self.shared.process()?.take_stdout()
    }

    /// Takes the pipe of the standard error of the current process, if it is [`Output::Piped`] and was not taken yet.
    #[must_use]
    pub fn take_stderr(&self) -> Option<ChildStderr> {
        self.shared.process()?.take_stderr()
    }
}

impl Worker {
    /// Ends it at once, and for good.
    pub(crate) fn end(&self) {
        // Without the task, whose runtime may not run.
        self.shared.end();
        self.task.abort();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// Builds a [`Worker`]. Only the command must be set; everything else has a default.
#[must_use = "call spawn()"]
pub struct WorkerBuilder {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    sandbox: Option<Sandbox>,
    name: Option<String>,
    client: WitClientBuilder,
    restart: Option<RestartPolicy>,
    ready_timeout: Duration,
    hang_detection: Option<HangDetection>,
    pub(crate) connection: Connection,
    /// Of standard output, and of standard error.
    output: [Output; 2],
}

impl fmt::Debug for WorkerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder")
            .field("name", &self.name)
            .field("client", &self.client)
            .field("restart", &self.restart)
            .field("sandbox", &self.sandbox)
            .finish_non_exhaustive()
    }
}

impl WorkerBuilder {
    /// Sets the worker's name, for errors and the log. Default: the file name of its program.
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Offers a service to the worker, which calls it through [`Host::get_service`](crate::Host::get_service), or in a handler through
    /// [`Peer::get_service`](witrpc_runtime::Peer::get_service). May be repeated.
    pub fn with_service(mut self, service: impl Service) -> Self {
        self.client = self.client.with_service(service);
        self
    }

    /// Changes other settings of the client whose server the worker is: serializer, encryption, limits, deadlines, retries. The worker needs the
    /// same serializer, encryption and authorization ([`Agent::with_server`](crate::Agent::with_server)). A transport or automatic reconnection
    /// that is set here has no effect.
    pub fn with_client(mut self, set: impl FnOnce(WitClientBuilder) -> WitClientBuilder) -> Self {
        self.client = set(self.client);
        self
    }

    /// Sets whether a worker that ends is replaced. Default [`RestartPolicy::never`].
    ///
    /// Subscriptions continue with the next process, and yield [`EventError::Reconnected`](witrpc_runtime::EventError::Reconnected) where values
    /// may be missing. Calls in flight fail, unless they are retried
    /// ([`with_retry_policy`](witrpc_runtime::WitClientBuilder::with_retry_policy)).
    pub fn with_restart(mut self, policy: RestartPolicy) -> Self {
        self.restart = Some(policy);
        self
    }

    /// The same, if none was set.
    pub(crate) fn with_restart_by_default(mut self, policy: RestartPolicy) -> Self {
        self.restart.get_or_insert(policy);
        self
    }

    /// Sets how long a process may take from its start until it can be called. Then it is killed. Default 10 s.
    pub const fn with_ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Watches whether the worker answers. Off by default.
    pub const fn with_hang_detection(mut self, detection: HangDetection) -> Self {
        self.hang_detection = Some(detection);
        self
    }

    /// Confines each process of the worker: what it may do, enforced by the kernel. Default: what the host may do. Linux only; feature `sandbox`.
    #[cfg(feature = "sandbox")]
    pub fn with_sandbox(mut self, sandbox: Sandbox) -> Self {
        self.sandbox = Some(sandbox);
        self
    }

    /// Sets the size of the connection's region in bytes, as `with_size` of a memory-mapped file does. Default 1 MiB.
    pub const fn with_size(mut self, bytes: u64) -> Self {
        self.connection.size = bytes;
        self
    }

    /// Sets how many bytes of payloads this process can have lent to the worker at a time, and as many the other way round. Default 0: nothing is
    /// lent, and all payloads are copied through the region. At most 64 GiB; whole pages are made of it.
    ///
    /// Each process of the worker gets two memory files of this size when it is started, all of whose pages are allocated then.
    pub const fn with_lending(mut self, bytes: u64) -> Self {
        self.connection.lending = bytes;
        self
    }

    /// Sets how the host's side of the connection waits. Default [`WaitStrategy::Adaptive`].
    pub const fn with_wait_strategy(mut self, strategy: WaitStrategy) -> Self {
        self.connection.wait_strategy = strategy;
        self
    }

    /// Sets where the worker's standard output goes. Default [`Output::Tracing`].
    pub const fn with_stdout(mut self, output: Output) -> Self {
        self.output[0] = output;
        self
    }

    /// Sets where the worker's standard error goes. Default [`Output::Tracing`]; with anything else its last lines are missing in errors.
    pub const fn with_stderr(mut self, output: Output) -> Self {
        self.output[1] = output;
        self
    }

    /// Starts the worker, and waits until it can be called. If the future is dropped before that, the process is killed.
    ///
    /// The restart policy applies from then on: a worker that does not become ready the first time is an error.
    ///
    /// # Errors
    ///
    /// * [`Error::Io`] if the program cannot be started: the system's error, and the program's path.
    /// * [`Error::Exited`] at once if the process ends before it is ready, with its status and its last lines on standard error.
    /// * [`Error::TimedOut`] if it is not ready in time.
    /// * [`Error::Incompatible`] or [`Error::Unauthorized`] if one side refuses the other; [`Error::Protocol`] if it is no agent.
    /// * [`Error::Config`] if a setting is invalid; [`Error::NoRuntime`] outside of a tokio runtime with timers and I/O.
    /// * [`Error::Unsupported`] if the kernel cannot enforce the sandbox. Nothing is started.
    pub async fn spawn(self) -> Result<Worker, Error> {
        let name = self.name();
        if self.ready_timeout.is_zero() {
            let advice = "no worker is ready at once; give a longer time, for example 10 s";
            return Err(Error::config("with_ready_timeout", "0s", advice));
        }
        if self.hang_detection.is_some_and(|detection| detection.after.is_zero()) {
            let advice = "no worker answers at once; give a longer time, for example 5 s";
            return Err(Error::config("with_hang_detection", "0s", advice));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::NoRuntime { what: "spawn()" });
        }
        let seat = Seat::new(name.clone(), self.connection);
        let client = self.client.with_transport(seat.clone()).without_auto_reconnect();
        let restart = self.restart.unwrap_or_default();
        let client = if restart.may_restart() { client.with_kept_subscriptions() } else { client };
        let client = client.build()?;
        let shared = Shared::new(name);
        let [stdout, stderr] = self.output;
        let plan = Plan {
            command: self.command,
            sandbox: self.sandbox,
            connection: self.connection,
            stdout,
            stderr,
            ready_timeout: self.ready_timeout,
            hang_detection: self.hang_detection,
        };
        // Before the first start: dropping it ends whatever was started.
        let supervisor =
            Supervisor { shared: Arc::clone(&shared), client: client.clone(), seat, plan };
        let process = supervisor.start(true).await?;
        let span = tracing::info_span!("worker", name = shared.worker);
        let task = supervisor.supervise(process, History::new(restart));
        let task = tokio::spawn(task.instrument(span)).abort_handle();
        Ok(Worker { shared, client, task })
    }

    /// A client with the settings of those that are built, which never connects.
    pub(crate) fn settings(self) -> Result<WitClient, Error> {
        let seat = Seat::new(self.name(), self.connection);
        self.client.with_transport(seat).build()
    }

    fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let command = (self.command)();
            let program = std::path::Path::new(command.get_program());
            program.file_name().unwrap_or_default().to_string_lossy().into_owned()
        })
    }
}
