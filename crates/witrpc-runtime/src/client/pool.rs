//! [`ClientPool`]: several clients behind one handle, one of which is chosen for each call.
//!
//! A pool is a callee, as a client is, so a service handle of it is the ordinary one. Which client an attempt of a call goes to is decided when
//! the attempt begins: among those that accept calls and are connected, the one with the fewest of the pool's calls; among equals, the next in turn.
//! Streams belong to the connection of their call. Subscriptions are [merged](crate::events::merged) from one at each member.
//!
//! # Invariants
//!
//! - **G1** A new member accepts no call before every subscription of the pool is in force at it: it becomes visible first, then is subscribed at,
//!   then accepts. A new subscription is listed first, and then subscribes at the members that are visible. So at least one of the two
//!   sees the other.

mod member;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;
use std::{any::Any, future};

use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use witrpc_core::contract::descriptor::ServiceDescriptor;
use witrpc_core::transport::BoxFuture;
use witrpc_core::values::serializer::Codec;
use witrpc_core::wire::fields::len_u64;
use witrpc_core::{CloseReason, Error};

use crate::calls::call::Remote;
use crate::calls::callee::{Assigned, Awaited, Callee};
use crate::calls::host::CallHost;
use crate::calls::retry::RetryPolicy;
use crate::client::WitClient;
use crate::connection::Connection;
use crate::events::event::Event;
use crate::events::merged::{Joins, Merged};
use crate::events::pool_subscription::PoolSubscription;
use crate::events::remote_event::{EventSource, RemoteSubscription};
use crate::events::subscriber::EventValue;
use crate::locks::{Mutex, Rank, RwLock};
use crate::serving::service::ServiceClient;

pub use member::PoolMember;
use member::{Calls, MOST, Member, Room};

/// Several clients behind one handle. For `witrpc-process`, whose `Pool` says what it does.
#[derive(Clone, Debug)]
pub struct ClientPool {
    core: Arc<PoolCore>,
}

/// What the clones of a pool and its service handles share; see the [module](self).
/// Many fields: settings, and what changes, each of which by itself.
struct PoolCore {
    /// The endpoint of the first client, for errors.
    name: String,
    codec: Codec,
    timeout: Option<Duration>,
    retry: RetryPolicy,
    /// The runtime on which the pool was made.
    runtime: Option<Handle>,
    room: Arc<Room>,
    members: RwLock<Arc<[Arc<Member>]>>,
    /// Counts the calls, for turns.
    turn: AtomicUsize,
    /// Counts the members that there have been.
    joined: AtomicU64,
    /// Whether calls wait where there is no member for them. `None`: if a member is connecting.
    expects: Option<AtomicBool>,
    closed: AtomicBool,
    /// Incremented after each change of the members, of which of them accept calls, and of the two fields above.
    changed: watch::Sender<u64>,
    subscriptions: Mutex<Vec<Weak<Joins>>>,
    demand: Demand,
}

/// What tells of members that are wanted.
#[derive(Debug, Default)]
struct Demand {
    /// Calls that wait for a member.
    waiting: AtomicUsize,
    /// Whether it is wanted to know that no member was idle when one was chosen.
    grows: AtomicBool,
    /// Whether the peak is kept.
    measures: AtomicBool,
    /// The most calls that members had at once.
    peak: AtomicU64,
    notify: Notify,
}

/// The member that a call is to go to, and the calls that it has, and that all have.
struct Best {
    member: Arc<Member>,
    calls: Calls,
    all: u64,
}

impl fmt::Debug for PoolCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolCore")
            .field("name", &self.name)
            .field("members", &self.members())
            .finish_non_exhaustive()
    }
}

