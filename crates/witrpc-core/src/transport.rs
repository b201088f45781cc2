//! The traits of a transport: it sends and receives records (byte strings of limited length), and wakes a side that sleeps.
//!
//! A transport crate (`witrpc-mmf`) implements these traits; the layers above are the same for all transports. The two
//! directions have two owners ([`RecordSender`], [`RecordReceiver`]), and sleeping has a third ([`Waiter`]), so they
//! share no lock. Nothing here interprets the bytes of a record.
//!
//! The functions of sender and receiver run while the connection's half is locked. They never wait, and must not use the connection, its
//! client or its server.
//!
//! # The sleep protocol
//!
//! A side is *armed* when its peer must wake it: for data ([`RecordReceiver::arm`]) or for space
//! ([`RecordSender::arm`]). Arming checks again once the flag is visible to the peer, and returns `true` if there is work already.
//! Between any two polls of a connection's tasks, either the receiver is armed or a task is scheduled to arm it.

mod arena;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

pub use self::arena::{Arena, PIECE_ALIGNMENT, PeerArena, Piece};
pub use crate::error::TransportError;
pub use crate::future::BoxFuture;

use crate::error::Error;

/// The server's side of a transport: an endpoint at which it can listen for clients.
pub trait ServerTransport: fmt::Debug + Send + Sync + 'static {
    /// The endpoint's name, for messages and spans.
    fn name(&self) -> &str;

    /// Checks every setting that can be checked without touching the system.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], naming the setting, the value and the way out.
    fn validate(&self) -> Result<(), Error>;

    /// Starts to listen. When the returned listener is dropped, it stops and removes everything that it created.
    fn listen(&self) -> BoxFuture<'_, Result<Box<dyn Listener>, Error>>;

    /// Starts to listen, as [`listen`](Self::listen) does. A server calls this method. A transport that can list its servers
    /// shows `terms` in the list. A transport that wraps another one passes them on.
    fn listen_with<'a>(
        &'a self,
        _terms: &'a ServerTerms,
    ) -> BoxFuture<'a, Result<Box<dyn Listener>, Error>> {
        self.listen()
    }
}

/// The settings that a server's clients must share, by the names that the handshake compares. For display only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerTerms {
    /// The serializer's name, for example `json`.
    pub serializer: String,
    /// The encryptor's name; `none` without encryption.
    pub encryption: String,
    /// How clients are authorized: `none`, `token` or `sent-token`.
    pub authorization: String,
}

impl ServerTerms {
    /// Makes terms of these names.
    #[must_use]
    pub fn new(
        serializer: impl Into<String>,
        encryption: impl Into<String>,
        authorization: impl Into<String>,
    ) -> Self {
        Self {
            serializer: serializer.into(),
            encryption: encryption.into(),
            authorization: authorization.into(),
        }
    }
}

/// A listening endpoint.
pub trait Listener: fmt::Debug + Send + 'static {
    /// Waits for the next client. The future can only be dropped together with the listener; dropping it alone may lose a client.
    fn accept(&mut self) -> BoxFuture<'_, Result<Channel, Error>>;
}

/// The client's side of a transport: an endpoint to which it can connect.
pub trait ClientTransport: fmt::Debug + Send + Sync + 'static {
    /// The endpoint's name, for messages and spans.
    fn name(&self) -> &str;

    /// Checks every setting that can be checked without touching the system.
    ///
    /// # Errors
    ///
    /// [`Error::Config`], naming the setting, the value and the way out.
    fn validate(&self) -> Result<(), Error>;

    /// Opens a channel to the server. Until `deadline`, it waits for a server to run and to have a free place.
    ///
    /// It fails with [`Error::NotRunning`], [`Error::NotResponding`] or [`Error::Busy`] when the deadline has passed. A deadline that
    /// has already passed means one attempt: it waits neither for a server nor for a free place, but gives a running server a moment to
    /// answer.
    fn connect(&self, deadline: Instant) -> BoxFuture<'_, Result<Channel, Error>>;
}

/// How a connection waits for its peer when it has nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitStrategy {
    /// Polls for at most 100 µs after the last message, as long as polling has been successful, and then sleeps. Does not poll if the
    /// peer last ran on the same CPU.
    #[default]
    Adaptive,
    /// Sleeps at once. Uses the least CPU time, and has the highest latency if the peer runs on another core.
    Park,
    /// Polls for this long before every sleep. Every 100 µs it lets the runtime's other tasks and timers run.
    Spin(Duration),
}

