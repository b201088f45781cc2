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

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use witrpc_core::Error;
use witrpc_core::sync::AtomicWaker;
use witrpc_core::transport::BoxFuture;
use witrpc_core::transport::TransportError;
use witrpc_core::transport::WaitStrategy;
use witrpc_core::transport::{
    Channel, ClientTransport, Listener, RecordReceiver, RecordSender, ServerTransport, Waiter, Wake,
};

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
                        _ => pair(self.capacity),
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
    let capacity = capacity.max(MIN_CAPACITY);
    let (there, back) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
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
        sender: Box::new(MemorySender {
            pipe: Arc::clone(out),
            peer: Arc::clone(peer),
            capacity,
            batch: Vec::new(),
            batched: 0,
        }),
        receiver: Box::new(MemoryReceiver {
            pipe: Arc::clone(into),
            peer: Arc::clone(peer),
            current: None,
            freed: 0,
            last: usize::MAX,
        }),
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

/// One direction.
#[derive(Debug)]
struct Pipe {
    state: Mutex<PipeState>,
}

impl Default for Pipe {
    fn default() -> Self {
        Self { state: Mutex::new(PipeState::default()) }
    }
}

#[derive(Debug, Default)]
struct PipeState {
    records: VecDeque<Vec<u8>>,
    /// Bytes that were pushed and not released yet.
    used: usize,
    reader_asleep: bool,
    writer_asleep: bool,
}

/// Wakes one side.
#[derive(Debug)]
struct Side {
    signals: Mutex<Signals>,
    waker: AtomicWaker,
}

impl Default for Side {
    fn default() -> Self {
        Self { signals: Mutex::new(Signals::default()), waker: AtomicWaker::new() }
    }
}

#[derive(Debug, Default)]
struct Signals {
    notified: bool,
    gone: bool,
}

impl Side {
    fn notify(&self) {
        lock(&self.signals).notified = true;
        self.waker.wake();
    }
}

struct MemorySender {
    pipe: Arc<Pipe>,
    peer: Arc<Side>,
    capacity: usize,
    batch: Vec<Vec<u8>>,
    batched: usize,
}

impl RecordSender for MemorySender {
    fn max_record(&self) -> usize {
        self.capacity / 4
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn try_push(&mut self, head: &[u8], body: &[u8], spare: usize) -> Result<bool, TransportError> {
        let len = head.len() + body.len();
        if !self.has_room(len, spare)? {
            return Ok(false);
        }
        self.batched += len;
        self.batch.push([head, body].concat());
        Ok(true)
    }

    fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        let used = lock(&self.pipe.state).used;
        Ok(len <= self.max_record() && used + self.batched + len + spare <= self.capacity)
    }

    fn publish(&mut self) -> Result<(), TransportError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut state = lock(&self.pipe.state);
        state.records.extend(self.batch.drain(..));
        state.used += std::mem::take(&mut self.batched);
        let asleep = std::mem::take(&mut state.reader_asleep);
        drop(state);
        if asleep {
            self.peer.notify();
        }
        Ok(())
    }

    fn arm(&mut self, len: usize, spare: usize) -> Result<bool, TransportError> {
        let mut state = lock(&self.pipe.state);
        if state.used + self.batched + len + spare <= self.capacity {
            return Ok(true);
        }
        state.writer_asleep = true;
        Ok(false)
    }

    fn disarm(&mut self) {
        lock(&self.pipe.state).writer_asleep = false;
    }
}

struct MemoryReceiver {
    pipe: Arc<Pipe>,
    peer: Arc<Side>,
    current: Option<Vec<u8>>,
    freed: usize,
    /// How many more records may be taken.
    last: usize,
}

impl RecordReceiver for MemoryReceiver {
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError> {
        if self.last > 0 {
            self.current = lock(&self.pipe.state).records.pop_front();
        }
        let Some(record) = &self.current else { return Ok(None) };
        let known = head.len().min(record.len());
        head[..known].copy_from_slice(&record[..known]);
        Ok(Some(record.len()))
    }

    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>) {
        let record = self.current.as_deref().unwrap_or_default();
        out.extend_from_slice(&record[from..from + len]);
    }

    fn consume(&mut self) {
        self.freed += self.current.take().map_or(0, |record| record.len());
        if self.last < usize::MAX {
            self.last -= 1;
        }
    }

    fn release(&mut self) -> Result<(), TransportError> {
        if self.freed == 0 {
            return Ok(());
        }
        let mut state = lock(&self.pipe.state);
        state.used -= std::mem::take(&mut self.freed);
        let asleep = std::mem::take(&mut state.writer_asleep);
        drop(state);
        if asleep {
            self.peer.notify();
        }
        Ok(())
    }

    fn is_ready(&mut self) -> Result<bool, TransportError> {
        Ok(self.last > 0 && !lock(&self.pipe.state).records.is_empty())
    }

    fn arm(&mut self) -> Result<bool, TransportError> {
        let mut state = lock(&self.pipe.state);
        state.reader_asleep = self.last == 0 || state.records.is_empty();
        Ok(!state.reader_asleep)
    }

    fn disarm(&mut self) {
        lock(&self.pipe.state).reader_asleep = false;
    }

    fn stop(&mut self) -> Result<(), TransportError> {
        self.last = self.last.min(lock(&self.pipe.state).records.len());
        Ok(())
    }

    fn worth_polling(&self) -> bool {
        false
    }
}

struct MemoryWaiter {
    own: Arc<Side>,
    peer: Arc<Side>,
}

impl Waiter for MemoryWaiter {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        self.own.waker.register(cx.waker());
        let mut signals = lock(&self.own.signals);
        if std::mem::take(&mut signals.notified) {
            return Poll::Ready(Ok(Wake::Rung));
        }
        if signals.gone {
            return Poll::Ready(Ok(Wake::PeerGone));
        }
        Poll::Pending
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        Ok(self)
    }
}

impl Drop for MemoryWaiter {
    fn drop(&mut self) {
        lock(&self.peer.signals).gone = true;
        self.peer.waker.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
