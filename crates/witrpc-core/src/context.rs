//! What a handler can learn about the call that it answers.
//!
//! The context is set around every poll of the handler; a task that the handler spawns does not inherit it, but can be
//! given a clone.

use std::any::Any;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use tokio::time::Instant;

use crate::authorization::Identity;
use crate::call::Remote;
use crate::callee::{Callee, PeerCallee};
use crate::service::ServiceClient;

/// The call that the current handler answers.
///
/// Cheap to clone. Set around every poll of the handler; a task that it spawns is given a clone.
///
/// ```
/// use witrpc_core::{CallContext, Error, Result};
///
/// #[witrpc_macros::service(crate = witrpc_core)]
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
///                 return Err(Error::Cancelled); // Nobody hears it; what counts is to stop.
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
    identity: Option<Identity>,
    deadline: Option<Instant>,
    cancelled: AtomicBool,
    notify: Notify,
    /// The last event that this handler raised to the caller's connection, as its sending half counts.
    last_event: AtomicU64,
}

/// The other side of a call's connection. Cheap to clone; it does not keep the connection alive.
#[derive(Clone)]
#[non_exhaustive]
pub struct Peer {
    /// A number for the connection, unique in this process.
    pub connection_id: u64,
    /// The process id that the peer claims; not to be trusted. `None` within one process.
    pub process_id: Option<u32>,
    callee: Arc<PeerCallee>,
}

impl Peer {
    pub(crate) const fn new(
        connection_id: u64,
        process_id: Option<u32>,
        callee: Arc<PeerCallee>,
    ) -> Self {
        Self { connection_id, process_id, callee }
    }

    /// A handle to one of the services that the peer offers: a client may, with
    /// [`with_service`](crate::WitClientBuilder::with_service). This is how a handler calls back, the very client
    /// that is calling it included.
    ///
    /// Nothing is asked of the peer; calling what it lacks is the call's error. The handle is of use as long as the
    /// connection lasts, also outside the handler; then its calls end with [`Error::Closed`](crate::Error::Closed).
    ///
    /// ```
    /// use witrpc_core::{CallContext, Result};
    ///
    /// /// What the client offers.
    /// #[witrpc_macros::service(crate = witrpc_core)]
    /// trait Console {
    ///     async fn ask(&self, question: String) -> Result<bool>;
    /// }
    ///
    /// #[witrpc_macros::service(crate = witrpc_core)]
    /// trait Files {
    ///     async fn remove(&self, path: String) -> Result<bool>;
    /// }
    ///
    /// struct Careful;
    ///
    /// impl Files for Careful {
    ///     async fn remove(&self, path: String) -> Result<bool> {
    ///         let console: ConsoleClient = CallContext::current().peer().get_service();
    ///         console.ask(format!("remove {path}?")).await
    ///     }
    /// }
    /// ```
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        let callee = Callee::Peer(Arc::clone(&self.callee));
        C::from_remote(Remote::new(callee, C::descriptor(), None))
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

thread_local! {
    static CURRENT: RefCell<Option<CallContext>> = const { RefCell::new(None) };
}

impl CallContext {
    pub(crate) fn new(peer: Peer, identity: Option<Identity>, deadline: Option<Instant>) -> Self {
        let (cancelled, notify) = (AtomicBool::new(false), Notify::new());
        let last_event = AtomicU64::new(0);
        Self(Arc::new(State { peer, identity, deadline, cancelled, notify, last_event }))
    }

    /// The same for another call of that peer, if nobody has kept it.
    pub(crate) fn renewed(mut self, deadline: Option<Instant>) -> Option<Self> {
        let state = Arc::get_mut(&mut self.0)?;
        // Whoever was told of a cancellation may have left traces in `notify`.
        if *state.cancelled.get_mut() {
            return None;
        }
        state.deadline = deadline;
        *state.last_event.get_mut() = 0;
        Some(self)
    }

    /// The context of the handler that is running.
    ///
    /// # Panics
    ///
    /// Outside a handler; see [`try_current`](Self::try_current).
    #[must_use]
    pub fn current() -> Self {
        Self::try_current().expect("CallContext::current() called outside a handler of witrpc")
    }

    /// The context of the handler that is running, if one is.
    #[must_use]
    pub fn try_current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Who called.
    #[must_use]
    pub fn peer(&self) -> Peer {
        self.0.peer.clone()
    }

    /// Who the caller is, as the server's `with_access_token_validator` said; `None` if there is no validator or it says
    /// another type.
    #[must_use]
    pub fn identity<I: Any + Send + Sync>(&self) -> Option<Arc<I>> {
        Arc::clone(self.0.identity.as_ref()?).downcast().ok()
    }

    /// When the caller will have given up.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline
    }

    /// Whether nobody waits for the answer any more: the call was cancelled, timed out, or its connection is gone.
    ///
    /// An async handler is dropped at its next await when that happens; code that blocks asks here.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        // Relaxed: a hint, and it carries no other data.
        self.0.cancelled.load(Ordering::Relaxed)
            || self.0.deadline.is_some_and(|d| d <= Instant::now())
    }

    /// Completes when the call is cancelled or its connection is gone; for tasks that a handler has spawned.
    pub async fn cancelled(&self) {
        let notified = self.0.notify.notified();
        if !self.0.cancelled.load(Ordering::Relaxed) {
            notified.await;
        }
    }

    /// Notes an event that was raised to connection `id`, if that is where the current handler's answer goes.
    pub(crate) fn note_event(id: u64, event: u64) {
        CURRENT.with_borrow(|current| {
            if let Some(context) = current
                && context.0.peer.connection_id == id
            {
                // Relaxed: read by whoever sends the answer, after the handler's last poll.
                context.0.last_event.fetch_max(event, Ordering::Relaxed);
            }
        });
    }

    pub(crate) fn last_event(&self) -> u64 {
        self.0.last_event.load(Ordering::Relaxed)
    }

    pub(crate) fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
        self.0.notify.notify_waiters();
    }

    /// Puts a context in the place of the current one, and that in its place: nothing is cloned.
    pub(crate) fn swap_current(context: &mut Option<Self>) {
        CURRENT.with_borrow_mut(|current| std::mem::swap(current, context));
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

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext")
            .field("peer", &self.0.peer)
            .field("deadline", &self.0.deadline)
            .field("cancelled", &self.is_cancelled())
            .finish_non_exhaustive()
    }
}
