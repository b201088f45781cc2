//! The server: one endpoint, its services, and a connection for every client.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tracing::Instrument;
use witrpc_core::Error;
use witrpc_core::security::authorization::{Recheck, ServerAuthorization};
use witrpc_core::text::Escaped;
use witrpc_core::transport::{Channel, Listener, ServerTransport, Waiter};
use witrpc_core::wire::catalog::Catalog;

use crate::connection::Connection;
use crate::connection::load::Load;
use crate::context::Peer;
use crate::link::dedicated;
use crate::link::driver;
use crate::link::ending::Ends;
use crate::link::handshake::{self, ChannelHalves, Rest, Setup};
use crate::link::host::Host;
use crate::link::timers;
use crate::link::trace::{Side, traced};
use crate::locks::{Mutex, Rank};
use crate::serving::services::Services;
use crate::serving::table::CallsTaken;

/// The pause after a failed accept, as the cause (no descriptors, for example) may persist.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a server that is shutting down checks whether calls are still running.
const DRAIN_PAUSE: Duration = Duration::from_millis(2);

/// A server, which serves services on one endpoint. [`WitServerBuilder`](crate::WitServerBuilder) makes it.
///
/// Dropping it ends its connections at once and frees the endpoint's name.
pub struct WitServer {
    shared: Arc<Shared>,
    transport: Box<dyn ServerTransport>,
    accepting: tokio::sync::Mutex<Option<Accepting>>,
}

/// What the server and its tasks share.
pub(crate) struct Shared {
    endpoint: String,
    services: Arc<Services>,
    catalog: Catalog,
    setup: Setup<dyn ServerAuthorization>,
    times: Times,
    /// Each connection is driven by a thread of its own.
    dedicated_threads: bool,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    /// The client that has connected last, which may have gone.
    connected: watch::Sender<Option<Peer>>,
    /// Sent when the server is shut down, and when it is dropped. Ends every client that was accepted before, whether or not its
    /// connection was in the table by then.
    ended: watch::Sender<()>,
}

/// How long a handshake may take, and when tokens are checked again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) handshake: Duration,
    pub(crate) revalidation: Option<Duration>,
}

/// The task that accepts clients; dropping the sender stops it.
struct Accepting {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl fmt::Debug for WitServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WitServer")
            .field("endpoint", &self.shared.endpoint)
            .field("services", &self.shared.services)
            .field("clients", &self.client_count())
            .finish_non_exhaustive()
    }
}

impl WitServer {
    pub(crate) fn new(
        transport: Box<dyn ServerTransport>,
        services: Services,
        setup: Setup<dyn ServerAuthorization>,
        times: Times,
        dedicated_threads: bool,
    ) -> Self {
        let shared = Shared {
            endpoint: transport.name().to_owned(),
            catalog: services.catalog(),
            services: Arc::new(services),
            setup,
            times,
            dedicated_threads,
            connections: Mutex::new(Rank::Connections, HashMap::new()),
            connected: watch::Sender::new(None),
            ended: watch::Sender::new(()),
        };
        Self { shared: Arc::new(shared), transport, accepting: tokio::sync::Mutex::new(None) }
    }

