//! [`Agent`]: the worker's side.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use witrpc_core::transport::{BoxFuture, Channel, Listener, ServerTransport};
use witrpc_core::{CloseReason, Error, WaitStrategy, fail_point};
use witrpc_mmf::TrustedPeer;
use witrpc_runtime::{Peer, Service, ServiceClient, WitServer, WitServerBuilder};

use crate::sys::{self, Announced, Watch};

/// How long a worker whose host has ended may take to end by itself.
const DEFAULT_GRACE: Duration = Duration::from_secs(1);
/// A host that has started a process connects to it at once.
const DEFAULT_HOST_TIMEOUT: Duration = Duration::from_secs(30);
/// The watchdog only waits.
const STACK: usize = 64 << 10;

/// The worker's side of a [`Worker`](crate::Worker): it serves its host, and ends with it.
///
/// ```no_run
/// use witrpc::Agent;
///
/// #[witrpc::service]
/// trait Calc {
///     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
/// }
///
/// struct Adder;
///
/// impl Calc for Adder {
///     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> {
///         Ok(a + b)
///     }
/// }
///
/// # async fn main_of_the_worker() -> witrpc::Result<()> {
/// // The main function of /usr/lib/app/calc-worker.
/// Agent::from_env()?.with_service(CalcServer::new(Adder)).run().await
/// # }
/// ```
///
/// # The end of the host
///
/// A thread watches the host, whatever the runtime does. When the host has ended, [`run`](Self::run) returns; a process that is still there
/// after the time of [`with_exit_grace`](Self::with_exit_grace) is ended, whatever its threads do. On Windows the system ends it at once.
#[must_use = "call run()"]
pub struct Agent {
    server: WitServerBuilder,
    announced: Announced,
    wait_strategy: WaitStrategy,
    pub(crate) trusted: Option<TrustedPeer>,
    host_timeout: Duration,
    watchdog: Watchdog,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agent").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Agent {
    /// Takes over the connection that this process has from its host, and begins to watch the host. Needs no runtime. Works once per process. On
    /// Windows nothing may have read the standard input before.
    ///
    /// If the host confines this process (`with_sandbox`), this is where the process gives up what only its start needed: from then on it
    /// executes nothing and reads no libraries. Call it first in a plain `fn main` then, before other threads run.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if this process was not started by a [`Worker`](crate::Worker), or has called it before, or is to be confined and has
    /// other threads. [`Error::Io`] if what it was given is not what was announced.
    pub fn from_env() -> Result<Self, Error> {
        let (announced, watch) = sys::take()?;
        fail_point::at("agent.took_over");
        let watchdog = Watchdog::start(watch)
            .map_err(|error| Error::io("starting the thread that watches the host", &error))?;
        fail_point::at("agent.watches");
        Ok(Self {
            server: WitServerBuilder::new(),
            announced,
            wait_strategy: WaitStrategy::default(),
            trusted: None,
            host_timeout: DEFAULT_HOST_TIMEOUT,
            watchdog,
        })
    }

    /// Returns whether this process was started by a [`Worker`](crate::Worker), and has not called [`from_env`](Self::from_env) yet. For a
    /// program that is its own worker. Programs that a worker starts by other means are none.
    #[must_use]
    pub fn is_announced() -> bool {
        sys::is_announced()
    }

    /// Adds a service. May be repeated; each service needs its own name. At least one.
    pub fn with_service(mut self, service: impl Service) -> Self {
        self.server = self.server.with_service(service);
        self
    }

    /// Changes other settings of the server whose client the host is: serializer, encryption, limits. The host needs the same serializer,
    /// encryption and authorization ([`WorkerBuilder::with_client`](crate::WorkerBuilder::with_client)). A transport or handshake timeout that is
    /// set here has no effect.
    pub fn with_server(mut self, set: impl FnOnce(WitServerBuilder) -> WitServerBuilder) -> Self {
        self.server = set(self.server);
        self
    }

    /// Sets how the worker's side of the connection waits. Default [`WaitStrategy::Adaptive`].
    pub const fn with_wait_strategy(mut self, strategy: WaitStrategy) -> Self {
        self.wait_strategy = strategy;
        self
    }

    /// Sets how long the host may take to connect. Default 30 s.
    pub const fn with_host_timeout(mut self, timeout: Duration) -> Self {
        self.host_timeout = timeout;
        self
    }

    /// Sets how long this process may take to end by itself once its host has ended. Then it is ended. Default 1 s. On Windows it has no time.
    pub fn with_exit_grace(self, grace: Duration) -> Self {
        *self.watchdog.grace.lock().unwrap_or_else(PoisonError::into_inner) = grace;
        self
    }

