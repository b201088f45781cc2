//! [`CallContext`]: the call that a handler answers.
//!
//! The context is set around every poll of the handler. A task that the handler spawns does not inherit it, but can be given a clone.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::task::coop::consume_budget;
use tokio::time::Instant;
use witrpc_core::security::authorization::Identity;
use witrpc_core::transport::{BoxFuture, Credentials, PeerProof};
use witrpc_core::wire::frame::Nesting;

use crate::locks::{self, Mutex, Rank};

/// Up to this many subscribers are noted without checking which of them are gone.
const FEW: usize = 16;

/// A subscriber at the other end of a connection, for which values wait that a handler raised.
pub(crate) trait RaisedTo: Send + Sync {
    /// The id of its subscription.
    fn id(&self) -> u32;

    /// Whether it is gone.
    fn is_ended(&self) -> bool;

    /// Sends waiting values up to the subscriber's bound. Returns the position of the last one in the event lane.
    fn flush(&self) -> u64;
}

thread_local! {
    /// Whether this thread is polling a handler in place.
    static IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// Whether this is the first poll of a handler, on the driver, with a waker that does nothing.
pub(crate) fn is_first_poll() -> bool {
    IN_PLACE.get()
}

thread_local! {
    /// Whether this thread is polling a stream of the user's for the peer.
    static POLLS_STREAM: Cell<bool> = const { Cell::new(false) };
}

/// Runs a handler's first poll.
pub(crate) fn first_poll<T>(poll: impl FnOnce() -> T) -> T {
    IN_PLACE.set(true);
    let polled = poll();
    IN_PLACE.set(false);
    polled
}

/// The context of the call that a handler answers: its caller, its deadline, and whether it was cancelled.
///
/// [`CallContext::current`] returns it within a handler. A task that the handler spawns does not inherit it: pass a clone, which is
/// cheap.
///
/// ```
/// use witrpc::{CallContext, Error, Result};
///
/// #[witrpc::service]
/// trait Search {
///     #[witrpc(blocking)]
///     async fn count_primes(&self, below: u64) -> Result<u64>;
/// }
///
/// struct Slow;
///
/// impl Search for Slow {
///     async fn count_primes(&self, below: u64) -> Result<u64> {
///         let call = CallContext::current();
///         let mut primes = 0;
///         for number in 2..below {
///             if call.is_cancelled() {
///                 return Err(Error::Cancelled); // Nobody receives this error.
///             }
///             primes += u64::from((2..number).all(|divisor| number % divisor != 0));
///         }
///         Ok(primes)
///     }
/// }
/// ```
#[derive(Clone)]
pub struct CallContext(Arc<State>);

struct State {
    peer: Peer,
    deadline: Option<Instant>,
    /// Of the call that the handler answers.
    nesting: Nesting,
    cancelled: AtomicBool,
    notify: Notify,
    /// The position in the event lane of the last event that this handler raised to the caller's connection.
    last_event: AtomicU64,
    /// Subscribers at that connection for which values wait that this handler raised, by the ids of their subscriptions.
    waiting: Mutex<HashMap<u32, Arc<dyn RaisedTo>>>,
    /// Whether there are any; a call without any takes no lock.
    has_waiting: AtomicBool,
}

/// The other side of a call's connection. It is cheap to clone, and does not keep the connection alive.
#[derive(Clone)]
#[non_exhaustive]
pub struct Peer {
    /// A number of the connection that is unique in this process.
    pub connection_id: u64,
    /// The process id that the peer claims. It is not verified. `None` within one process.
    pub process_id: Option<u32>,
    callee: Arc<dyn Any + Send + Sync>,
    known: Arc<Known>,
}

/// What is known of a peer beside what it claims.
#[derive(Default)]
pub(crate) struct Known {
    /// What the validator returned.
    pub(crate) identity: Option<Identity>,
    /// What the transport can have the system prove.
    pub(crate) proof: Option<Arc<dyn PeerProof>>,
}

impl Peer {
    pub(crate) fn new(
        connection_id: u64,
        process_id: Option<u32>,
        callee: Arc<dyn Any + Send + Sync>,
        known: Known,
    ) -> Self {
        Self { connection_id, process_id, callee, known: Arc::new(known) }
    }

    /// Returns what the operating system proves about the peer; unlike [`process_id`](Self::process_id), which the peer claims. What
    /// cannot be proved is `None`.
    ///
    /// | connection | process id | user and group |
    /// |---|---|---|
    /// | host and its worker, Linux | of a host, the maker of the socket pair; of a worker, the process that was started | both, of that process, by the socket pair |
    /// | named endpoint, Linux | the process that holds the lock on the peer's named pipe, if that is another process | the user that owns that pipe |
    /// | named endpoint, other Unix | | the user that owns that pipe |
    /// | named endpoint that a group shares | | the group |
    /// | all others | | |
    ///
    /// At a named endpoint, any program of the same user, and root, could have taken the place of the process that made the pipe. So they prove
    /// the user, and do not tell the programs of one user apart. Where a group shares the endpoint, they prove only that the peer
    /// is a member, or root. On Linux, [`Credentials::process_handle`] is a pidfd of a worker or a host.
    ///
    /// ```
    /// use witrpc::CallContext;
    ///
    /// # #[witrpc::service]
    /// # trait Admin { async fn stop(&self) -> witrpc::Result<()>; }
    /// # struct Local;
    /// # impl Admin for Local {
    /// async fn stop(&self) -> witrpc::Result<()> {
    ///     let caller = CallContext::current().peer().credentials();
    ///     if caller.user_id != Some(0) {
    ///         return Err(witrpc::Error::fault("only root can stop this server"));
    ///     }
    /// #   Ok(())
    ///     // …
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn credentials(&self) -> Credentials {
        self.known.proof.as_ref().map_or_else(Credentials::default, |proof| proof.credentials())
    }

    /// Returns the identity that the closure of `with_access_token_validator` returned for this peer. `None` if there is no
    /// validator, or the identity has another type than `I`.
    #[must_use]
    pub fn identity<I: Any + Send + Sync>(&self) -> Option<Arc<I>> {
        Arc::clone(self.known.identity.as_ref()?).downcast().ok()
    }

    /// The callee of the peer's services, whose type `serving` knows.
    pub(crate) const fn callee(&self) -> &Arc<dyn Any + Send + Sync> {
        &self.callee
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("connection_id", &self.connection_id)
            .field("process_id", &self.process_id)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        self.connection_id == other.connection_id
    }
}

impl Eq for Peer {}

/// What a transport gives a connection besides its records, for values of crates above this one.
pub type SideChannel = Arc<dyn Any + Send + Sync>;

/// A transport's lease with a side channel: values that are sent or received over the connection find it.
#[derive(Debug)]
pub struct SharedLease {
    /// The side channel.
    pub side_channel: SideChannel,
    /// The lease proper.
    pub lease: Box<dyn Any + Send + Sync>,
}

thread_local! {
    /// The side channel of the connection whose stream this thread polls, and the id of that stream.
    static SIDE_CHANNEL: RefCell<Option<(SideChannel, u64)>> = const { RefCell::new(None) };
}

/// Returns the side channel of the connection over which the stream that is being polled is sent, and the stream's id, which both sides
/// know.
#[must_use]
pub fn side_channel() -> Option<(SideChannel, u64)> {
    SIDE_CHANNEL.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Polls the stream of the user's with this id that is sent over a connection, which may have a side channel. `poll` must not panic.
///
/// A handler at any depth may be reading the stream. So calls that are made meanwhile count as nested deepest, and wait for no other
/// call.
pub(crate) fn polling_stream<T>(
    side_channel: Option<&SideChannel>,
    id: u64,
    poll: impl FnOnce() -> T,
) -> T {
    let polled_before = POLLS_STREAM.replace(true);
    let swap = |value| SIDE_CHANNEL.with(|current| current.replace(value));
    let outer = side_channel.map(|side_channel| swap(Some((Arc::clone(side_channel), id))));
    let polled = poll();
    drop(outer.map(swap));
    POLLS_STREAM.set(polled_before);
    polled
}

thread_local! {
    /// The current handler's context. If the destructor of another thread-local runs after it was destroyed, there is none.
    static CURRENT: RefCell<Option<CallContext>> = const { RefCell::new(None) };
}

impl CallContext {
    pub(crate) fn new(peer: Peer, deadline: Option<Instant>, nesting: Nesting) -> Self {
        let (cancelled, notify) = (AtomicBool::new(false), Notify::new());
        let (last_event, waiting) = (AtomicU64::new(0), Mutex::new(Rank::Raised, HashMap::new()));
        let has_waiting = AtomicBool::new(false);
        Self(Arc::new(State {
            peer,
            deadline,
            nesting,
            cancelled,
            notify,
            last_event,
            waiting,
            has_waiting,
        }))
    }

    /// The same value for another call of that peer, if no clone was kept.
    pub(crate) fn renewed(mut self, deadline: Option<Instant>, nesting: Nesting) -> Option<Self> {
        let state = Arc::get_mut(&mut self.0)?;
        // A wait for the cancellation may have left state in `notify`.
        if *state.cancelled.get_mut() {
            return None;
        }
        state.deadline = deadline;
        state.nesting = nesting;
        *state.last_event.get_mut() = 0;
        if std::mem::take(state.has_waiting.get_mut()) {
            state.waiting.get_mut().clear();
        }
        Some(self)
    }

    /// Returns the context of the handler that is running.
    ///
    /// # Panics
    ///
    /// Outside of a handler, and in a task that a handler spawned. [`try_current`](Self::try_current) does not panic.
    #[must_use]
    pub fn current() -> Self {
        Self::try_current().expect(
            "CallContext::current() was called outside of a handler, or in a task or thread that a handler started: call it in the handler and pass the context on, or use try_current()",
        )
    }

    /// Returns the context of the handler that is running, or `None` outside of a handler.
    #[must_use]
    pub fn try_current() -> Option<Self> {
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    /// What a call that is made now inherits of the handler that is running, if one is; and how far the call is nested.
    pub(crate) fn inherited() -> (Option<Inherited>, Nesting) {
        let current = Self::try_current();
        let nesting = current.as_ref().map(|context| context.0.nesting.within());
        let nesting = nesting.unwrap_or_default();
        let inherited = current.map(|context| Inherited { context, cancelled: None });
        (inherited, if POLLS_STREAM.get() { Nesting::Deeper } else { nesting })
    }

    /// Runs a future within this context, as the handler itself runs: for a task that the handler spawns.
    ///
    /// Calls that the future makes then have what is left of the handler's deadline, are cancelled with the handler's call, and count as
    /// made within it. A handler that waits for a task which makes calls needs this: otherwise these calls may wait for a place that the handler's own call
    /// holds.
    ///
    /// ```
    /// use witrpc::{CallContext, Error, Result};
    ///
    /// # #[witrpc::service]
    /// # trait Console {
    /// #     async fn ask(&self, question: String) -> Result<bool>;
    /// # }
    /// async fn ask_in_a_task(question: String) -> Result<bool> {
    ///     let call = CallContext::current();
    ///     let console: ConsoleClient = call.peer().get_service();
    ///     let task = tokio::spawn(call.scope(async move { console.ask(question).await }));
    ///     task.await.map_err(Error::fault)?
    /// }
    /// ```
    pub async fn scope<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| self.enter(|| future.as_mut().poll(cx))).await
    }

    /// How far the call is nested that the handler answers.
    pub(crate) fn nesting(&self) -> Nesting {
        self.0.nesting
    }

    /// Returns the caller.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.0.peer.clone()
    }

    /// Returns the identity that the closure of `with_access_token_validator` returned for this client. `None` if the server has no
    /// validator, or the identity has another type than `I`.
    #[must_use]
    pub fn identity<I: Any + Send + Sync>(&self) -> Option<Arc<I>> {
        self.0.peer.identity()
    }

    /// Returns the call's deadline, if it has one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// Whether nobody waits for the response any more: the call was cancelled, timed out, or its connection has ended.
    ///
    /// A handler is dropped at its next await when that happens. Code that blocks asks here, on whatever thread. A blocking handler that
    /// is cancelled no longer counts as a call in flight, but keeps its thread until it returns.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        // Relaxed: a hint, and it carries no other data.
        self.0.cancelled.load(Ordering::Relaxed)
            || self.0.deadline.is_some_and(|d| d <= Instant::now())
    }

    /// Whether the call was cancelled. False if only its deadline has passed.
    pub(crate) fn was_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Completes when the call is cancelled or its connection is gone; for tasks and threads that a handler has started.
    pub async fn cancelled(&self) {
        consume_budget().await;
        let notified = self.0.notify.notified();
        if !self.0.cancelled.load(Ordering::Relaxed) {
            notified.await;
        }
    }

    /// Calls `look` with the current context, if its handler's answer goes to connection `id`.
    fn with_caller(id: u64, look: impl FnOnce(&Self)) {
        let look = |current: &RefCell<Option<Self>>| {
            if let Some(context) = &*current.borrow() {
                if context.0.peer.connection_id == id {
                    look(context);
                }
            }
        };
        // Without a context there is no handler.
        CURRENT.try_with(look).ok();
    }

    /// Notes an event that was raised to connection `id`, if that is where the current handler's answer goes.
    pub(crate) fn note_event(id: u64, event: u64) {
        // Relaxed: read by the task that sends the answer, after the handler's last poll.
        Self::with_caller(id, |context| {
            context.0.last_event.fetch_max(event, Ordering::Relaxed);
        });
    }

    /// Notes that a raised value waits for a subscriber at connection `id`, if that is where the current handler's answer goes.
    pub(crate) fn note_subscriber(id: u64, subscriber: &Arc<dyn RaisedTo>) {
        Self::with_caller(id, |context| {
            let mut waiting = context.0.waiting.lock();
            // A handler that runs for long may outlive subscriptions: at most twice as many are noted as are in force.
            let is_new = !waiting.contains_key(&subscriber.id());
            if is_new && waiting.len() >= FEW && waiting.len().is_power_of_two() {
                waiting.retain(|_, subscriber| !subscriber.is_ended());
            }
            waiting.insert(subscriber.id(), Arc::clone(subscriber));
            context.0.has_waiting.store(true, Ordering::Relaxed);
        });
    }

    /// Sends the values that the handler raised, up to the bounds of the caller's subscriptions. Returns the position of the last event
    /// that must be sent before the answer.
    pub(crate) fn flush_events(&self) -> u64 {
        // Relaxed: as for the last event.
        let last_event = self.0.last_event.load(Ordering::Relaxed);
        if !self.0.has_waiting.load(Ordering::Relaxed) {
            return last_event;
        }
        let waiting = std::mem::take(&mut *self.0.waiting.lock());
        let flushed = waiting.values().map(|subscriber| subscriber.flush()).max();
        last_event.max(flushed.unwrap_or(0))
    }

    pub(crate) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
        locks::let_go(Arc::clone(&self.0), |state| state.notify.notify_waiters());
    }

    /// Swaps a context with the current one, without a clone.
    pub(crate) fn swap_current(context: &mut Option<Self>) {
        let swap = |current: &RefCell<_>| std::mem::swap(&mut *current.borrow_mut(), context);
        CURRENT.try_with(swap).ok();
    }

    /// Runs `f` with this context as the current one.
    pub(crate) fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        struct Restore(Option<CallContext>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CallContext::swap_current(&mut self.0);
            }
        }
        let mut context = Some(self.clone());
        Self::swap_current(&mut context);
        let _restore = Restore(context);
        f()
    }
}

/// What a call inherits of the handler that makes it: its deadline, and its cancellation.
pub(crate) struct Inherited {
    context: CallContext,
    /// Completes when the handler's call is cancelled. Made when a call waits.
    cancelled: Option<BoxFuture<'static, ()>>,
}

impl Inherited {
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.context.deadline()
    }

    /// Whether the handler's call was cancelled. False if only its deadline has passed.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.context.was_cancelled()
    }

    /// Completes when the handler's call is cancelled.
    pub(crate) fn poll_cancelled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wait = || -> BoxFuture<'static, ()> {
            let context = self.context.clone();
            Box::pin(async move { context.cancelled().await })
        };
        self.cancelled.get_or_insert_with(wait).as_mut().poll(cx)
    }
}

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext")
            .field("peer", &self.0.peer)
            .field("deadline", &self.0.deadline)
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
