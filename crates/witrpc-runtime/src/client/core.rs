//! [`ClientCore`]: what the clones of a client and its service handles share. It holds the connection, and the attempts to make one.
//!
//! # Concurrency
//!
//! [`Current`] has the connection, the state that users see, and the task that reconnects; they change together, under one lock. A
//! *disconnect* is final: it increments the epoch, and an attempt that began in an earlier epoch installs no connection, however far
//! it has come. Locks: `subscriptions`, then `current`; no code of the user runs under either.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::AbortHandle;
use tracing::Instrument;
use witrpc_core::contract::route::catalog_of;
use witrpc_core::security::authorization::ClientAuthorization;
use witrpc_core::text::Escaped;
use witrpc_core::transport::{BoxFuture, ClientTransport, Waiter};
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::catalog::Catalog;
use witrpc_core::{CloseReason, Error};

use crate::calls::callee::Callee;
use crate::calls::host::CallHost;
use crate::calls::retry::RetryPolicy;
use crate::client::reconnect::{ClientState, ReconnectOptions, Reconnecting, Reconnects};
use crate::connection::Connection;
use crate::events::client_subscription::Subscribable;
use crate::events::client_subscription::{self, ClientSubscription};
use crate::events::remote_event::EventSource;
use crate::events::subscribing::Subscribes;
use crate::link::driver;
use crate::link::ending::Ends;
use crate::link::handshake::{self, ChannelHalves, Opened, Rest, Setup};
use crate::link::host::Host;
use crate::link::sending::Sends;
use crate::link::timers::{self, Timer};
use crate::link::trace::{Side, traced};
use crate::link::turns::Driven;
use crate::locks::{self, Rank, ReadGuard, RwLock, WriteGuard};
use crate::serving::services::Services;
use crate::serving::table::CallsTaken;

/// How long a disconnect waits for the connection's driver to release everything.
const TAKE_DOWN: Duration = Duration::from_secs(1);
/// How long the handshake may take if there is time for one attempt only.
const ONE_ATTEMPT: Duration = Duration::from_secs(1);
/// The pause before another attempt when a server has died during the handshake: a server that dies of it must not be flooded with attempts.
const AGAIN: Duration = Duration::from_millis(10);

/// The settings of a client.
#[derive(Debug)]
pub(crate) struct ClientSettings {
    /// Every call's deadline, unless its handle has another.
    pub(crate) timeout: Option<Duration>,
    /// Whether subscriptions outlast a connection that is lost.
    pub(crate) keeps_subscriptions: bool,
    pub(crate) reconnect: Option<ReconnectOptions>,
    pub(crate) retry: Option<RetryPolicy>,
}

/// The shared part of a client; see the [module](self).
/// Many fields: what the builder has set, and four ways to wait, each of which is used by itself.
pub(crate) struct ClientCore {
    transport: Box<dyn ClientTransport>,
    setup: Setup<dyn ClientAuthorization>,
    pub(crate) settings: ClientSettings,
    /// The services that the server may call.
    services: Arc<Services>,
    catalog: Catalog,
    /// A weak reference to this value.
    this: Weak<Self>,
    current: RwLock<Current>,
    /// The state as users see it: a copy of the one in `current`, made after each change of that (see [`show`](Self::show)).
    shown: watch::Sender<ClientState>,
    /// Subscriptions by their addresses, wherever their values come from at the moment. Locked around every change of the
    /// connection, so that each subscription is on the connection that calls go to.
    subscriptions: locks::Mutex<HashMap<usize, Weak<ClientSubscription>>>,
    /// Held while connecting, so that two tasks that connect at once share the outcome.
    connecting: Mutex<()>,
    /// The number of running calls of `connect`. An automatic attempt gives way to them.
    urgent: AtomicUsize,
    /// Notified when the epoch or `urgent` has changed.
    changed: Notify,
}

/// The state that changes together, under one lock.
#[derive(Debug, Default)]
struct Current {
    connection: Option<Arc<Connection>>,
    state: ClientState,
    /// Counts the disconnects.
    epoch: u64,
    /// The task that reconnects, if there is one.
    task: Option<Task>,
    /// Counts those tasks.
    tasks: u64,
}

#[derive(Debug)]
struct Task {
    number: u64,
    /// Set a moment after the task was spawned.
    abort: Option<AbortHandle>,
}