    /// Serves the host until it closes the connection, or has ended.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn run(self) -> Result<(), Error> {
        self.connect().await?.ended().await;
        Ok(())
    }

    /// Begins to serve the host, and returns it, so that its services can be called outside of handlers.
    ///
    /// # Errors
    ///
    /// * [`Error::Closed`] if the host has ended, or the connection was not established in time, or one side refused the other; the log says why.
    /// * [`Error::Config`] if a setting is invalid, or there is no service; [`Error::NoRuntime`] outside of a tokio runtime with timers and I/O.
    pub async fn connect(self) -> Result<Host, Error> {
        let (lease, mut ended) = oneshot::channel();
        let transport = Inherited {
            terms: (self.wait_strategy, self.trusted),
            offered: Mutex::new(Some((self.announced, lease))),
        };
        let server = self.server.with_transport(transport);
        let server = server.with_handshake_timeout(self.host_timeout).build()?;
        server.start_waiting_for_connection().await?;
        let mut host_ended = self.watchdog.ended;
        let peer = tokio::select! {
            biased;
            peer = server.connected() => peer,
            _ = &mut ended => return Err(closed(CloseReason::Failed("no connection to the host".to_owned()))),
            () = gone(&mut host_ended) => return Err(closed(CloseReason::PeerGone)),
        };
        fail_point::at("agent.connected");
        Ok(Host { peer, ended, host_ended, _server: server })
    }
}

const fn closed(reason: CloseReason) -> Error {
    Error::Closed { reason, maybe_executed: false }
}

/// Waits until the watchdog has seen the host end.
async fn gone(host_ended: &mut watch::Receiver<bool>) {
    if host_ended.wait_for(|ended| *ended).await.is_err() {
        std::future::pending().await // On a system that ends this process.
    }
}

/// The host of this process. Dropping it closes the connection.
pub struct Host {
    peer: Peer,
    /// Completes, with an error, when the connection has ended.
    ended: oneshot::Receiver<()>,
    host_ended: watch::Receiver<bool>,
    _server: WitServer,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("process_id", &self.peer.process_id).finish_non_exhaustive()
    }
}

impl Host {
    /// Returns a handle to one of the services that the host offers ([`WorkerBuilder::with_service`](crate::WorkerBuilder::with_service)).
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        self.peer.get_service()
    }

    /// Returns the host, with what the system [proves](Peer::credentials) about it.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Returns the process id of the host, as it sees itself.
    #[must_use]
    pub const fn process_id(&self) -> Option<u32> {
        self.peer.process_id
    }

    /// Waits until the host has closed the connection, or has ended.
    pub async fn ended(&mut self) {
        tokio::select! {
            _ = &mut self.ended => {}
            () = gone(&mut self.host_ended) => {}
        }
        fail_point::at("agent.was_left");
    }
}

/// Ends this process after its host.
#[derive(Debug)]
struct Watchdog {
    grace: Arc<Mutex<Duration>>,
    ended: watch::Receiver<bool>,
}

impl Watchdog {
    fn start(watch: Watch) -> std::io::Result<Self> {
        let grace = Arc::new(Mutex::new(DEFAULT_GRACE));
        let (end, ended) = watch::channel(false);
        if sys::ENDS_WITH_HOST {
            return Ok(Self { grace, ended });
        }
        let patience = Arc::clone(&grace);
        let work = move || {
            watch.wait();
            end.send_replace(true);
            let grace = *patience.lock().unwrap_or_else(PoisonError::into_inner);
            thread::sleep(grace);
            Watch::end_this_process();
        };
        thread::Builder::new().name("witrpc-watchdog".to_owned()).stack_size(STACK).spawn(work)?;
        Ok(Self { grace, ended })
    }
}

/// The transport of a worker's server: one connection.
#[derive(Debug)]
struct Inherited {
    terms: Terms,
    offered: Mutex<Option<Offered>>,
}

impl ServerTransport for Inherited {
    fn name(&self) -> &'static str {
        "host"
    }

    fn validate(&self) -> Result<(), Error> {
        Ok(())
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        let offered = self.offered.lock().unwrap_or_else(PoisonError::into_inner).take();
        let terms = self.terms;
        Box::pin(async move { Ok(Box::new(OneClient { offered, terms }) as Box<dyn Listener>) })
    }
}

/// What the worker's side has set.
type Terms = (WaitStrategy, Option<TrustedPeer>);

/// What was inherited, and what is dropped when its connection has ended.
type Offered = (Announced, oneshot::Sender<()>);

#[derive(Debug)]
struct OneClient {
    offered: Option<Offered>,
    terms: Terms,
}

impl Listener for OneClient {
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async {
            match self.offered.take() {
                Some((announced, lease)) => {
                    fail_point::at("agent.opens");
                    announced.open(self.terms, Box::new(lease))
                }
                None => std::future::pending().await,
            }
        })
    }
}
