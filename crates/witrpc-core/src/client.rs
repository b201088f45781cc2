//! The client: one endpoint to connect to, at most one connection at a time, any number of services.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::task::AbortHandle;
use tracing::Instrument;

use crate::authorization::ClientAuthorization;
use crate::call::{Ping, Remote};
use crate::callee::Callee;
use crate::connection::{Connection, Load, lock};
use crate::driver;
#[cfg(feature = "json")]
use crate::dynamic::{Arguments, DynamicFault};
use crate::error::{CloseReason, Error};
use crate::exchange::{self, ChannelHalves, Opened, Rest, Setup};
use crate::feed::{self, Feed};
use crate::handshake::Catalog;
use crate::introspection::{self, ServerDescription};
use crate::reconnect::{self, ClientState, ReconnectOptions};
use crate::retry::RetryPolicy;
use crate::serializer::Codec;
use crate::served::{Served, Services};
use crate::service::ServiceClient;
use crate::transport::{ClientTransport, Waiter};

/// How long [`WitClient::disconnect`] waits for the connection's task to take everything down.
const TAKE_DOWN: Duration = Duration::from_secs(1);
/// Before knocking again when a server has died during the handshake: one that dies of it is not to be hammered.
const AGAIN: Duration = Duration::from_millis(10);

/// A client. Cheap to clone; the connection ends when the last clone and the last service handle are dropped.
///
/// Made by [`WitClientBuilder`](crate::WitClientBuilder).
#[derive(Clone, Debug)]
pub struct WitClient {
    core: Arc<ClientCore>,
}

/// What a client does without being told each time.
#[derive(Debug)]
pub(crate) struct Habits {
    /// Every call's deadline, unless its handle has another.
    pub(crate) timeout: Option<Duration>,
    pub(crate) reconnect: Option<ReconnectOptions>,
    pub(crate) retry: Option<RetryPolicy>,
}

/// What the clones of a client and its service handles share.
pub(crate) struct ClientCore {
    transport: Box<dyn ClientTransport>,
    setup: Setup<dyn ClientAuthorization>,
    pub(crate) habits: Habits,
    /// What the server may call.
    services: Arc<Services>,
    catalog: Catalog,
    state: watch::Sender<ClientState>,
    /// The task that connects again, if one does.
    reconnecting: std::sync::Mutex<Option<AbortHandle>>,
    /// Ourselves, for what outlives a borrow.
    this: Weak<Self>,
    current: RwLock<Option<Arc<Connection>>>,
    /// Subscriptions, wherever their values come from at the moment. Locked around every change of `current`, so that
    /// each subscription is on the connection that calls go to.
    feeds: std::sync::Mutex<Vec<Weak<Feed>>>,
    /// Held while connecting, so that two tasks that connect at once share the outcome.
    connecting: Mutex<()>,
}

impl fmt::Debug for ClientCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCore")
            .field("endpoint", &self.endpoint())
            .field("connection", &*self.current.read().unwrap_or_else(PoisonError::into_inner))
            .finish_non_exhaustive()
    }
}

impl ClientCore {
    pub(crate) fn new(
        transport: Box<dyn ClientTransport>,
        setup: Setup<dyn ClientAuthorization>,
        habits: Habits,
        services: Services,
    ) -> Arc<Self> {
        let catalog = Catalog::new(services.descriptors());
        Arc::new_cyclic(|this| Self {
            transport,
            setup,
            habits,
            services: Arc::new(services),
            catalog,
            state: watch::Sender::new(ClientState::Disconnected),
            reconnecting: std::sync::Mutex::default(),
            this: Weak::clone(this),
            current: RwLock::new(None),
            feeds: std::sync::Mutex::default(),
            connecting: Mutex::new(()),
        })
    }

    pub(crate) fn endpoint(&self) -> &str {
        self.transport.name()
    }

    pub(crate) const fn codec(&self) -> &Codec {
        &self.setup.codec
    }