impl ClientPool {
    /// Makes a pool without members. Its calls have the serializer, the timeout and the retry policy of `settings`. Without one of its own,
    /// a call is retried at once.
    ///
    /// If `is_kept`, somebody adds members where calls wait for them, until [`expect`](Self::expect) says that none will come. Else calls wait
    /// as long as a member is connecting.
    ///
    /// No member has more than `most` calls at once; more calls wait. Somebody has to [wake](Self::wake_next) them.
    #[must_use]
    pub fn new(settings: &WitClient, is_kept: bool, most: usize) -> Self {
        let client = settings.core();
        let at_once = RetryPolicy::default()
            .with_errors(|error| matches!(error, Error::Closed { .. }))
            .with_fixed_delay(Duration::ZERO);
        let core = PoolCore {
            name: client.endpoint().to_owned(),
            codec: Callee::codec(&*client).clone(),
            timeout: client.settings.timeout,
            retry: client.settings.retry.clone().unwrap_or(at_once),
            runtime: Handle::try_current().ok(),
            room: Arc::new(Room {
                most: len_u64(most).min(MOST),
                freed: Arc::default(),
                released: Notify::new(),
            }),
            members: RwLock::new(Rank::PoolMembers, Arc::default()),
            turn: AtomicUsize::new(0),
            joined: AtomicU64::new(0),
            expects: is_kept.then(|| AtomicBool::new(true)),
            closed: AtomicBool::new(false),
            changed: watch::Sender::new(0),
            subscriptions: Mutex::new(Rank::PoolSubscriptions, Vec::new()),
            demand: Demand::default(),
        };
        Self { core: Arc::new(core) }
    }

    /// Returns a handle to a service that all members serve.
    #[must_use]
    pub fn get_service<C: ServiceClient>(&self) -> C {
        let core = Arc::clone(&self.core);
        let timeout = core.timeout;
        C::from_remote(Remote::new(core, C::descriptor(), timeout))
    }

    /// Subscribes to an event at all members.
    pub fn subscribe<C: ServiceClient, T: EventValue>(
        &self,
        event: impl FnOnce(&C) -> &Event<T>,
    ) -> PoolSubscription<T> {
        PoolSubscription::new(event(&self.get_service()).subscribe())
    }

    /// Adds a client, which gets calls if it `accepts`. Its index is the lowest that no other member has.
    ///
    /// # Errors
    ///
    /// [`Error::Config`] if its serializer is another one than the pool's.
    pub fn add(&self, client: &WitClient, accepts: bool) -> Result<PoolMember, Error> {
        let (core, client) = (&self.core, client.core());
        let (ours, its) = (core.codec.name(), Callee::codec(&*client).name());
        if ours != its {
            let advice = format!("the pool's first client has {ours}; give all the same");
            return Err(Error::config("with_serializer", its, advice));
        }
        let id = core.joined.fetch_add(1, Ordering::SeqCst);
        let mut members = core.members.write();
        let is_free = |index: &usize| members.iter().all(|member| member.index != *index);
        let index = (0..).find(is_free).unwrap_or_default();
        let member = Member::new(id, index, client, Arc::clone(&core.room));
        let all = members.iter().cloned().chain([Arc::clone(&member)]).collect();
        // Whoever had the list drops it with no lock held.
        let before = std::mem::replace(&mut *members, all);
        drop(members);
        drop(before);
        for joins in core.listed() {
            core.join(&joins, &member);
        }
        let member = PoolMember::new(member);
        if accepts {
            self.accept(&member);
        }
        Ok(member)
    }

    /// Lets calls go to a member.
    pub fn accept(&self, member: &PoolMember) {
        member.accept();
        self.core.change();
    }

    /// Removes a member. Calls that it has stay with it.
    pub fn remove(&self, member: &PoolMember) {
        member.refuse();
        let mut members = self.core.members.write();
        let others = members.iter().filter(|other| !Arc::ptr_eq(other, member.member()));
        let others = others.cloned().collect();
        let before = std::mem::replace(&mut *members, others);
        drop(members);
        drop(before);
        self.core.change();
    }

    /// Returns the members, in the order in which they were added.
    #[must_use]
    pub fn members(&self) -> Vec<PoolMember> {
        self.core.members().iter().cloned().map(PoolMember::new).collect()
    }

    /// Fails all further calls. Those that have a member go on.
    pub fn close(&self) {
        self.core.closed.store(true, Ordering::SeqCst);
        self.members().iter().for_each(PoolMember::refuse);
        self.core.change();
        self.core.listed().iter().for_each(|joins| joins.end());
    }