    /// Takes the endpoint's name, and starts to accept clients in the background. Does nothing if the server already accepts clients.
    ///
    /// # Errors
    ///
    /// * [`Error::NameInUse`] if another running server has the name.
    /// * [`Error::Config`] if the endpoint's directory is not private, or its file system has no room for a region.
    /// * [`Error::Io`] if the endpoint's files cannot be created.
    /// * [`Error::NoRuntime`] outside of a tokio runtime with timers and I/O.
    pub async fn start_waiting_for_connection(&self) -> Result<(), Error> {
        timers::check("start_waiting_for_connection()")?;
        let mut accepting = self.accepting.lock().await;
        if accepting.as_ref().is_some_and(|accepting| !accepting.task.is_finished()) {
            return Ok(());
        }
        let terms = self.shared.setup.server_terms();
        let listener = self.transport.listen_with(&terms).await?;
        tracing::info!(endpoint = self.shared.endpoint, services = ?self.shared.services, "waiting for clients");
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept_loop(Arc::clone(&self.shared), listener, stopped));
        *accepting = Some(Accepting { stop, task });
        Ok(())
    }

    /// Stops accepting clients and frees the endpoint's name. Connected clients are still served. The server can be started again.
    pub async fn stop_waiting_for_connection(&self) {
        let mut accepting = self.accepting.lock().await;
        let Some(Accepting { stop, task }) = accepting.take() else { return };
        drop(stop);
        if let Err(error) = task.await {
            tracing::error!(error = %Escaped(&error), "the task that accepts clients failed");
        }
        tracing::info!(endpoint = self.shared.endpoint, "no longer waiting for clients");
    }

    /// Stops accepting clients, waits up to `grace` for calls under way to finish and for raised events to be sent, and then closes all
    /// connections with the reason "the server is shutting down".
    ///
    /// Calls that arrive while it waits are still served. A subscriber to which not all events could be sent gets
    /// [`EventError::Lagged`](crate::EventError::Lagged) before its subscription ends.
    ///
    /// Outside of a tokio runtime with timers, it waits neither for calls nor for the end of the connections.
    pub async fn shutdown(&self, grace: Duration) {
        self.stop_waiting_for_connection().await;
        let timers = timers::check("shutdown()").is_ok();
        let deadline = timers::deadline(grace);
        while timers && !self.is_drained() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
        // In this order: a connection that is not in the table yet sees this once it is.
        self.shared.ended.send_replace(());
        let connections = self.connections();
        for connection in &connections {
            connection.end_in_order("the server is shutting down");
        }
        // A driver says goodbye, with a timeout, and releases the connection. It may not run.
        let deadline = timers::deadline(2 * driver::GOODBYE_TIMEOUT);
        let in_table =
            |c: &Arc<Connection>| self.shared.connections.lock().contains_key(&c.link().id);
        while timers && connections.iter().any(in_table) {
            if tokio::time::Instant::now() >= deadline {
                tracing::warn!(
                    "the runtime of the connections does not run its tasks; the connections were not closed in order"
                );
                return;
            }
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    /// Whether no client has a running call. Sends waiting events, up to the bounds of their subscribers.
    fn is_drained(&self) -> bool {
        self.connections().iter().all(|connection| {
            let flushed = connection.flush_events();
            let load = connection.load();
            flushed && load.handlers == 0 && load.queued_bytes == 0
        })
    }

    pub(crate) fn connections(&self) -> Vec<Arc<Connection>> {
        self.shared.connections.lock().values().cloned().collect()
    }

    /// Returns the number of connected clients.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.shared.connections.lock().len()
    }

    /// Disconnects each client whose identity `is_it` chooses, and cancels its calls under way. Returns how many there were.
    ///
    /// `I` is the type that the closure of `with_access_token_validator` returns. Clients with an identity of another type, or without
    /// one, stay. A client that is disconnected may connect again, if the validator still accepts its token: withdraw the token there
    /// first.
    ///
    /// ```
    /// # use witrpc::WitServer;
    /// fn withdraw(server: &WitServer, user: &str) -> usize {
    ///     server.disconnect_identity(|name: &String| name == user)
    /// }
    /// ```
    pub fn disconnect_identity<I: Any + Send + Sync>(&self, is_it: impl Fn(&I) -> bool) -> usize {
        let is_it = |connection: &Arc<Connection>| {
            connection.peer().identity::<I>().is_some_and(|identity| is_it(&identity))
        };
        let chosen: Vec<_> = self.connections().into_iter().filter(is_it).collect();
        for connection in &chosen {
            connection.disconnect("the server has withdrawn its access");
        }
        chosen.len()
    }

    /// Waits until a client has connected, and returns it, be it gone by now. For `witrpc-process`, whose servers have one client.
    #[doc(hidden)]
    pub async fn connected(&self) -> Peer {
        let mut connected = self.shared.connected.subscribe();
        let peer = connected.wait_for(Option::is_some).await.ok().and_then(|peer| peer.clone());
        peer.unwrap_or_else(|| unreachable!("the sender lives as long as the server"))
    }

    /// Returns what each connection holds at the moment: one entry per connection, in no particular order.
    #[must_use]
    pub fn load(&self) -> Vec<Load> {
        self.connections().iter().map(|connection| connection.load()).collect()
    }

    /// Returns the bound on what a client can make each connection hold, in bytes: on all parts of [`Memory`](crate::Memory) but `tables`
    /// together. It follows from `with_max_buffered`. What the program made before a part was full may exceed it.
    #[must_use]
    pub fn memory_bound(&self) -> u64 {
        self.shared.setup.limits.bound()
    }
}

impl Drop for WitServer {
    fn drop(&mut self) {
        self.shared.ended.send_replace(());
        if let Some(accepting) = self.accepting.get_mut().take() {
            // The listener cleans up as its task is dropped.
            accepting.task.abort();
        }
        let connections = std::mem::take(&mut *self.shared.connections.lock());
        for connection in connections.into_values() {
            connection.end_in_order("the server was dropped");
        }
    }
}

