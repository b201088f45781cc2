//! [`PoolMember`]: a client of a pool, and the calls that it was chosen for.
//!
//! # Invariants
//!
//! - **M1** A member that refuses calls gets none: the counts and the refusal are one number, and a call is counted only if the number is what it
//!   was when the member was chosen. So once a member that refuses has no calls, it has none for ever.
//!
//! That number has the calls in flight in its lowest bits, then [`REFUSES`], then the calls in all, in so many bits that they suffice for days of
//! a million calls a second.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::calls::callee::{Assigned, Assignee};
use crate::client::WitClient;
use crate::client::core::ClientCore;
use crate::connection::Connection;

/// The flag in `calls` of a member that refuses calls.
const REFUSES: u64 = 1 << 23;
/// One of the calls in all.
const ONE_OF_ALL: u64 = REFUSES << 1;
/// No member has more calls at once.
pub(super) const MOST: u64 = REFUSES - 1;
/// How often a member without calls is looked at whose streams have not ended. Nothing tells of that.
const STREAMS: Duration = Duration::from_millis(10);

/// A client of a pool. For `witrpc-process`.
#[derive(Clone, Debug)]
pub struct PoolMember(Arc<Member>);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Member {
    /// No other member of the pool has ever had it.
    pub(super) id: u64,
    pub(super) index: usize,
    pub(super) client: Arc<ClientCore>,
    /// The calls in flight, [`REFUSES`], and the calls that it was chosen for.
    calls: AtomicU64,
    /// At which of them the pool's demand tells; 0 is never.
    limit: AtomicU64,
    /// Notified when the last call of a member that refuses has ended.
    idle: Notify,
    room: Arc<Room>,
}

/// How many calls a member may have.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) most: u64,
    /// Notified when a member with as many has one fewer. Who waits longest is woken first.
    pub(super) freed: Arc<Notify>,
    /// The same, for whoever wakes the next one if that one does not come.
    pub(super) released: Notify,
}

impl Member {
    /// A member that refuses calls.
    pub(super) fn new(
        id: u64,
        index: usize,
        client: Arc<ClientCore>,
        room: Arc<Room>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            index,
            client,
            calls: AtomicU64::new(REFUSES),
            limit: AtomicU64::new(0),
            idle: Notify::new(),
            room,
        })
    }

    /// Its calls, if it has room for another one.
    #[inline]
    pub(super) fn chances(&self) -> Option<Calls> {
        let calls = Calls(self.calls.load(Ordering::SeqCst));
        (calls.in_flight() < self.room.most && calls.0 & REFUSES == 0).then_some(calls)
    }

    /// Whether it refuses calls.
    pub(super) fn refuses(&self) -> bool {
        self.calls.load(Ordering::SeqCst) & REFUSES != 0
    }

    pub(super) fn connection(&self) -> Option<Arc<Connection>> {
        self.client.open_connection()
    }

    /// Assigns a call to it if its calls are still these (M1). Returns whether it is the call that is to be told of, too.
    #[inline]
    pub(super) fn assign(self: Arc<Self>, calls: Calls) -> Option<(Assigned, bool)> {
        let (now, then) = (Ordering::SeqCst, Ordering::SeqCst);
        let one_more = calls.0.wrapping_add(1 + ONE_OF_ALL);
        self.calls.compare_exchange(calls.0, one_more, now, then).ok()?;
        let is_full = Calls(one_more).total() == self.limit.load(Ordering::Relaxed);
        Some((Assigned(self), is_full))
    }

    fn now(&self) -> Calls {
        Calls(self.calls.load(Ordering::SeqCst))
    }
}

/// The calls of a member at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Calls(u64);

impl Calls {
    #[inline]
    pub(super) const fn in_flight(self) -> u64 {
        self.0 & MOST
    }

    const fn total(self) -> u64 {
        self.0 / ONE_OF_ALL
    }
}

impl Assignee for Member {
    fn release(&self) {
        let before = Calls(self.calls.fetch_sub(1, Ordering::SeqCst));
        if before.in_flight() == self.room.most {
            self.room.freed.notify_one();
            self.room.released.notify_one();
        }
        if before.0 & REFUSES != 0 && before.in_flight() == 1 {
            self.idle.notify_waiters();
        }
    }

    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::clone(&self.client) as _)
    }
}

impl PoolMember {
    pub(super) const fn new(member: Arc<Member>) -> Self {
        Self(member)
    }

    pub(super) const fn member(&self) -> &Arc<Member> {
        &self.0
    }

    /// Returns its index. No other member has it meanwhile.
    #[must_use]
    pub fn index(&self) -> usize {
        self.0.index
    }

    /// Returns whether this is the same member.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the client.
    #[must_use]
    pub fn client(&self) -> WitClient {
        WitClient::new(Arc::clone(&self.0.client))
    }

    /// Returns how many of the pool's calls it has now. Those that wait for a place are included.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.0.now().in_flight()).unwrap_or(usize::MAX)
    }

    /// Returns how many of the pool's calls it has had in all.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.now().total()
    }

    /// Has the pool's demand tell when it has had this many calls in all. 0 is never.
    pub fn watch_total(&self, calls: u64) {
        self.0.limit.store(calls, Ordering::SeqCst);
    }

    /// Returns whether calls may go to it.
    #[must_use]
    pub fn accepts(&self) -> bool {
        !self.0.refuses()
    }

    /// Lets no further call go to it.
    pub fn refuse(&self) {
        self.0.calls.fetch_or(REFUSES, Ordering::SeqCst);
    }

    /// Lets calls go to it.
    pub(super) fn accept(&self) {
        self.0.calls.fetch_and(!REFUSES, Ordering::SeqCst);
    }

    /// Waits until it has no calls and no streams. It must refuse calls. Call it within a runtime with timers.
    pub async fn drained(&self) {
        loop {
            let mut idle = std::pin::pin!(self.0.idle.notified());
            // Registered before the check, so that an end in between is not missed.
            idle.as_mut().enable();
            if self.in_flight() == 0 {
                break;
            }
            idle.await;
        }
        while self.client().load().streams > 0 {
            tokio::time::sleep(STREAMS).await;
        }
    }
}