/// The transport of one connection: two directions, a wake-up, and facts about the peer.
pub struct Channel {
    /// The outgoing direction of this side.
    pub sender: Box<dyn RecordSender>,
    /// The incoming direction of this side.
    pub receiver: Box<dyn RecordReceiver>,
    /// Waits for the peer's notifications, and for its end.
    pub waiter: Box<dyn Waiter>,
    /// The process id that the peer claims. `None` if there is no other process.
    pub peer_process_id: Option<u32>,
    /// Returns the nanoseconds of a monotonic clock. Both sides should read the same clock. It always returns 0 if they share none, as on
    /// two machines; a deadline is then sent as the remaining time.
    pub clock: fn() -> u64,
    /// How the connection waits.
    pub wait_strategy: WaitStrategy,
    /// Called once, when the peer's first frame has arrived: the transport can remove what only served the rendezvous.
    pub on_first_frame: Box<dyn FnOnce() + Send>,
    /// Dropped when the connection has ended: releases the client's slot.
    pub lease: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("peer_process_id", &self.peer_process_id)
            .field("wait_strategy", &self.wait_strategy)
            .finish_non_exhaustive()
    }
}

/// The outgoing direction of a channel.
pub trait RecordSender: Send + 'static {
    /// The largest record (head and body together, in bytes) that this direction ever takes.
    fn max_record(&self) -> usize;

    /// The number of bytes that can be unread in this direction.
    fn capacity(&self) -> usize;

    /// Appends `head` followed by `body` as one record, if that leaves at least `spare` bytes free.
    ///
    /// Returns whether it was appended. The record becomes visible to the peer with the next
    /// [`publish`](Self::publish). A record longer than [`max_record`](Self::max_record) is never appended.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if the peer broke a rule of the shared state.
    fn try_push(&mut self, head: &[u8], body: &[u8], spare: usize) -> Result<bool, TransportError>;

    /// Whether [`try_push`](Self::try_push) would append a record of `len` bytes with `spare`. A caller uses it to encrypt only frames that
    /// fit.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if the peer broke a rule of the shared state.
    fn has_room(&mut self, len: usize, spare: usize) -> Result<bool, TransportError>;

    /// Makes all appended records visible, and wakes the peer if it sleeps. Does nothing if there are none.
    ///
    /// # Errors
    ///
    /// [`TransportError::Io`] if waking failed.
    fn publish(&mut self) -> Result<(), TransportError>;

    /// Asks the peer to notify this side once there is more room. Returns `true`, and asks for nothing, if a
    /// record of `len` bytes with `spare` fits after all.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if the peer broke a rule of the shared state.
    fn arm(&mut self, len: usize, spare: usize) -> Result<bool, TransportError>;

    /// Revokes [`arm`](Self::arm): a task polls for room now.
    fn disarm(&mut self);

    /// The memory in which this side lends payloads to its peer. Called once.
    ///
    /// # Errors
    ///
    /// Why there is none, and what to do: the end of a sentence, behind a colon.
    fn arena(&self) -> Result<Arc<dyn Arena>, &'static str> {
        Err("this transport has no memory that both sides can reach")
    }
}

