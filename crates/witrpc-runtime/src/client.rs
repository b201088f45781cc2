//! The client: one endpoint to connect to, at most one connection at a time, any number of services.
//!
//! `core` keeps the connection that calls go to, and the subscriptions, which belong to the client and not to a connection. `reconnect` is
//! the one task that connects again; it holds the client weakly, so dropping the client ends it. Which calls are made once more is said in
//! `calls::retry`; `calls::call` keeps their arguments for that. `pool` puts several clients behind one handle.

mod core;
pub(crate) mod pool;
pub(crate) mod reconnect;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::Instrument;

use crate::calls::arguments::arguments0;
use crate::calls::call::{Call, Remote};
#[cfg(feature = "json")]
use crate::calls::callee::Callee as _;
#[cfg(feature = "json")]
use crate::calls::dynamic::{Arguments, DynamicFault, DynamicResult};
use crate::calls::outcome::outcome;
use crate::calls::ping::Ping;
pub(crate) use crate::client::core::{ClientCore, ClientSettings};
use crate::client::reconnect::ClientState;
use crate::connection::load::Load;
use crate::context::{CallContext, Peer};
use crate::link::host::Host as _;
use crate::link::loan::Loan;
use crate::link::timers;
use crate::serving::introspection::ServerDescription;
use crate::serving::service::ServiceClient;
use witrpc_core::contract::introspection::DESCRIPTOR;
#[cfg(feature = "json")]
use witrpc_core::values::serializer::Codec;
use witrpc_core::{CloseReason, Error};

/// A client, which connects to one endpoint. [`WitClientBuilder`](crate::WitClientBuilder) makes it.
///
/// A client has at most one connection at a time. It is cheap to clone, and clones share the connection. The connection ends when all
/// clones, service handles and received streams have been dropped.
#[derive(Clone, Debug)]
pub struct WitClient {
    core: Arc<ClientCore>,
}

impl WitClient {
    pub(crate) const fn new(core: Arc<ClientCore>) -> Self {
        Self { core }
    }

    /// What the clones share.
    pub(crate) fn core(&self) -> Arc<ClientCore> {
        Arc::clone(&self.core)
    }

    /// Connects. Does nothing if the client is connected.
    ///
    /// If no server is running, or the server has no free place, it waits up to `timeout`. This also applies if the server ends during
    /// the attempt and is started again. [`Duration::ZERO`] is one attempt: it waits neither for a server nor for a free place, but
    /// gives a running server one second to answer, and another second for the handshake.
    ///
    /// The connection runs on the tokio runtime on which `connect` is called, and ends when that runtime does. If `connect` is called
    /// twice at the same time, the second call waits for the result of the first, within its own time limit. An automatic attempt to
    /// reconnect ends when `connect` is called.
    ///
    /// # Errors
    ///
    /// * [`Error::NotRunning`], [`Error::NotResponding`] or [`Error::Busy`] if the time is over.
    /// * [`Error::Incompatible`] or [`Error::Unauthorized`], with the reason, if one side refuses the other.
    /// * [`Error::TimedOut`] if a server answered but did not complete the handshake in time, or if another call of `connect` took all
    ///   of the time.
    /// * [`Error::Closed`] with [`CloseReason::Local`] if [`disconnect`](Self::disconnect) was called during the attempt.
    /// * [`Error::NoRuntime`] outside of a tokio runtime with timers and I/O.
    pub async fn connect(&self, timeout: Duration) -> Result<(), Error> {
        let span = tracing::info_span!("connect", endpoint = self.core.endpoint());
        self.core.connect(timeout).instrument(span).await
    }

    /// Ends the connection, if there is one, and connects again. Subscriptions continue. They yield
    /// [`EventError::Reconnected`](crate::EventError::Reconnected) where values may be missing.
    ///
    /// A handler of this client's own service may call it. The handler is dropped with the connection of its call, and the new
    /// connection is made nevertheless.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect). If the error is [`Error::NoRuntime`], the old connection continues.
    pub async fn reconnect(&self, timeout: Duration) -> Result<(), Error> {
        timers::check("reconnect()")?;
        let span = tracing::info_span!("reconnect", endpoint = self.core.endpoint());
        let anew = Arc::clone(&self.core).reconnect(timeout).instrument(span);
        if !self.is_called_by_its_own_connection() {
            return anew.await;
        }
        // This future is dropped with the connection.
        let gone = Error::Closed { reason: CloseReason::RuntimeGone, maybe_executed: false };
        tokio::spawn(anew).await.unwrap_or(Err(gone))
    }

    /// Whether the current handler is one of this client's services, called over its current connection.
    fn is_called_by_its_own_connection(&self) -> bool {
        let Some(call) = CallContext::try_current() else { return false };
        self.core.connection().is_ok_and(|connection| *connection.peer() == call.peer())
    }

    /// Ends the connection and notifies the server. Calls in flight fail, and subscriptions end. Attempts to connect that are in progress
    /// end, too. The client stays disconnected until `connect` or `reconnect` is called. Without a connection or an attempt, it does
    /// nothing.
    pub async fn disconnect(&self) {
        self.core.disconnect(false).await;
    }

    /// Returns the calls that wait for an answer: an id that is unique within the connection, and the name of the method. For `witrpc-process`.
    #[doc(hidden)]
    #[must_use]
    pub fn calls_under_way(&self) -> Vec<(u64, String)> {
        self.core.connection().map(|connection| connection.calls_under_way()).unwrap_or_default()
    }

