//! The workers of a pool, as its handle and its task see them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use witrpc_core::Error;
use witrpc_runtime::{ClientPool, PoolMember};

use crate::pool::role::MemberRole;
use crate::supervision::WorkerState;
use crate::worker::Worker;

/// Once it is `ending`, no worker survives: one that is added later is ended at once.
#[derive(Debug)]
pub(crate) struct Crew {
    pub(crate) clients: ClientPool,
    inner: Mutex<Inner>,
    /// The time limit, once the pool is to be shut down.
    stop: watch::Sender<Option<Duration>>,
    /// Whether there are no workers any more, and will be none.
    ended: watch::Sender<bool>,
    /// Notified when the state of a worker has changed.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    hands: Vec<Hand>,
    ending: bool,
}

/// A worker of a pool. Clones are the same worker.
#[derive(Clone, Debug)]
pub(crate) struct Hand {
    pub(crate) worker: Arc<Worker>,
    pub(crate) member: PoolMember,
    pub(crate) role: MemberRole,
    /// The process for which its calls are counted, and the calls that the member had before.
    pub(crate) process_id: Option<u32>,
    pub(crate) calls_before: u64,
    _watching: Arc<Watching>,
}

/// The task that tells of the worker's state. It ends with the hand.
#[derive(Debug)]
struct Watching(AbortHandle);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Hand {
    /// Whether it can be called now.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(*self.worker.state().borrow(), WorkerState::Running { .. })
            && self.worker.client().is_connected()
    }

    /// Whether it has ended, and will not be replaced.
    pub(crate) fn is_over(&self) -> bool {
        matches!(*self.worker.state().borrow(), WorkerState::Exited | WorkerState::GaveUp)
    }

    /// The calls that its process has had.
    pub(crate) fn calls(&self) -> u64 {
        self.member.total() - self.calls_before
    }

    pub(crate) fn is(&self, other: &PoolMember) -> bool {
        self.member.is(other)
    }
}

impl Crew {
    pub(crate) fn new(clients: ClientPool) -> Arc<Self> {
        Arc::new(Self {
            clients,
            inner: Mutex::default(),
            stop: watch::Sender::default(),
            ended: watch::Sender::default(),
            changed: Notify::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a worker that gets no calls yet.
    pub(crate) fn add(self: &Arc<Self>, worker: Worker) -> Result<(), Error> {
        let member = self.clients.add(worker.client(), false)?;
        let (mut state, crew) = (worker.state(), Arc::downgrade(self));
        let watching = tokio::spawn(async move {
            while state.changed().await.is_ok() {
                let Some(crew) = crew.upgrade() else { return };
                crew.changed.notify_one();
            }
        });
        let hand = Hand {
            worker: Arc::new(worker),
            member,
            role: MemberRole::Spare,
            process_id: None,
            calls_before: 0,
            _watching: Arc::new(Watching(watching.abort_handle())),
        };
        let mut inner = self.inner();
        let is_late = inner.ending;
        inner.hands.push(hand.clone());
        drop(inner);
        if is_late {
            hand.worker.end();
        }
        Ok(())
    }

    /// The workers, in the order in which they were added.
    pub(crate) fn hands(&self) -> Vec<Hand> {
        self.inner().hands.clone()
    }

    /// Changes one of them.
    pub(crate) fn change(&self, hand: &Hand, change: impl FnOnce(&mut Hand)) {
        if let Some(hand) = self.inner().hands.iter_mut().find(|other| other.is(&hand.member)) {
            change(hand);
        }
    }

    /// It has ended.
    pub(crate) fn remove(&self, hand: &Hand) {
        let mut inner = self.inner();
        let at = inner.hands.iter().position(|other| other.is(&hand.member));
        let removed = at.map(|at| inner.hands.remove(at));
        drop(inner);
        drop(removed);
        self.clients.remove(&hand.member);
    }

    /// Asks the task to shut down, and waits until it has.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        self.stop.send_if_modified(|stop| {
            let is_first = stop.is_none();
            stop.get_or_insert(grace);
            is_first
        });
        let mut ended = self.ended.subscribe();
        drop(ended.wait_for(|ended| *ended).await);
    }

    /// Waits until the pool is to be shut down.
    pub(crate) async fn stopped(&self) -> Duration {
        let mut stop = self.stop.subscribe();
        let grace = stop.wait_for(Option::is_some).await;
        grace.ok().and_then(|grace| *grace).unwrap_or_default()
    }

    /// Ends whatever there is at once, and whatever comes. In a forked child, it ends no process.
    pub(crate) fn end(&self) {
        self.clients.close();
        let mut inner = self.inner();
        inner.ending = true;
        let hands = std::mem::take(&mut inner.hands);
        drop(inner);
        for hand in hands {
            hand.worker.end();
            self.clients.remove(&hand.member);
        }
        self.ended.send_replace(true);
    }
}