/// The incoming direction of a channel.
pub trait RecordReceiver: Send + 'static {
    /// Copies the first bytes of the oldest unread record into `head` and returns the record's length, in bytes;
    /// `None` if there is no record. A record shorter than `head` fills only its own length of it.
    ///
    /// The length was copied and checked once and stays valid until [`consume`](Self::consume); so do the bounds
    /// of [`append_to`](Self::append_to). Calling it again before `consume` is not allowed.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if the peer broke a rule of the shared state.
    fn peek(&mut self, head: &mut [u8]) -> Result<Option<usize>, TransportError>;

    /// Reserves exactly `more` bytes in `out`, for a message of several records that will be appended. A transport
    /// may ask the system for memory that is suited to long copies (huge pages).
    fn reserve(&self, out: &mut Vec<u8>, more: usize) {
        out.reserve_exact(more);
    }

    /// Appends bytes `from .. from + len` of the record last peeked at to `out`.
    ///
    /// # Panics
    ///
    /// If the range is not within the record.
    fn append_to(&mut self, from: usize, len: usize, out: &mut Vec<u8>);

    /// Removes the record last peeked at. Its space is given back with the next [`release`](Self::release).
    fn consume(&mut self);

    /// Releases the space of consumed records, and notifies the peer if it waits for space. A sixteenth of the
    /// capacity may be held back.
    ///
    /// # Errors
    ///
    /// [`TransportError::Io`] if waking failed.
    fn release(&mut self) -> Result<(), TransportError>;

    /// Whether there is a record to peek at. Must be cheap, as a polling loop calls it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if the peer broke a rule of the shared state.
    fn is_ready(&mut self) -> Result<bool, TransportError>;

    /// Asks the peer to notify this side when it publishes. Returns `true` if a record is there already; then the peer may or may not have been
    /// asked.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if the peer broke a rule of the shared state.
    fn arm(&mut self) -> Result<bool, TransportError>;

    /// Announces that a task polls until the next record is there. If the peer was asked to notify this side, it need not do so for that
    /// record, but may for the one after it. A task that stops polling calls [`arm`](Self::arm).
    fn expect(&mut self) {
        self.disarm();
    }

    /// Revokes [`arm`](Self::arm): a task reads the records now.
    fn disarm(&mut self);

    /// Ignores all records that are published from now on: the peer is gone, or claims to be. So reading the rest comes to an end even if the
    /// peer goes on publishing.
    ///
    /// # Errors
    ///
    /// [`TransportError::Corrupt`] if the peer broke a rule of the shared state.
    fn stop(&mut self) -> Result<(), TransportError>;

    /// Whether polling for the peer's next record can be useful: the peer last published from another CPU than the current one.
    fn worth_polling(&self) -> bool;

    /// The memory in which the peer lends payloads to this side, if it can. Called once.
    fn arena(&self) -> Option<Arc<dyn PeerArena>> {
        None
    }
}

/// Waits for the peer's notifications. Owned by the task that sleeps for a connection.
pub trait Waiter: Send + 'static {
    /// Completes when the peer has notified this side since the last completion, or is gone.
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>>;

    /// Moves the wait to the runtime of the current task, if it depends on a runtime and the system allows it.
    ///
    /// # Errors
    ///
    /// [`TransportError::Io`] if that runtime cannot take it.
    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError>;

    /// What the operating system can prove about the peer, if anything.
    fn peer_proof(&self) -> Option<Arc<dyn PeerProof>> {
        None
    }
}

/// What the operating system can prove about a peer. Asked when the user asks.
pub trait PeerProof: Send + Sync + 'static {
    /// Returns what is proved. The peer may have ended.
    fn credentials(&self) -> Credentials;
}

/// What the operating system proves about a peer. `None` is what it does not prove.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Credentials {
    /// The process id, as this process sees it.
    pub process_id: Option<u32>,
    /// The user id.
    pub user_id: Option<u32>,
    /// The group id.
    pub group_id: Option<u32>,
    process: Option<Arc<dyn Any + Send + Sync>>,
}

impl Credentials {
    /// With a process id.
    #[must_use]
    pub const fn with_process_id(mut self, process_id: u32) -> Self {
        self.process_id = Some(process_id);
        self
    }

    /// With a user.
    #[must_use]
    pub const fn with_user_id(mut self, user_id: u32) -> Self {
        self.user_id = Some(user_id);
        self
    }

    /// With a group.
    #[must_use]
    pub const fn with_group_id(mut self, group_id: u32) -> Self {
        self.group_id = Some(group_id);
        self
    }

    /// With the system's handle of the process, which is of type `T`.
    #[must_use]
    pub fn with_process_handle<T: Any + Send + Sync>(mut self, handle: Arc<T>) -> Self {
        self.process = Some(handle);
        self
    }

    /// Returns the system's handle of the process: on Linux a pidfd, as `std::os::fd::OwnedFd`. Unlike the process id, it names the same
    /// process after that has ended.
    #[must_use]
    pub fn process_handle<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.process.as_ref()?.downcast_ref()
    }
}

impl Waiter for Box<dyn Waiter> {
    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Result<Wake, TransportError>> {
        (**self).poll_wake(cx)
    }

    fn moved(self: Box<Self>) -> Result<Box<dyn Waiter>, TransportError> {
        (*self).moved()
    }

    fn peer_proof(&self) -> Option<Arc<dyn PeerProof>> {
        (**self).peer_proof()
    }
}

/// Why a [`Waiter`] completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "complete: a wait ends in one of these two ways")]
pub enum Wake {
    /// The peer's process has ended, or has closed the channel. Records it published before can still be read.
    PeerGone,
    /// The peer notified this side. Spurious notifications are allowed.
    Rung,
}