impl Current {
    fn is(&self, connection: &Arc<Connection>) -> bool {
        self.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection))
    }

    fn has_task(&self, number: u64) -> bool {
        self.task.as_ref().is_some_and(|task| task.number == number)
    }
}

impl Task {
    fn abort(self) {
        if let Some(abort) = self.abort {
            abort.abort();
        }
    }
}

/// Why a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    User,
    /// To replace a lost connection. Gives way to a call of `connect`.
    Automatic,
}

impl fmt::Debug for ClientCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCore")
            .field("endpoint", &self.endpoint())
            .field("connection", &self.read().connection)
            .finish_non_exhaustive()
    }
}

impl ClientCore {
    pub(crate) fn new(
        transport: Box<dyn ClientTransport>,
        setup: Setup<dyn ClientAuthorization>,
        settings: ClientSettings,
        services: Services,
    ) -> Arc<Self> {
        let catalog = catalog_of(services.descriptors());
        Arc::new_cyclic(|this| Self {
            transport,
            setup,
            settings,
            services: Arc::new(services),
            catalog,
            this: Weak::clone(this),
            current: RwLock::new(Rank::Current, Current::default()),
            shown: watch::Sender::new(ClientState::Disconnected),
            subscriptions: locks::Mutex::new(Rank::ClientSubscriptions, HashMap::new()),
            connecting: Mutex::new(()),
            urgent: AtomicUsize::new(0),
            changed: Notify::new(),
        })
    }

