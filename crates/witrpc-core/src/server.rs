//! The server: one endpoint, its services, and a connection for every client.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::Instrument;

use crate::authorization::ServerAuthorization;
use crate::connection::{Connection, Load, lock};
use crate::dedicated;
use crate::driver;
use crate::error::Error;
use crate::exchange::{self, ChannelHalves, Rest, Setup};
use crate::handshake::Catalog;
use crate::served::{Served, Services};
use crate::transport::{Channel, Listener, ServerTransport, Waiter};

/// How long to wait after a failed accept: what fails once (out of descriptors, say) may fail at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a server that is shutting down looks whether calls are still under way.
const DRAIN_PAUSE: Duration = Duration::from_millis(2);

/// A server. Dropping it ends its connections and frees its name.
///
/// Made by [`WitServerBuilder`](crate::WitServerBuilder).
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
    handshake_timeout: Duration,
    /// Each connection is driven by a thread of its own.
    dedicated_threads: bool,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Becomes true when the server is dropped.
    gone: watch::Sender<bool>,
}

/// The task that lets clients in; dropping the sender stops it.
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
        handshake_timeout: Duration,
        dedicated_threads: bool,
    ) -> Self {
        let shared = Shared {
            endpoint: transport.name().to_owned(),
            catalog: services.catalog(),
            services: Arc::new(services),
            setup,
            handshake_timeout,
            dedicated_threads,
            connections: Mutex::new(HashMap::new()),
            gone: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared), transport, accepting: tokio::sync::Mutex::new(None) }
    }

    /// Takes the name and lets clients in, from now on and in the background. Does nothing if it does already.
    ///
    /// # Errors
    ///
    /// [`Error::NameInUse`] if a live server holds the name; [`Error::Io`] if the endpoint cannot be made, saying where
    /// and what to do.
    pub async fn start_waiting_for_connection(&self) -> Result<(), Error> {
        let mut accepting = self.accepting.lock().await;
        if accepting.is_some() {
            return Ok(());
        }
        let listener = self.transport.listen().await?;
        tracing::info!(endpoint = self.shared.endpoint, services = ?self.shared.services, "waiting for clients");
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept_loop(Arc::clone(&self.shared), listener, stopped));
        *accepting = Some(Accepting { stop, task });
        Ok(())
    }

    /// Lets no more clients in and frees the name; clients that are connected go on. It can be started again.
    pub async fn stop_waiting_for_connection(&self) {
        let mut accepting = self.accepting.lock().await;
        let Some(Accepting { stop, task }) = accepting.take() else { return };
        drop(stop);
        if let Err(error) = task.await {
            tracing::error!(%error, "the task that lets clients in failed");
        }
        tracing::info!(endpoint = self.shared.endpoint, "no longer waiting for clients");
    }

    /// Ends in good order: lets no more clients in, gives calls that are under way up to `grace` to finish, and tells
    /// every client that the server is shutting down. Calls that arrive meanwhile are still served.
    pub async fn shutdown(&self, grace: Duration) {
        self.stop_waiting_for_connection().await;
        let deadline = tokio::time::Instant::now() + grace;
        while self.load().iter().any(|load| load.handlers > 0 || load.queued_bytes > 0)
            && tokio::time::Instant::now() < deadline
        {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
        let connections: Vec<_> = lock(&self.shared.connections).values().cloned().collect();
        for connection in &connections {
            connection.disconnect("the server is shutting down");
        }
        for connection in &connections {
            connection.ended().await;
        }
        // Each leaves the table a moment after it has ended.
        while connections
            .iter()
            .any(|c| lock(&self.shared.connections).contains_key(&c.peer.connection_id))
        {
            tokio::time::sleep(DRAIN_PAUSE).await;
        }
    }

    /// The clients that are connected.
    #[must_use]
    pub fn client_count(&self) -> usize {
        lock(&self.shared.connections).len()
    }

    /// What the connections hold at the moment, one entry each.
    #[must_use]
    pub fn load(&self) -> Vec<Load> {
        let connections: Vec<_> = lock(&self.shared.connections).values().cloned().collect();
        connections.iter().map(|connection| connection.load()).collect()
    }
}

impl Drop for WitServer {
    fn drop(&mut self) {
        self.shared.gone.send_replace(true);
        if let Some(accepting) = self.accepting.get_mut().take() {
            // The listener cleans up as its task is dropped.
            accepting.task.abort();
        }
        let connections = std::mem::take(
            &mut *self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner),
        );
        for connection in connections.into_values() {
            connection.disconnect("the server was dropped");
        }
    }
}

async fn accept_loop(
    shared: Arc<Shared>,
    mut listener: Box<dyn Listener>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
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
                tokio::spawn(serve(Arc::clone(&shared), channel).instrument(span));
            }
            Err(error) => {
                tracing::warn!(endpoint = shared.endpoint, %error, "could not let a client in");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One client, from its hello to its end.
async fn serve(shared: Arc<Shared>, channel: Channel) {
    let mut gone = shared.gone.subscribe();
    let mut waiter = None;
    let (halves, mut rest) = ChannelHalves::split(channel, &mut waiter);
    let on_hello = std::mem::replace(&mut rest.on_first_frame, Box::new(|| ()));
    let patience = shared.handshake_timeout;
    let handshake = exchange::accept(halves, &shared.setup, &shared.catalog, patience, on_hello);
    let opened = tokio::select! {
        biased;
        // Without a word: to the client this is a server that has died, and it looks for the next one.
        _ = gone.wait_for(|gone| *gone) => return,
        opened = handshake => opened,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return tracing::warn!(%error, "a client was turned away"),
    };
    let Some(waiter) = waiter else { unreachable!("split() put it there") };
    run(&shared, opened, rest, waiter).await;
}

async fn run(shared: &Arc<Shared>, opened: exchange::Opened, rest: Rest, waiter: Box<dyn Waiter>) {
    let limits = shared.setup.limits;
    let served = Served::new(Arc::clone(&shared.services), limits.max_in_flight);
    let codec = shared.setup.codec.clone();
    let connection = Connection::new(opened, rest, limits, codec, served, false);
    let id = connection.peer.connection_id;
    lock(&shared.connections).insert(id, Arc::clone(&connection));
    // The server may have been dropped before the connection was in its table.
    if *shared.gone.borrow() {
        connection.disconnect("the server was dropped");
    }
    tracing::info!(connection = id, "a client connected");
    let ended = Ended { shared, id };
    let driven = Arc::clone(&connection);
    if shared.dedicated_threads {
        dedicated::drive(driven, waiter).await;
    } else {
        driver::drive(driven, waiter).await;
    }
    drop(ended);
    if let Some(reason) = connection.closed() {
        tracing::info!(connection = id, %reason, "a client disconnected");
    }
}

/// Takes a connection out of the table, also when its task is dropped with the runtime.
struct Ended<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        drop(lock(&self.shared.connections).remove(&self.id));
    }
}