    /// Returns whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// Returns how many calls wait for a member.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.core.demand.waiting.load(Ordering::SeqCst)
    }

    /// Sets whether calls for which there is no member wait for one, or fail.
    pub fn expect(&self, expects: bool) {
        let Some(before) = &self.core.expects else { return };
        if before.swap(expects, Ordering::SeqCst) != expects {
            self.core.change();
        }
    }

    /// Sets whether [`demand`](Self::demand) tells of calls that found no member idle.
    pub fn watch_growth(&self, grows: bool) {
        self.core.demand.grows.store(grows, Ordering::SeqCst);
    }

    /// Sets whether [`take_peak`](Self::take_peak) is wanted.
    pub fn measure_peak(&self, measures: bool) {
        self.core.demand.measures.store(measures, Ordering::SeqCst);
    }

    /// Returns the most calls that members had at once, at the beginning of a call since the last time.
    #[must_use]
    pub fn take_peak(&self) -> usize {
        usize::try_from(self.core.demand.peak.swap(0, Ordering::SeqCst)).unwrap_or(usize::MAX)
    }

    /// Waits until a call waits for a member, or what is watched has happened here or at a [member](PoolMember::watch_total).
    pub async fn demand(&self) {
        tokio::select! {
            () = self.core.demand.notify.notified() => {}
            () = self.core.room.released.notified() => {}
        }
    }

    /// If there is room at a member for a call that waits, wakes the next one, and returns that. A call that was woken may be one that nobody
    /// polls: so this is done again a moment later.
    #[must_use]
    pub fn wake_next(&self) -> bool {
        let has_room = self.waiting() > 0 && self.core.has_member();
        if has_room {
            self.core.room.freed.notify_one();
        }
        has_room
    }
}