    /// Ends all subscriptions, for one who will not connect again. For `witrpc-process`.
    #[doc(hidden)]
    pub fn end_subscriptions(&self, reason: &CloseReason) {
        self.core.end_subscriptions(reason);
    }

    /// Returns the server, with what the system [proves](Peer::credentials) about it. `None` while the client is not connected.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        self.core.connection().ok().map(|connection| connection.peer().clone())
    }

    /// Returns a receiver of the connection's state: `borrow()` gives the current state, `changed()` waits for the next one.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.core.watch_state()
    }

    /// Returns whether the client is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.core.is_connected()
    }

    /// Returns a handle to one of the server's services.
    ///
    /// The handle belongs to this client, not to a connection: it can be made before `connect`, and stays valid after a
    /// reconnection. Making a handle does not contact the server. If the server does not have the service or a method, the calls fail.
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        let core = Arc::clone(&self.core);
        let timeout = core.settings.timeout;
        C::from_remote(Remote::new(core, C::descriptor(), timeout))
    }

    /// Measures the round-trip time to the server, without calling a service.
    ///
    /// The client's [`with_timeout`](crate::WitClientBuilder::with_timeout) applies, unless [`Ping::with_timeout`] sets another one.
    ///
    /// # Errors
    ///
    /// The future fails with [`Error::NotConnected`], [`Error::Closed`] or [`Error::TimedOut`].
    pub fn ping(&self) -> Ping {
        Ping::new(Arc::clone(&self.core) as _, self.core.settings.timeout)
    }

    /// Returns memory for a payload of `len` bytes, which is written in place and sent without being copied. It waits until so much is free.
    ///
    /// The memory belongs to the current connection: see [`Loan`]. Its transport says how much can be lent (`with_lending`), and whether the
    /// server reads it in place or copies it once. Over an encrypted connection, or to a server of an older version, what is lent is copied like any
    /// other blob.
    ///
    /// Waiting ends when memory comes back: when loans and blobs are dropped, here and at the server. If that takes long, a line in the log says how
    /// much is out; [`load`](Self::load) says it, too.
    ///
    /// # Errors
    ///
    /// * [`Error::Unsupported`] if this connection cannot lend, with what to do.
    /// * [`Error::Limit`] if `len` is more than can be lent at all.
    /// * [`Error::NotConnected`], [`Error::Closed`].
    pub async fn lend(&self, len: usize) -> Result<Loan, Error> {
        let connection = self.core.connection()?;
        connection.link().lend(len).await
    }

    /// Returns memory for a payload of `len` bytes, as [`lend`](Self::lend) does, if it is free now.
    ///
    /// # Errors
    ///
    /// Those of [`lend`](Self::lend); [`Error::Limit`] also if it is not free, or others wait: it says how much is out.
    pub fn try_lend(&self, len: usize) -> Result<Loan, Error> {
        self.core.connection()?.link().try_lend(len)
    }

    /// Returns the server's name and description, and its services with their methods, events and documentation.
    ///
    /// The client's timeout applies, unless [`Call::with_timeout`] sets another one.
    ///
    /// # Errors
    ///
    /// The errors of any call: [`Error::NotConnected`], [`Error::Closed`], [`Error::TimedOut`].
    pub fn describe(&self) -> Call<Result<ServerDescription, Error>> {
        let core = Arc::clone(&self.core);
        let timeout = core.settings.timeout;
        let remote = Remote::new(core, &DESCRIPTOR, timeout);
        remote.call(0, &(), arguments0(), outcome())
    }

    /// Calls a method by its name, `"Service.method"`. For tools that do not have the contract.
    ///
    /// `args` is a JSON array with one element per argument. The client does not check the arguments; the server reports an error if it
    /// cannot deserialize them. Client and server must use JSON.
    ///
    /// # Errors
    ///
    /// * [`Error::Config`] if the client's serializer is not JSON, or the name has no dot.
    /// * [`Error::Serialize`] if `args` is not an array.
    /// * [`Error::Fault`] if the method returned an error; the message is the error's JSON text.
    /// * [`Error::Deserialize`] if the result contains a blob or a stream, which JSON cannot express.
    /// * The errors of any call.
    #[cfg(feature = "json")]
    pub async fn call_dynamic(
        &self,
        name: &str,
        args: serde_json::Value,
    ) -> Result<serde_json::Value, Error> {
        if !matches!(self.core.codec(), Codec::Json) {
            let advice = "call_dynamic needs JSON: set with_json() on client and server";
            return Err(Error::config("with_serializer", self.core.codec().name(), advice));
        }
        let Some((service, method)) = name.rsplit_once('.') else {
            return Err(Error::config(
                "call_dynamic name",
                format!("{name:?}"),
                "give \"Service.method\"",
            ));
        };
        let core = Arc::clone(&self.core);
        let timeout = core.settings.timeout;
        let args = Arguments::new(name, args)?;
        let remote = Remote::named(core, service, method, timeout);
        let outcome = outcome::<Result<DynamicResult, DynamicFault>>();
        let call = remote.call_encoded(0, outcome, &|codec, out| codec.serialize(&args, out));
        Ok(call.await?.0)
    }

    /// Returns what the connection holds at the moment. All numbers are 0 without a connection.
    #[must_use]
    pub fn load(&self) -> Load {
        self.core.connection().map(|connection| connection.load()).unwrap_or_default()
    }

    /// Returns the bound on what the server can make a connection hold, in bytes: on all parts of [`Memory`](crate::Memory) but `tables`
    /// together. It follows from `with_max_buffered`. What the program made before a part was full may exceed it.
    #[must_use]
    pub fn memory_bound(&self) -> u64 {
        self.core.memory_bound()
    }
}