    fn read(&self) -> ReadGuard<'_, Current> {
        self.current.read()
    }

    fn write(&self) -> WriteGuard<'_, Current> {
        self.current.write()
    }

    pub(crate) fn endpoint(&self) -> &str {
        self.transport.name()
    }

    /// The bound on what the server can make a connection hold.
    pub(crate) fn memory_bound(&self) -> u64 {
        self.setup.limits.bound()
    }

    /// The connection, which may have ended.
    pub(crate) fn connection(&self) -> Result<Arc<Connection>, Error> {
        let connection = self.read().connection.clone();
        connection.ok_or_else(|| Error::NotConnected { endpoint: self.endpoint().to_owned() })
    }

    /// The connection, if there is one that has not ended.
    pub(crate) fn open_connection(&self) -> Option<Arc<Connection>> {
        let connection = self.read().connection.clone();
        connection.filter(|connection| connection.link().closed().is_none())
    }

    /// Whether a connection is being made.
    pub(crate) fn is_connecting(&self) -> bool {
        let is_reconnecting = matches!(self.read().state, ClientState::Reconnecting { .. });
        is_reconnecting || self.urgent.load(Ordering::SeqCst) > 0
    }

    /// Whether there is a connection that has not ended.
    pub(crate) fn is_connected(&self) -> bool {
        self.connection().is_ok_and(|connection| connection.link().closed().is_none())
    }

    /// The state's changes from now on.
    pub(crate) fn watch_state(&self) -> watch::Receiver<ClientState> {
        self.shown.subscribe()
    }

    /// Publishes the state to users after a change. With two changes at once, the one that is published last publishes the current state:
    /// each reads it anew, under the lock of the published copy.
    fn show(&self) {
        self.shown.send_if_modified(|shown| {
            let state = self.read().state;
            std::mem::replace(shown, state) != state
        });
    }

    /// Connects, unless there is a connection.
    pub(crate) async fn connect(&self, timeout: Duration) -> Result<(), Error> {
        timers::check("connect()")?;
        let epoch = self.read().epoch;
        self.connect_in(epoch, Who::User, timeout).await.unwrap_or_else(|MadeWay| disconnected())
    }

    /// Ends the connection, and makes a new one.
    pub(crate) async fn reconnect(self: Arc<Self>, timeout: Duration) -> Result<(), Error> {
        let epoch = self.disconnect(true).await;
        self.connect_in(epoch, Who::User, timeout).await.unwrap_or_else(|MadeWay| disconnected())
    }

    async fn connect_in(
        &self,
        epoch: u64,
        who: Who,
        timeout: Duration,
    ) -> Result<Result<(), Error>, MadeWay> {
        let deadline = timers::deadline(timeout);
        let _urgent = (who == Who::User).then(|| Urgent::new(self));
        tokio::select! {
            biased;
            // The attempt is dropped, whatever its stage: the server sees a client that went away.
            () = self.until(|| self.read().epoch != epoch) => Ok(disconnected()),
            () = self.until(|| who == Who::Automatic && self.urgent.load(Ordering::SeqCst) > 0) => {
                Err(MadeWay)
            }
            connected = self.attempt(epoch, deadline, timeout) => Ok(connected),
        }
    }

    /// Completes once this is so; looks after each change of the epoch and of `urgent`.
    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before the check, so that a change in between is not missed.
            changed.as_mut().enable();
            if is_so() {
                return;
            }
            changed.await;
        }
    }

    async fn attempt(
        &self,
        epoch: u64,
        deadline: tokio::time::Instant,
        timeout: Duration,
    ) -> Result<(), Error> {
        let began = Instant::now();
        let turn = tokio::time::timeout_at(deadline, self.connecting.lock()).await;
        let _turn = turn.map_err(|_| Error::TimedOut { after: timeout })?;
        if self.connection().is_ok_and(|connection| connection.is_open()) {
            return Ok(());
        }
        let (opened, rest, waiter) = loop {
            match self.open(deadline, timeout).await {
                // The server was killed or dropped during the handshake. The next one may be starting already.
                Err(Error::Closed { reason: CloseReason::PeerGone, .. })
                    if deadline.saturating_duration_since(tokio::time::Instant::now()) > AGAIN =>
                {
                    tracing::debug!(
                        endpoint = self.endpoint(),
                        "the server ended during the handshake, connecting again"
                    );
                    tokio::time::sleep(AGAIN).await;
                }
                opened => break opened?,
            }
        };
        self.adopt(epoch, opened, rest, waiter)?;
        tracing::info!(endpoint = self.endpoint(), after = ?began.elapsed(), "connected");
        Ok(())
    }

    /// A channel, and the handshake over it.
    async fn open(
        &self,
        deadline: tokio::time::Instant,
        timeout: Duration,
    ) -> Result<(Opened, Rest, Box<dyn Waiter>), Error> {
        let at_once = timeout.is_zero();
        if !at_once && deadline <= tokio::time::Instant::now() {
            return Err(Error::TimedOut { after: timeout });
        }
        // To the transport, a deadline that has passed is one attempt.
        let channel = self.transport.connect(deadline.into_std()).await?;
        let encryptor = &*self.setup.encryptor;
        let channel = traced(channel, Side::Client, self.endpoint(), encryptor, &self.catalog);
        let (deadline, timeout) = match at_once {
            true => (timers::deadline(ONE_ATTEMPT), ONE_ATTEMPT),
            false => (deadline, timeout),
        };
        let mut waiter = None;
        let (halves, mut rest) = ChannelHalves::split(channel, &mut waiter);
        let opened = tokio::time::timeout_at(
            deadline,
            handshake::connect(halves, &self.setup, &self.catalog),
        )
        .await
        .map_err(|_| Error::TimedOut { after: timeout })??;
        std::mem::replace(&mut rest.on_first_frame, Box::new(|| ()))();
        let Some(waiter) = waiter else { unreachable!("split() put it there") };
        Ok((opened, rest, waiter))
    }

    /// Makes an open session the current connection, and spawns its driver.
    fn adopt(
        &self,
        epoch: u64,
        opened: Opened,
        rest: Rest,
        waiter: Box<dyn Waiter>,
    ) -> Result<(), Error> {
        let limits = self.setup.limits;
        let calls_taken = CallsTaken::new(Arc::clone(&self.services), limits.max_in_flight);
        let codec = self.setup.codec.clone();
        let keep_subscriptions = self.settings.keeps_subscriptions;
        let connection =
            Connection::new(opened, rest, limits, codec, calls_taken, keep_subscriptions);
        // Before the connection is visible, and before its task is spawned, which may be dropped before its first poll.
        let driving = Driving { client: Weak::clone(&self.this), connection };
        if !self.install(&driving.connection, epoch) {
            driving.connection.disconnect("the client disconnected");
            return disconnected();
        }
        self.show();
        tokio::spawn(drive(driving, waiter));
        Ok(())
    }

    /// Makes a connection the current one, with all subscriptions on it. Returns whether it still is of this epoch.
    fn install(&self, connection: &Arc<Connection>, epoch: u64) -> bool {
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.retain(|_, subscription| {
            subscription.upgrade().is_some_and(|subscription| !subscription.is_ended())
        });
        // Locked meanwhile: a subscriber that sees its subscription continue, and then makes a call, must get this connection and not
        // the last.
        let mut current = self.write();
        if current.epoch != epoch {
            return false;
        }
        for subscription in subscriptions.values().filter_map(Weak::upgrade) {
            connection.subscribe(&subscription);
        }
        let last = current.connection.replace(Arc::clone(connection));
        current.state = ClientState::Connected;
        drop(current);
        locks::dispose(last);
        true
    }

    /// A connection has ended. If it was the current one and was lost, reconnects if that is configured.
    fn ended(&self, connection: &Arc<Connection>) {
        let mut current = self.write();
        if !current.is(connection) {
            return;
        }
        let lost = match connection.link().closed() {
            None | Some(CloseReason::Local | CloseReason::RuntimeGone) => None,
            Some(_) => self.settings.reconnect.clone(),
        };
        let last = current.task.take();
        let task = lost.map(|options| {
            let epoch = current.epoch;
            current.tasks += 1;
            current.task = Some(Task { number: current.tasks, abort: None });
            // Created before the task, which may be dropped before its first poll.
            Reconnecting::new(Weak::clone(&self.this), epoch, current.tasks, options)
        });
        current.state = match &task {
            Some(_) => ClientState::Reconnecting { attempt: 1 },
            None => ClientState::Disconnected,
        };
        drop(current);
        if let Some(last) = last {
            last.abort();
        }
        self.show();
        let Some(task) = task else { return };
        let number = task.number();
        let spawned = connection.link().runtime.spawn(task.run());
        let mut current = self.write();
        match &mut current.task {
            Some(task) if task.number == number => task.abort = Some(spawned.abort_handle()),
            _ => {
                drop(current);
                spawned.abort();
            }
        }
    }

    /// Ends the connection. Its subscriptions end too, unless they `survive` for the next one. Returns the epoch that begins.
    ///
    /// Outside of a runtime with timers, it does not wait until everything has been released.
    pub(crate) async fn disconnect(&self, survive: bool) -> u64 {
        let (epoch, connection) = self.let_go(survive);
        if let Some(connection) = connection {
            connection.disconnect("the client disconnected");
            taken_down(&connection).await;
        }
        epoch
    }

    /// Ends all subscriptions: no connection will come.
    pub(crate) fn end_subscriptions(&self, reason: &CloseReason) {
        let subscriptions = self.subscriptions.lock();
        let ended: Vec<_> = subscriptions.values().filter_map(Weak::upgrade).collect();
        drop(subscriptions);
        client_subscription::end_all(ended, reason);
    }

    /// Removes the connection, and stops attempts to make one. Returns the epoch that begins, and the connection that is to be ended.
    fn let_go(&self, survive: bool) -> (u64, Option<Arc<Connection>>) {
        let subscriptions = self.subscriptions.lock();
        let mut current = self.write();
        current.epoch += 1;
        let epoch = current.epoch;
        let (connection, task) = (current.connection.take(), current.task.take());
        current.state = ClientState::Disconnected;
        drop(current);
        let ended: Vec<_> = match &connection {
            Some(connection) if survive => {
                connection.release_subscriptions();
                Vec::new()
            }
            Some(_) => subscriptions.values().filter_map(Weak::upgrade).collect(),
            // Without a connection, they wait for the next one.
            None => Vec::new(),
        };
        drop(subscriptions);
        if let Some(task) = task {
            task.abort();
        }
        self.changed.notify_waiters();
        self.show();
        client_subscription::end_all(ended, &CloseReason::Local);
        (epoch, connection)
    }
}