    /// The connection, which may have ended.
    pub(crate) fn connection(&self) -> Result<Arc<Connection>, Error> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone().ok_or_else(|| Error::NotConnected { endpoint: self.endpoint().to_owned() })
    }

    /// What this client holds for its server.
    pub(crate) const fn max_buffered(&self) -> u64 {
        self.setup.limits.max_buffered
    }

    /// Takes a new subscription in.
    pub(crate) fn add_feed(&self, feed: &Arc<Feed>) {
        let mut feeds = lock(&self.feeds);
        feeds.push(Arc::downgrade(feed));
        if let Ok(connection) = self.connection() {
            connection.subscribe(feed);
        }
    }

    /// Forgets a subscription, and those that have ended.
    pub(crate) fn remove_feed(&self, feed: &Arc<Feed>) {
        let gone = Arc::downgrade(feed);
        lock(&self.feeds).retain(|other| !other.ptr_eq(&gone) && other.strong_count() > 0);
    }

    /// Makes a connection the current one, with all subscriptions on it.
    fn install(&self, connection: &Arc<Connection>) {
        let mut feeds = lock(&self.feeds);
        feeds.retain(|feed| feed.upgrade().is_some_and(|feed| !feed.is_ended()));
        // Locked meanwhile: who hears that its subscription goes on, and calls, is to find this connection and not the last.
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        for feed in feeds.iter().filter_map(Weak::upgrade) {
            connection.subscribe(&feed);
        }
        let last = current.replace(Arc::clone(connection));
        drop(current);
        drop(last);
    }

    fn replace(&self, connection: Option<Arc<Connection>>) -> Option<Arc<Connection>> {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, connection)
    }

    /// The state's changes from now on.
    pub(crate) fn watch_state(&self) -> watch::Receiver<ClientState> {
        self.state.subscribe()
    }

    pub(crate) fn set_state(&self, state: ClientState) {
        self.state.send_replace(state);
    }

    /// The connection was lost, not closed: connects again, if that is wanted.
    fn lost(&self, connection: &Arc<Connection>) {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            return;
        }
        drop(current);
        let Some(options) = self.habits.reconnect.clone() else {
            return self.set_state(ClientState::Disconnected);
        };
        let task = tokio::spawn(reconnect::run(Weak::clone(&self.this), options));
        let before = lock(&self.reconnecting).replace(task.abort_handle());
        if let Some(before) = before {
            before.abort();
        }
    }

    /// All attempts have failed: what waited for one to succeed ends.
    pub(crate) fn give_up(&self) {
        self.set_state(ClientState::GaveUp);
        let reason = CloseReason::Failed("gave up connecting again".to_owned());
        self.end_feeds(&reason);
    }

    fn end_feeds(&self, reason: &CloseReason) {
        let feeds: Vec<_> = lock(&self.feeds).iter().filter_map(Weak::upgrade).collect();
        feed::end_all(feeds, reason);
    }

    pub(crate) async fn connect(&self, timeout: Duration) -> Result<(), Error> {
        let began = Instant::now();
        let deadline = tokio::time::Instant::now() + timeout;
        let _connecting = self.connecting.lock().await;
        if self.connection().is_ok_and(|connection| connection.closed().is_none()) {
            return Ok(());
        }
        let (opened, rest, waiter) = loop {
            match self.open(deadline, timeout).await {
                // It was killed, or dropped, half-way. The next one may be starting already.
                Err(Error::Closed { reason: CloseReason::PeerGone, .. })
                    if tokio::time::Instant::now() + AGAIN < deadline =>
                {
                    tracing::debug!(endpoint = self.endpoint(), "the server went away meanwhile");
                    tokio::time::sleep(AGAIN).await;
                }
                opened => break opened?,
            }
        };
        let limits = self.setup.limits;
        let served = Served::new(Arc::clone(&self.services), limits.max_in_flight);
        let codec = self.setup.codec.clone();
        let keep_feeds = self.habits.reconnect.is_some();
        let connection = Connection::new(opened, rest, limits, codec, served, keep_feeds);
        self.install(&connection);
        self.set_state(ClientState::Connected);
        tokio::spawn(drive(Weak::clone(&self.this), Arc::clone(&connection), waiter));
        tracing::info!(endpoint = self.endpoint(), after = ?began.elapsed(), "connected");
        Ok(())
    }

    /// One attempt: a channel, and the handshake over it.
    async fn open(
        &self,
        deadline: tokio::time::Instant,
        timeout: Duration,
    ) -> Result<(Opened, Rest, Box<dyn Waiter>), Error> {
        let channel = self.transport.connect(deadline).await?;
        let mut waiter = None;
        let (halves, mut rest) = ChannelHalves::split(channel, &mut waiter);
        let opened = tokio::time::timeout_at(
            deadline,
            exchange::connect(halves, &self.setup, &self.catalog),
        )
        .await
        .map_err(|_| Error::TimedOut { after: timeout })??;
        std::mem::replace(&mut rest.on_first_frame, Box::new(|| ()))();
        let Some(waiter) = waiter else { unreachable!("split() put it there") };
        Ok((opened, rest, waiter))
    }

    /// Ends the connection. Its subscriptions end too, unless they are to `survive` for the next one.
    async fn disconnect(&self, survive: bool) {
        if let Some(task) = lock(&self.reconnecting).take() {
            task.abort();
        }
        let feeds = lock(&self.feeds);
        let connection = self.replace(None);
        if survive && let Some(connection) = &connection {
            connection.release_feeds();
        }
        drop(feeds);
        let Some(connection) = connection else { return };
        self.set_state(ClientState::Disconnected);
        if !survive {
            self.end_feeds(&CloseReason::Local);
        }
        connection.disconnect("the client disconnected");
        if tokio::time::timeout(TAKE_DOWN, connection.ended()).await.is_err() {
            tracing::warn!("the runtime that drives the connection does not run");
        }
    }
}

