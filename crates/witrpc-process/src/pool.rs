//! [`Pool`]: several workers, or clients, behind one handle.
//!
//! Which member a call goes to is decided in `witrpc_runtime`, by its `ClientPool`. Here is what adds and removes members: `builder` has the
//! settings of a pool of workers, `crew` those workers, `keeper` the task that starts and ends them.

mod builder;
mod crew;
mod keeper;
mod role;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::timeout;
use witrpc_core::Error;
use witrpc_runtime::{
    ClientPool, Event, EventValue, PoolMember, PoolSubscription, ServiceClient, WitClient,
};

use crate::worker::WorkerBuilder;

pub use builder::PoolBuilder;
use crew::{Crew, Hand};
pub use role::MemberRole;

/// Several workers, or clients of any transport, behind one handle: each call goes to one of them.
///
/// * A call goes to the member with the fewest of the pool's calls in flight; among equals, to the next in turn. Calls that wait for a place at
///   their member count, too. Members that are not connected get none.
/// * Streams that are arguments or results of a call stay with its member.
/// * If a member's connection ends, its calls that provably did not run are made again on another, and so are those whose method is marked
///   `#[witrpc(idempotent)]`: three times at most, or as the clients' [retry policy](witrpc_runtime::RetryPolicy) says. Calls with streams
///   are not retried. All other calls fail, as they would without a pool.
/// * If no member is connected, but one is connecting or being started, calls wait for it, within their deadlines.
///
/// [`of_workers`](Self::of_workers) begins a pool that starts, replaces and ends its workers itself. When it is dropped, they are killed.
///
/// ```no_run
/// use witrpc::prelude::*;
///
/// #[witrpc::service]
/// trait Renderer {
///     #[witrpc(blocking, idempotent)]
///     async fn tile(&self, left: u32, top: u32) -> witrpc::Result<Blob>;
/// }
///
/// # async fn host() -> witrpc::Result<()> {
/// let pool = Pool::of_workers(2, Worker::this_program).spawn().await?;
/// let renderer = pool.get_service::<RendererClient>();
/// let (left, right) = tokio::join!(renderer.tile(0, 0), renderer.tile(160, 0));
/// # drop((left, right));
/// pool.shutdown(Duration::from_secs(5)).await;
/// # Ok(())
/// # }
/// ```
///
/// [`of_clients`](Self::of_clients) makes a pool of clients that there are.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// # use witrpc::transport::memory::MemoryTransport;
/// use witrpc::prelude::*;
///
/// #[witrpc::service]
/// trait Calc {
///     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32>;
/// }
/// # struct Adder;
/// # impl Calc for Adder {
/// #     async fn add(&self, a: i32, b: i32) -> witrpc::Result<i32> { Ok(a + b) }
/// # }
/// # let mut clients = Vec::new();
/// # let mut servers = Vec::new();
/// # for _ in 0..2 {
/// #     let transport = MemoryTransport::new();
/// #     let server = WitServerBuilder::new()
/// #         .with_service(CalcServer::new(Adder)).with_transport(transport.clone()).build()?;
/// #     server.start_waiting_for_connection().await?;
/// #     let client = WitClientBuilder::new().with_transport(transport).build()?;
/// #     client.connect(Duration::from_secs(5)).await?;
/// #     clients.push(client);
/// #     servers.push(server);
/// # }
///
/// // Two clients that are connected to two servers.
/// let pool = Pool::of_clients(clients)?;
/// let calc = pool.get_service::<CalcClient>();
/// let (five, seven) = tokio::join!(calc.add(2, 3), calc.add(3, 4));
/// assert_eq!((five?, seven?), (5, 7));
/// # Ok::<(), witrpc::Error>(())
/// # }).unwrap();
/// ```
pub struct Pool {
    clients: ClientPool,
    /// Of a pool of workers.
    kept: Option<Kept>,
}

/// The workers of a pool, and the task that keeps them.
struct Kept {
    crew: Arc<Crew>,
    task: AbortHandle,
}

/// What [`Pool::state`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolState {
    /// The members, by their index.
    pub members: Vec<MemberState>,
    /// Calls that wait until there is a member for them.
    pub waiting: usize,
    /// Whether the pool was shut down.
    pub is_shut_down: bool,
}