/// Waits for the connection's driver to release everything.
async fn taken_down(connection: &Connection) {
    let timer = Handle::try_current().ok().and_then(|runtime| Timer::new(&runtime, TAKE_DOWN));
    let Some(mut timer) = timer else { return };
    tokio::select! {
        () = connection.ended() => {}
        _ = std::future::poll_fn(|cx| timer.poll(cx)) => {
            tracing::warn!("the runtime of the connection does not run its tasks; the connection was not closed in order");
        }
    }
}

/// The error of an attempt to connect that a disconnect has overtaken.
const fn disconnected() -> Result<(), Error> {
    Err(Error::Closed { reason: CloseReason::Local, maybe_executed: false })
}

/// The error of an automatic attempt that gave way to a call of `connect`.
struct MadeWay;

/// The key of a subscription. Its address is unique as long as there is a reference to it, even a weak one.
fn address(subscription: &Arc<ClientSubscription>) -> usize {
    Arc::as_ptr(subscription).addr()
}

/// Counts a call of `connect` while it runs.
struct Urgent<'a>(&'a ClientCore);

impl<'a> Urgent<'a> {
    fn new(client: &'a ClientCore) -> Self {
        client.urgent.fetch_add(1, Ordering::SeqCst);
        client.changed.notify_waiters();
        Self(client)
    }
}