async fn accept_loop(
    shared: Arc<Shared>,
    mut listener: Box<dyn Listener>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        // Before the wait: a signal that is sent while a client is being accepted is for that client as well.
        let ended = shared.ended.subscribe();
        let accepted = tokio::select! {
            biased;
            // The value never changes: what ends the wait is that its sender is dropped.
            _ = stopped.changed() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(channel) => {
                let peer = channel.peer_process_id;
                let span =
                    tracing::info_span!("client", endpoint = shared.endpoint, process = peer);
                tokio::spawn(serve(Arc::clone(&shared), channel, ended).instrument(span));
            }
            Err(error) => {
                tracing::warn!(
                    endpoint = shared.endpoint,
                    error = %Escaped(&error),
                    "could not accept a client"
                );
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client, from its hello to its end.
async fn serve(shared: Arc<Shared>, channel: Channel, mut ended: watch::Receiver<()>) {
    let (endpoint, encryptor) = (shared.endpoint.as_str(), &*shared.setup.encryptor);
    let channel = traced(channel, Side::Server, endpoint, encryptor, &shared.catalog);
    let mut waiter = None;
    let (halves, mut rest) = ChannelHalves::split(channel, &mut waiter);
    let on_hello = std::mem::replace(&mut rest.on_first_frame, Box::new(|| ()));
    let patience = shared.times.handshake;
    let handshake = handshake::accept(halves, &shared.setup, &shared.catalog, patience, on_hello);
    let opened = tokio::select! {
        biased;
        // Without a goodbye: the client takes this for a dead server, and looks for the next one.
        _ = ended.changed() => return,
        opened = handshake => opened,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return tracing::warn!(error = %Escaped(&error), "refused a client"),
    };
    let Some(waiter) = waiter else { unreachable!("split() put it there") };
    run(&shared, opened, rest, waiter, &ended).await;
}

async fn run(
    shared: &Arc<Shared>,
    mut opened: handshake::Opened,
    rest: Rest,
    waiter: Box<dyn Waiter>,
    server_ended: &watch::Receiver<()>,
) {
    let limits = shared.setup.limits;
    let calls_taken = CallsTaken::new(Arc::clone(&shared.services), limits.max_in_flight);
    let codec = shared.setup.codec.clone();
    let recheck = opened.recheck.take();
    let connection = Connection::new(opened, rest, limits, codec, calls_taken, false);
    let id = connection.link().id;
    shared.connections.lock().insert(id, Arc::clone(&connection));
    shared.connected.send_replace(Some(connection.peer().clone()));
    // A shutdown may have read the table before the connection was in it.
    if server_ended.has_changed().unwrap_or(true) {
        connection.disconnect("the server is shutting down");
    }
    tracing::info!(connection = id, "a client connected");
    let _rechecking = recheck.zip(shared.times.revalidation).map(|(recheck, interval)| {
        let connection = Arc::downgrade(&connection);
        let task = revalidate(connection, recheck, interval, shared.times.handshake);
        Abort(tokio::spawn(task.in_current_span()).abort_handle())
    });
    let ended = Ended { shared, id };
    let driven = Arc::clone(&connection);
    if shared.dedicated_threads {
        dedicated::drive(driven, waiter).await;
    } else {
        driver::drive(driven, waiter).await;
    }
    drop(ended);
    if let Some(reason) = connection.link().closed() {
        tracing::info!(connection = id, reason = %Escaped(&reason), "a client disconnected");
    }
}

/// Asks the validator about a client's token again and again, and disconnects the client once it is refused.
async fn revalidate(
    connection: Weak<Connection>,
    recheck: Recheck,
    interval: Duration,
    patience: Duration,
) {
    loop {
        tokio::time::sleep(interval).await;
        let reason = match tokio::time::timeout(patience, recheck()).await {
            Ok(Ok(())) => continue,
            Ok(Err(reason)) => reason,
            Err(_) => "its validation took too long".to_owned(),
        };
        let Some(connection) = connection.upgrade() else { return };
        tracing::info!(
            connection = connection.link().id,
            reason = %Escaped(&reason),
            "disconnecting a client whose access token is no longer accepted"
        );
        connection.disconnect(&format!("the access token is no longer accepted: {reason}"));
        return;
    }
}

/// Ends a task when it is dropped.
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Takes a connection out of the table, also when its task is dropped with the runtime.
struct Ended<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        drop(self.shared.connections.lock().remove(&self.id));
    }
}
