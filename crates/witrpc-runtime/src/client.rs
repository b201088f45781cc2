//! The client: one endpoint to connect to, at most one connection at a time, any number of services.
//!
//! `core` keeps the connection that calls go to, and the subscriptions, which belong to the client and not to a connection. `reconnect` is
//! the one task that connects again; it holds the client weakly, so dropping the client ends it. Which calls are made once more is said in
//! `calls::retry`; `calls::call` keeps their arguments for that.

mod core;
pub(crate) mod reconnect;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::Instrument;

use crate::calls::call::{Call, Remote};
#[cfg(feature = "json")]
use crate::calls::callee::Callee as _;
#[cfg(feature = "json")]
use crate::calls::dynamic::{Arguments, DynamicFault, DynamicResult};
use crate::calls::outcome::outcome;
use crate::calls::ping::Ping;
pub(crate) use crate::client::core::{ClientCore, ClientSettings};
use crate::client::reconnect::ClientState;
use crate::connection::Load;
use crate::context::CallContext;
use crate::link::timers;
use crate::serving::introspection::ServerDescription;
use crate::serving::service::ServiceClient;
use witrpc_core::contract::introspection::DESCRIPTOR;
#[cfg(feature = "json")]
use witrpc_core::values::serializer::Codec;
use witrpc_core::{CloseReason, Error};

/// A client. Cheap to clone; the connection ends when the last clone and the last service handle are dropped.
///
/// Made by [`WitClientBuilder`](crate::WitClientBuilder).
#[derive(Clone, Debug)]
pub struct WitClient {
    core: Arc<ClientCore>,
}

impl WitClient {
    pub(crate) const fn new(core: Arc<ClientCore>) -> Self {
        Self { core }
    }

    /// What the clones share.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn core(&self) -> Arc<ClientCore> {
        Arc::clone(&self.core)
    }

    /// Connects. Waits up to `timeout` if the server is not there yet or has no free place, or dies meanwhile and is started
    /// again. Does nothing if connected.
    ///
    /// [`Duration::ZERO`] is one attempt: it waits neither for a server nor for a free place, but a server that is there has a second
    /// to answer, and another one for the handshake.
    ///
    /// The connection is driven by the runtime on which this is called, and ends with it. A second call of `connect` at the
    /// same time waits for the outcome of the first, within its own time limit. An automatic attempt to reconnect is given up in
    /// favour of this one.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::NotResponding`] or [`Error::Busy`] when the time is up; [`Error::Incompatible`] or
    /// [`Error::Unauthorized`] when the server refuses the client, with the reason; [`Error::TimedOut`] if a server was
    /// there and did not complete the handshake, or another call of `connect` took all the time; [`Error::Closed`] with
    /// [`CloseReason::Local`] if [`disconnect`](Self::disconnect) was called meanwhile; [`Error::NoRuntime`] outside of a
    /// tokio runtime.
    pub async fn connect(&self, timeout: Duration) -> Result<(), Error> {
        let span = tracing::info_span!("connect", endpoint = self.core.endpoint());
        self.core.connect(timeout).instrument(span).await
    }

    /// Ends the connection, if there is one, and connects anew. Subscriptions continue, with
    /// [`EventError::Reconnected`](crate::EventError::Reconnected) where values may be missing.
    ///
    /// A handler of this client's own service may call it: the handler ends with the connection that it answers over, and
    /// the new connection is made all the same.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect). With [`Error::NoRuntime`], the old connection goes on.
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

    /// Ends the connection: calls in flight fail, subscriptions end, and the server is told. An attempt to connect that is
    /// under way ends too. It is final: there is no connection from then on, until `connect` or `reconnect` is called.
    /// Does nothing without a connection.
    pub async fn disconnect(&self) {
        self.core.disconnect(false).await;
    }

    /// The state of the connection, now and at every change.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.core.watch_state()
    }

    /// Whether there is a connection that has not ended.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.core.is_connected()
    }

    /// A handle to one of the server's services.
    ///
    /// The handle belongs to this client, not to a connection: it can be made before `connect`, and stays valid after a
    /// reconnection. Making it does not ask the server; if the server lacks the service or a method, calls return the error.
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        let core = Arc::clone(&self.core);
        let timeout = core.settings.timeout;
        C::from_remote(Remote::new(core, C::descriptor(), timeout))
    }

    /// Measures the time to the server's connection and back, without calling a service.
    ///
    /// It obeys the client's [`with_timeout`](crate::WitClientBuilder::with_timeout), and the [`Ping`] has one of its own.
    ///
    /// # Errors
    ///
    /// [`Error::NotConnected`], [`Error::Closed`] or [`Error::TimedOut`].
    pub fn ping(&self) -> Ping {
        Ping::new(Arc::clone(&self.core) as _, self.core.settings.timeout)
    }

    /// Asks the server for its name and description, and for its services with their methods, events and documentation. It obeys
    /// the client's timeout, and the [`Call`] has one of its own.
    ///
    /// # Errors
    ///
    /// As any call.
    pub fn describe(&self) -> Call<Result<ServerDescription, Error>> {
        let core = Arc::clone(&self.core);
        let timeout = core.settings.timeout;
        let remote = Remote::new(core, &DESCRIPTOR, timeout);
        remote.call(0, &(), outcome())
    }

    /// Calls a method by its name, `"Service.method"`, with an array of JSON arguments; for tools that have no contract.
    ///
    /// Nothing is checked before the server decodes the arguments. Only for connections that use JSON.
    ///
    /// # Errors
    ///
    /// As any call; what the method itself returns as an error is an [`Error::Fault`] with its JSON text. A result with a blob or a
    /// stream is an [`Error::Deserialize`]: JSON has no place for them.
    /// [`Error::Config`] if the client's serializer is not JSON, or the name has no dot.
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
        let call = remote.call(0, &args, outcome::<Result<DynamicResult, DynamicFault>>());
        Ok(call.await?.0)
    }

    /// What the connection holds at the moment; all zero without one.
    #[must_use]
    pub fn load(&self) -> Load {
        self.core.connection().map(|connection| connection.load()).unwrap_or_default()
    }
}