impl Drop for Urgent<'_> {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// Guards a connection whose driver runs. Dropped when the driver ends, also with its runtime; then the client is told.
struct Driving {
    client: Weak<ClientCore>,
    connection: Arc<Connection>,
}

impl Drop for Driving {
    fn drop(&mut self) {
        self.connection.take_down();
        if let Some(client) = self.client.upgrade() {
            client.ended(&self.connection);
        }
    }
}

async fn drive(driving: Driving, waiter: Box<dyn Waiter>) {
    let connection = &driving.connection;
    let span = tracing::info_span!("connection", id = connection.link().id);
    driver::drive(Arc::clone(connection), waiter).instrument(span).await;
    match connection.link().closed() {
        Some(CloseReason::Local) | None => tracing::info!("disconnected"),
        Some(reason) => tracing::warn!(reason = %Escaped(reason), "disconnected"),
    }
}

impl Drop for ClientCore {
    fn drop(&mut self) {
        let current = std::mem::take(&mut *self.write());
        if let Some(task) = current.task {
            task.abort();
        }
        if let Some(connection) = current.connection {
            connection.disconnect("the client was dropped");
        }
    }
}

impl Reconnects for ClientCore {
    fn endpoint(&self) -> &str {
        self.endpoint()
    }

    fn goes_on(&self, task: u64, attempt: u32) -> bool {
        let mut current = self.write();
        if !current.has_task(task) {
            return false;
        }
        if current.connection.as_ref().is_none_or(|connection| connection.link().closed().is_some())
        {
            current.state = ClientState::Reconnecting { attempt };
        }
        drop(current);
        self.show();
        true
    }

    async fn connect_again(&self, epoch: u64, timeout: Duration) -> Result<(), Error> {
        loop {
            match self.connect_in(epoch, Who::Automatic, timeout).await {
                Ok(done) => return done,
                Err(MadeWay) => self.until(|| self.urgent.load(Ordering::SeqCst) == 0).await,
            }
        }
    }

    fn leave_task(&self, task: u64) -> bool {
        let mut current = self.write();
        let wanted = current.has_task(task);
        if wanted {
            current.task = None;
        }
        wanted
    }

    fn give_up(&self, task: u64, state: ClientState, reason: &CloseReason) -> bool {
        let subscriptions = self.subscriptions.lock();
        let mut current = self.write();
        if !current.has_task(task) {
            return false;
        }
        current.task = None;
        current.state = state;
        let ended: Vec<_> = subscriptions.values().filter_map(Weak::upgrade).collect();
        drop(current);
        drop(subscriptions);
        self.show();
        client_subscription::end_all(ended, reason);
        true
    }
}

impl Callee for ClientCore {
    fn codec(&self) -> &Codec {
        &self.setup.codec
    }

    fn connection(&self) -> Result<Arc<dyn CallHost>, Error> {
        Ok(self.connection()?)
    }

    fn connected(&self) -> BoxFuture<'static, ()> {
        // In this order: a change in between is seen twice, and not missed.
        let mut state = self.watch_state();
        if self.is_connected() {
            return Box::pin(std::future::ready(()));
        }
        Box::pin(async move {
            while state.changed().await.is_ok() {
                if *state.borrow_and_update() == ClientState::Connected {
                    return;
                }
            }
            std::future::pending().await
        })
    }

    fn retry(&self) -> Option<&RetryPolicy> {
        self.settings.retry.as_ref()
    }

    fn events(self: Arc<Self>) -> Arc<dyn EventSource> {
        self
    }

    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self)
    }
}

/// Subscriptions belong to the client, and are carried from one connection to the next.
impl Subscribable for ClientCore {
    fn codec(&self) -> &Codec {
        &self.setup.codec
    }

    fn max_buffered(&self) -> u64 {
        self.setup.limits.max_buffered
    }

    fn add_subscription(&self, subscription: &Arc<ClientSubscription>) {
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.insert(address(subscription), Arc::downgrade(subscription));
        if let Ok(connection) = self.connection() {
            connection.subscribe(subscription);
        }
    }

    fn remove_subscription(&self, subscription: &Arc<ClientSubscription>) {
        drop(self.subscriptions.lock().remove(&address(subscription)));
    }

    fn kept_by_resources(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self)
    }
}