async fn drive(client: Weak<ClientCore>, connection: Arc<Connection>, waiter: Box<dyn Waiter>) {
    let span = tracing::info_span!("connection", id = connection.peer.connection_id);
    driver::drive(Arc::clone(&connection), waiter).instrument(span).await;
    match connection.closed() {
        Some(CloseReason::Local) | None => tracing::info!("disconnected"),
        Some(reason) => {
            tracing::warn!(%reason, "disconnected");
            if let Some(client) = client.upgrade() {
                client.lost(&connection);
            }
        }
    }
}

impl Drop for ClientCore {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.reconnecting).take() {
            task.abort();
        }
        if let Some(connection) = self.replace(None) {
            connection.disconnect("the client was dropped");
        }
    }
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

    /// Connects, waiting up to `timeout` for a server that is not there yet or has no room, or for the next one if it
    /// dies meanwhile. Does nothing if connected.
    ///
    /// The connection is driven by the runtime that this is called on.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`] or [`Error::Busy`] when the time is up; [`Error::Incompatible`] or
    /// [`Error::Unauthorized`] when the server turns the client away, telling why; [`Error::TimedOut`] if a server was
    /// there and did not complete the handshake.
    pub async fn connect(&self, timeout: Duration) -> Result<(), Error> {
        let span = tracing::info_span!("connect", endpoint = self.core.endpoint());
        self.core.connect(timeout).instrument(span).await
    }

    /// Ends the connection, if there is one, and connects anew. Subscriptions go on, with a mark where values may be
    /// missing.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn reconnect(&self, timeout: Duration) -> Result<(), Error> {
        self.core.disconnect(true).await;
        self.connect(timeout).await
    }

    /// Ends the connection: calls in flight fail, subscriptions end, and the server is told. Does nothing without a connection.
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
        self.core.connection().is_ok_and(|connection| connection.closed().is_none())
    }

    /// A handle to one of the server's services.
    ///
    /// It belongs to this client, not to a connection: it can be had before `connect` and stays valid after a
    /// reconnect. Nothing is asked of the server; calling what it lacks is the call's error.
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        let core = Arc::clone(&self.core);
        let timeout = core.habits.timeout;
        C::from_remote(Remote::new(Callee::Server(core), C::descriptor(), timeout))
    }

    /// Measures the time to the server's connection and back, without calling a service.
    ///
    /// # Errors
    ///
    /// [`Error::NotConnected`] or [`Error::Closed`].
    pub async fn ping(&self) -> Result<Duration, Error> {
        let connection = self.core.connection()?;
        let began = Instant::now();
        Ping::new(connection).await?;
        Ok(began.elapsed())
    }

    /// Asks the server for its name and description, and for its services with their methods, events and documentation.
    ///
    /// # Errors
    ///
    /// As any call.
    pub async fn describe(&self) -> Result<ServerDescription, Error> {
        let core = Arc::clone(&self.core);
        let timeout = core.habits.timeout;
        let remote = Remote::new(Callee::Server(core), &introspection::DESCRIPTOR, timeout);
        remote.call::<(), Result<ServerDescription, Error>>(0, &()).await
    }

    /// Calls a method by its name, `"Service.method"`, with an array of JSON arguments; for tools that have no contract.
    ///
    /// Nothing is checked before the server decodes the arguments. Only for connections that use JSON.
    ///
    /// # Errors
    ///
    /// As any call; what the method itself returns as an error is an [`Error::Fault`] with its JSON text.
    /// [`Error::Config`] if the client's serializer is not JSON, or the name has no dot.
    #[cfg(feature = "json")]
    pub async fn call_dynamic(
        &self,
        name: &str,
        args: serde_json::Value,
    ) -> Result<serde_json::Value, Error> {
        if !matches!(self.core.codec(), Codec::Json) {
            let advice = "calls by name need JSON: build the client and the server with_json()";
            return Err(Error::config("serializer", self.core.codec().name(), advice));
        }
        let Some((service, method)) = name.rsplit_once('.') else {
            return Err(Error::config(
                "call_dynamic name",
                format!("{name:?}"),
                "give \"Service.method\"",
            ));
        };
        let core = Arc::clone(&self.core);
        let timeout = core.habits.timeout;
        let args = Arguments::new(name, args)?;
        let remote = Remote::named(Callee::Server(core), service, method, timeout);
        let call = remote.call::<_, Result<serde_json::Value, DynamicFault>>(0, &args);
        Ok(call.await?)
    }

    /// What the connection holds at the moment; all zero without one.
    #[must_use]
    pub fn load(&self) -> Load {
        self.core.connection().map(|connection| connection.load()).unwrap_or_default()
    }
}
