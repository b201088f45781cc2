//! A transport within one process, with bounded queues in place of a region, and wakers in place of events.
//!
//! It is meant for tests, and for programs that keep a service in the same process for now. It behaves like the shared-memory
//! transport, including backpressure and limits, but needs no files or system calls. It copies more often than necessary, because it
//! uses only safe code.
//!
//! Pass clones of one [`MemoryTransport`] to the server and to its clients:
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use witrpc::prelude::*;
//! use witrpc::transport::memory::MemoryTransport;
//!
//! #[witrpc::service]
//! trait Calc {
//!     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
//! }
//! # struct Adder;
//! # impl Calc for Adder {
//! #     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> { Ok(a + b) }
//! # }
//!
//! let transport = MemoryTransport::new();
//! let server = WitServerBuilder::new()
//!     .with_service(CalcServer::new(Adder))
//!     .with_transport(transport.clone())
//!     .build()?;
//! server.start_waiting_for_connection().await?;
//!
//! let client = WitClientBuilder::new().with_transport(transport).build()?;
//! client.connect(Duration::from_secs(5)).await?;
//! assert_eq!(client.get_service::<CalcClient>().add(2, 3).await?, 5);
//! # Ok::<(), witrpc::Error>(())
//! # }).unwrap();
//! ```

mod arena;
mod pipe;
mod side;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use witrpc_core::Error;
use witrpc_core::transport::BoxFuture;
use witrpc_core::transport::TransportError;
use witrpc_core::transport::WaitStrategy;
use witrpc_core::transport::{Channel, ClientTransport, Listener, ServerTransport, Waiter, Wake};

use self::arena::MemoryArena;
use self::pipe::{MemoryReceiver, MemorySender, Pipe};
use self::side::{GONE, Side};

/// The default capacity of one direction, in bytes.
const DEFAULT_CAPACITY: usize = 512 << 10;
/// The smallest capacity: it holds a few chunks.
const MIN_CAPACITY: usize = 4 << 10;
/// How long a server waits for a listener that was just dropped to be gone.
const NAME_WAIT: Duration = Duration::from_millis(200);

/// A transport within one process. Pass clones of it to one server and its clients. Each server needs a transport of its own.
#[derive(Clone, Debug)]
pub struct MemoryTransport {
    capacity: usize,
    lending: Lending,
    rendezvous: Arc<Rendezvous>,
}

#[derive(Debug)]
struct Rendezvous {
    /// Where clients put their channels while a server listens.
    door: Mutex<Option<mpsc::UnboundedSender<Channel>>>,
    changed: tokio::sync::Notify,
}

impl Default for MemoryTransport {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryTransport {
    /// Makes a transport with a queue of 512 KiB in each direction.
    #[must_use]
    pub fn new() -> Self {
        Self {
            capacity: DEFAULT_CAPACITY,
            lending: Lending::default(),
            rendezvous: Arc::new(Rendezvous {
                door: Mutex::new(None),
                changed: tokio::sync::Notify::new(),
            }),
        }
    }

    /// Sets the size of each direction's queue in bytes. Less than 4096 is an error at `build()`.
    #[must_use]
    pub const fn with_capacity(mut self, bytes: usize) -> Self {
        self.capacity = bytes;
        self
    }

    /// Lets each side lend this many bytes at a time ([`WitClient::lend`](crate::WitClient::lend)). Its peer reads them in place. Default 0:
    /// nothing.
    #[must_use]
    pub const fn with_lending(mut self, bytes: u64) -> Self {
        self.lending.bytes = bytes;
        self
    }

    /// Has what is lent copied by whoever reads it, as by processes that do not trust each other. For tests.
    #[must_use]
    pub const fn with_copied_loans(mut self) -> Self {
        self.lending.copied = true;
        self
    }

    fn check(&self) -> Result<(), Error> {
        if self.capacity < MIN_CAPACITY {
            let advice = format!("give at least {MIN_CAPACITY} bytes");
            return Err(Error::config("with_capacity", self.capacity, advice));
        }
        Ok(())
    }
}

impl ServerTransport for MemoryTransport {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()
    }

    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>> {
        Box::pin(async {
            let held = lock(&self.rendezvous.door).clone();
            if let Some(held) = held {
                if tokio::time::timeout(NAME_WAIT, held.closed()).await.is_err() {
                    let (endpoint, place) = ("memory".to_owned(), "this process".to_owned());
                    let process_id = Some(std::process::id());
                    return Err(Error::NameInUse { endpoint, place, process_id });
                }
            }
            let (sender, clients) = mpsc::unbounded_channel();
            *lock(&self.rendezvous.door) = Some(sender);
            self.rendezvous.changed.notify_waiters();
            Ok(Box::new(MemoryListener { clients }) as Box<dyn Listener>)
        })
    }
}