/// A member of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberState {
    /// Its index, as [`Pool::subscribe`] yields it.
    pub index: usize,
    /// Whether it is connected.
    pub is_connected: bool,
    /// Whether it gets calls.
    pub role: MemberRole,
    /// The id of its process, if it is a worker and runs.
    pub process_id: Option<u32>,
    /// The pool's calls that it has now. Those that wait for their turn there are included.
    pub in_flight: usize,
    /// The pool's calls that it has had in all.
    pub calls: u64,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Pool {
    /// Begins to build a pool of `n` workers. `make` begins each of them, as [`Worker::new`](crate::Worker::new) does; all of them have to serve
    /// the same.
    ///
    /// A worker whose process dies is replaced as its [`RestartPolicy`](crate::RestartPolicy) says, which is
    /// [`always`](crate::RestartPolicy::always) if `make` sets none. A worker that its policy has given up is replaced by another one, after
    /// a delay that grows from 100 ms to 10 s; so is one that cannot be started. While all have failed, calls fail at once with
    /// [`Error::NotConnected`].
    pub fn of_workers(
        n: usize,
        make: impl Fn() -> WorkerBuilder + Send + Sync + 'static,
    ) -> PoolBuilder {
        PoolBuilder::new(n, Arc::new(make))
    }

    /// Makes a pool of these clients. Their indexes are their places in this order.
    ///
    /// Connect them as usual, before or after that. Have them reconnect
    /// ([`with_auto_reconnect`](witrpc_runtime::WitClientBuilder::with_auto_reconnect)), so that one whose server was started again is used
    /// again. Deadline and retry policy of the pool's calls are those of the first client. A client can also be used by itself; the pool
    /// does not count those calls.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if there is no client, or if they have different serializers.
    pub fn of_clients(clients: impl IntoIterator<Item = WitClient>) -> Result<Self, Error> {
        let mut clients = clients.into_iter().peekable();
        let Some(first) = clients.peek() else {
            let advice = "a pool without clients can call nobody; give at least one";
            return Err(Error::config("Pool::of_clients", "[]", advice));
        };
        let pool = ClientPool::new(first, false, usize::MAX);
        clients.try_for_each(|client| pool.add(&client, true).map(drop))?;
        Ok(Self { clients: pool, kept: None })
    }

    /// Returns a handle to a service that all members serve. Each of its calls goes to one of them.
    ///
    /// A subscription at one of its events has the values of all members; [`subscribe`](Self::subscribe) also tells whose they are.
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        self.clients.get_service()
    }

    /// Subscribes to an event of all members. The subscription yields each value with the index of its member.
    ///
    /// ```no_run
    /// # use witrpc::prelude::*;
    /// #[witrpc::service]
    /// trait Renderer {
    ///     #[event]
    ///     fn progress(&self) -> &Event<f64>;
    /// }
    ///
    /// # async fn host(pool: Pool) {
    /// let mut progress = pool.subscribe(|renderer: &RendererClient| renderer.progress());
    /// while let Some((index, item)) = progress.next().await {
    ///     println!("{index}: {item:?}");
    /// }
    /// # }
    /// ```
    pub fn subscribe<C: ServiceClient, T: EventValue>(
        &self,
        event: impl FnOnce(&C) -> &Event<T>,
    ) -> PoolSubscription<T> {
        self.clients.subscribe(event)
    }

    /// Returns what the pool does at the moment.
    #[must_use]
    pub fn state(&self) -> PoolState {
        let hands = self.kept.as_ref().map(|kept| kept.crew.hands()).unwrap_or_default();
        let state = |member: &PoolMember| {
            MemberState::of(member, hands.iter().find(|hand| hand.is(member)))
        };
        let mut members: Vec<_> = self.clients.members().iter().map(state).collect();
        members.sort_by_key(|member| member.index);
        PoolState {
            members,
            waiting: self.clients.waiting(),
            is_shut_down: self.clients.is_closed(),
        }
    }

    /// Shuts the pool down in good order: further calls, and those that wait for a member, fail with
    /// [`Error::Closed`]; they were not executed. Then it waits for the calls and streams of the members, for up to `grace`. Then it disconnects
    /// the clients, or shuts the workers down, which are given 2 s more if they need them; what they still have fails. No process is left.
    ///
    /// If this is not called, and the pool is dropped, its workers are killed. Clients are not disconnected; the pool's handles go on with
    /// them.
    pub async fn shutdown(&self, grace: Duration) {
        if let Some(kept) = &self.kept {
            return kept.crew.shutdown(grace).await;
        }
        self.clients.close();
        let members = self.clients.members();
        let drained = async {
            for member in &members {
                member.drained().await;
            }
        };
        if timeout(grace, drained).await.is_err() {
            tracing::warn!("calls or streams of a pool have not ended in time: they fail");
        }
        for member in &members {
            member.client().disconnect().await;
            self.clients.remove(member);
        }
    }
}

impl MemberState {
    fn of(member: &PoolMember, hand: Option<&Hand>) -> Self {
        let role = match hand {
            Some(hand) => hand.role,
            None if member.accepts() => MemberRole::Active,
            None => MemberRole::Leaving,
        };
        Self {
            index: member.index(),
            is_connected: member.client().is_connected(),
            role,
            process_id: hand.and_then(|hand| hand.worker.process_id()),
            in_flight: member.in_flight(),
            calls: member.total(),
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Without the task, whose runtime may not run.
        self.crew.end();
        self.task.abort();
    }
}