impl PoolCore {
    fn members(&self) -> Arc<[Arc<Member>]> {
        Arc::clone(&self.members.read())
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn change(&self) {
        self.changed.send_modify(|number| *number = number.wrapping_add(1));
    }

    /// The subscriptions that there are.
    fn listed(&self) -> Vec<Arc<Joins>> {
        self.subscriptions.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn join(&self, joins: &Joins, member: &Member) {
        joins.join(member.id, member.index, Arc::clone(&member.client) as _);
    }

    /// A connection of the member with the fewest calls in flight.
    fn choose(&self) -> Option<(Arc<Connection>, Assigned)> {
        let mut without = Vec::new();
        loop {
            let Best { member, calls, all } = self.best(&without)?;
            let Some(connection) = member.connection() else {
                without.push(member.id);
                continue;
            };
            if let Some((assigned, is_full)) = member.assign(calls) {
                self.demand.note(calls.in_flight(), all + 1, is_full);
                return Some((connection, assigned));
            }
            // Another call has come or gone there meanwhile.
        }
    }

    /// The member with the fewest calls in flight, but for those that have no connection. Among equals, the next in turn.
    #[inline]
    fn best(&self, without: &[u64]) -> Option<Best> {
        let members = self.members.read();
        let (first, others) = members.split_first()?;
        if others.is_empty() {
            let calls = first.chances().filter(|_| without.is_empty())?;
            return Some(Best { member: Arc::clone(first), calls, all: calls.in_flight() });
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % members.len();
        let (mut best, mut all): (Option<(&Arc<Member>, Calls)>, _) = (None, 0);
        for member in members[turn..].iter().chain(&members[..turn]) {
            let Some(calls) = member.chances() else { continue };
            all += calls.in_flight();
            let is_fewest = best.is_none_or(|(_, least)| calls.in_flight() < least.in_flight());
            if is_fewest && !without.contains(&member.id) {
                best = Some((member, calls));
            }
        }
        best.map(|(member, calls)| Best { member: Arc::clone(member), calls, all })
    }

    /// Any connection.
    fn any_connection(&self) -> Option<Arc<Connection>> {
        self.members().iter().find_map(|member| member.connection())
    }

    /// Whether a call may go to a member now.
    fn has_member(&self) -> bool {
        let members = self.members();
        let takes =
            |member: &Arc<Member>| member.chances().is_some() && member.connection().is_some();
        members.iter().any(takes)
    }

    /// Whether a call may go to a member later: one that has no room now, or that may come.
    fn expects_member(&self) -> bool {
        let members = self.members();
        let is_there = |member: &Arc<Member>| !member.refuses() && member.connection().is_some();
        if self.is_closed() {
            return false;
        }
        members.iter().any(is_there)
            || match &self.expects {
                Some(expects) => expects.load(Ordering::SeqCst),
                None => members.iter().any(|member| member.client.is_connecting()),
            }
    }

    /// Completes when a call may go to a member, or none will come.
    async fn until_member(self: Arc<Self>) {
        loop {
            // In this order: a change in between is seen twice, and not missed.
            let mut changed = self.changed.subscribe();
            let mut freed = Box::pin(Arc::clone(&self.room.freed).notified_owned());
            freed.as_mut().enable();
            let members = self.members();
            let states = members.iter().map(|member| member.client.watch_state());
            let changes = states.map(|mut state| {
                let changed: BoxFuture<'static, ()> =
                    Box::pin(async move { drop(state.changed().await) });
                changed
            });
            let mut changes: Vec<_> = changes.collect();
            if self.has_member() || !self.expects_member() {
                return;
            }
            changes.push(Box::pin(async move { drop(changed.changed().await) }));
            changes.push(freed);
            drop(members);
            future::poll_fn(|cx| {
                let is_over =
                    |change: &mut BoxFuture<'static, ()>| change.as_mut().poll(cx).is_ready();
                match changes.iter_mut().any(is_over) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
    }
}

impl Demand {
    /// A call has begun at a member that had so many, of so many at all members.
    #[inline]
    fn note(&self, calls_before: u64, all: u64, is_full: bool) {
        if self.measures.load(Ordering::Relaxed) {
            self.peak.fetch_max(all, Ordering::Relaxed);
        }
        if is_full || (calls_before > 0 && self.grows.load(Ordering::Relaxed)) {
            self.notify.notify_one();
        }
    }
}

/// A call that waits for a member; counted until it is dropped.
struct Waiting(Arc<PoolCore>);

impl Waiting {
    fn new(pool: Arc<PoolCore>) -> Self {
        pool.demand.waiting.fetch_add(1, Ordering::SeqCst);
        pool.demand.notify.notify_one();
        Self(pool)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.demand.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Callee for PoolCore {
    fn codec(&self) -> &Codec {
        &self.codec
    }

    fn connection(&self) -> Result<Arc<dyn CallHost>, Error> {
        match self.any_connection() {
            Some(connection) => Ok(connection),
            None => Err(Error::NotConnected { endpoint: self.name.clone() }),
        }
    }

    fn connection_for_call(
        &self,
        assigned: &mut Option<Assigned>,
    ) -> Result<Arc<dyn CallHost>, Error> {
        if let Some((connection, to)) = self.choose() {
            *assigned = Some(to);
            return Ok(connection);
        }
        Err(if self.is_closed() {
            Error::Closed { reason: CloseReason::Local, maybe_executed: false }
        } else {
            Error::NotConnected { endpoint: self.name.clone() }
        })
    }

    fn awaited(self: Arc<Self>) -> Option<Awaited> {
        if !self.expects_member() {
            return None;
        }
        let runtime = Handle::try_current().ok().or_else(|| self.runtime.clone());
        let waiting = Waiting::new(Arc::clone(&self));
        let until = async move {
            self.until_member().await;
            drop(waiting);
        };
        Some(Awaited { until: Box::pin(until), runtime })
    }

    /// A call that begins once more waits for a member itself.
    fn connected(&self) -> BoxFuture<'static, ()> {
        match self.expects_member() {
            true => Box::pin(future::ready(())),
            false => Box::pin(future::pending()),
        }
    }

    fn retry(&self) -> Option<&RetryPolicy> {
        (!self.is_closed()).then_some(&self.retry)
    }

    fn events(self: Arc<Self>) -> Arc<dyn EventSource> {
        self
    }

    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self)
    }
}

impl EventSource for PoolCore {
    fn subscribe(
        self: Arc<Self>,
        descriptor: &'static ServiceDescriptor,
        index: usize,
    ) -> RemoteSubscription {
        let merged = Merged::new(descriptor, index);
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.retain(|joins| joins.strong_count() > 0);
        subscriptions.push(Arc::downgrade(merged.joins()));
        drop(subscriptions);
        for member in self.members().iter() {
            self.join(merged.joins(), member);
        }
        if self.is_closed() {
            merged.joins().end();
        }
        RemoteSubscription::Merged(merged)
    }
}

impl Drop for PoolCore {
    fn drop(&mut self) {
        self.listed().iter().for_each(|joins| joins.end());
    }
}