#[derive(Debug)]
struct MemoryListener {
    clients: mpsc::UnboundedReceiver<Channel>,
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async {
            match self.clients.recv().await {
                Some(channel) => Ok(channel),
                // Cannot happen: the transport holds a sender.
                None => std::future::pending().await,
            }
        })
    }
}

impl ClientTransport for MemoryTransport {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn validate(&self) -> Result<(), Error> {
        self.check()
    }

    fn connect(&self, deadline: std::time::Instant) -> BoxFuture<'_, Result<Channel, Error>> {
        Box::pin(async move {
            let deadline = tokio::time::Instant::from_std(deadline);
            let began = tokio::time::Instant::now();
            let (mut ours, mut theirs) = (None, None);
            loop {
                let changed = self.rendezvous.changed.notified();
                let door = lock(&self.rendezvous.door).clone();
                if let Some(door) = door {
                    let (client, server) = match (ours.take(), theirs.take()) {
                        (Some(client), Some(server)) => (client, server),
                        _ => lending_pair(self.capacity, self.lending),
                    };
                    match door.send(server) {
                        Ok(()) => return Ok(client),
                        Err(refused) => (ours, theirs) = (Some(client), Some(refused.0)),
                    }
                }
                if tokio::time::timeout_at(deadline, changed).await.is_err() {
                    return Err(Error::NotRunning {
                        endpoint: "memory".to_owned(),
                        place: "this process".to_owned(),
                        running: "none".to_owned(),
                        waited: began.elapsed(),
                    });
                }
            }
        })
    }
}

/// Makes two connected channels, the client's and the server's. `capacity` is the size of each direction's queue in bytes, at least 4096.
#[must_use]
pub fn pair(capacity: usize) -> (Channel, Channel) {
    lending_pair(capacity, Lending::default())
}

/// How much each side can lend.
#[derive(Clone, Copy, Debug, Default)]
struct Lending {
    bytes: u64,
    copied: bool,
}

fn lending_pair(capacity: usize, lending: Lending) -> (Channel, Channel) {
    let capacity = capacity.max(MIN_CAPACITY);
    let pipe = || {
        let arena = || MemoryArena::new(lending.bytes, !lending.copied);
        Arc::new(Pipe::new((lending.bytes > 0).then(arena)))
    };
    let (there, back) = (pipe(), pipe());
    let (client, server) = (Arc::new(Side::default()), Arc::new(Side::default()));
    (
        channel(capacity, &there, &back, &client, &server),
        channel(capacity, &back, &there, &server, &client),
    )
}

fn channel(
    capacity: usize,
    out: &Arc<Pipe>,
    into: &Arc<Pipe>,
    own: &Arc<Side>,
    peer: &Arc<Side>,
) -> Channel {
    Channel {
        sender: Box::new(MemorySender::new(Arc::clone(out), Arc::clone(peer), capacity)),
        receiver: Box::new(MemoryReceiver::new(Arc::clone(into), Arc::clone(peer), capacity)),
        waiter: Box::new(MemoryWaiter { own: Arc::clone(own), peer: Arc::clone(peer) }),
        peer_process_id: None,
        clock: nanoseconds,
        wait_strategy: WaitStrategy::Park,
        on_first_frame: Box::new(|| ()),
        lease: Box::new(()),
    }
}

/// Nanoseconds since the first call in this process.
fn nanoseconds() -> u64 {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    u64::try_from(ORIGIN.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

struct MemoryWaiter {
    own: Arc<Side>,
    peer: Arc<Side>,
}

impl Waiter for MemoryWaiter {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        let side = &self.own;
        let wake = side.take().or_else(|| {
            side.waker.register(cx.waker());
            // Once more: a signal after this look finds the waker.
            side.take()
        });
        wake.map_or(Poll::Pending, |wake| Poll::Ready(Ok(wake)))
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        Ok(self)
    }
}

impl Drop for MemoryWaiter {
    fn drop(&mut self) {
        self.peer.signal(GONE);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
