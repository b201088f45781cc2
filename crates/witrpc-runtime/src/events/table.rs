//! The subscriptions of a connection: ours at the peer, and the peer's here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashlink::LinkedHashSet;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::{Held, Subscribed};
use witrpc_core::session::window::Window;

use crate::context::RaisedTo as _;
use crate::events::client_subscription::ClientSubscriptions;
use crate::events::remote_subscriber::RemoteSubscriber;
use crate::events::subscriber::Registration;
use crate::locks::{Counted, CountedMutex, Mutex, Rank};

/// The maximum number of subscriptions of one side at the other: each costs a backlog there. [wire.subscribe]
pub(crate) const MAX_SUBSCRIPTIONS: usize = 4096;
/// The largest window, in values, that a subscriber may choose: all of them wait here if the peer does not read. Several times the window of
/// our clients.
pub(super) const MAX_WINDOW: u32 = 4096;

/// A subscriber, and its place at its event once it has one.
pub(super) type Attached = (Arc<RemoteSubscriber>, Option<Registration>);

/// A subscriber on its way to its event.
#[derive(Debug)]
pub(super) struct Attaching {
    pub(super) subscriber: Arc<RemoteSubscriber>,
    pub(super) service: u16,
    pub(super) event: u16,
}

/// The events of a connection.
#[derive(Debug)]
pub(crate) struct Events {
    /// Our subscriptions at the peer.
    pub(super) subscriptions: CountedMutex<ClientSubscriptions>,
    /// Whether they are carried to another connection when this one is lost.
    pub(super) keep_subscriptions: bool,
    /// The window that our subscriptions give the peer.
    pub(super) window: Window,
    /// The peer's subscriptions here.
    pub(super) subscribers: Mutex<HashMap<u32, Attached>>,
    /// Those of them that are not at their event yet, in the order in which they came: that takes code of the user's, and so no lock
    /// may be held (L2). The driver sees to it before it serves what came behind them.
    pub(super) attaching: Mutex<VecDeque<Attaching>>,
    /// Whether there are such. Set by whoever reads a frame, before the next is read; the driver learns of that frame under a lock
    /// that its reader has held since.
    pub(super) has_attaching: AtomicBool,
    /// Its lock is taken with that of a subscriber held.
    waiting: Mutex<Waiting>,
    /// Whether any values wait for room in the sending queue.
    has_held_back: AtomicBool,
}

/// The ids of subscribers that wait for room.
#[derive(Debug, Default)]
struct Waiting {
    /// Their values wait for room in the sending queue.
    held_back: LinkedHashSet<u32>,
    /// Whoever raises a value waits for room for it ([`Overflow::Block`](crate::events::backlog::Overflow::Block)).
    crowded_out: LinkedHashSet<u32>,
}

impl Events {
    /// For a side whose subscriptions have this window.
    pub(crate) fn new(window: Window, keep_subscriptions: bool) -> Self {
        Self {
            subscriptions: CountedMutex::new(Rank::Subscriptions, ClientSubscriptions::default()),
            keep_subscriptions,
            window,
            subscribers: Mutex::new(Rank::Subscriptions, HashMap::new()),
            attaching: Mutex::new(Rank::Attaching, VecDeque::new()),
            has_attaching: AtomicBool::new(false),
            waiting: Mutex::new(Rank::HeldBack, Waiting::default()),
            has_held_back: AtomicBool::new(false),
        }
    }

    /// The number of our subscriptions.
    pub(crate) fn subscription_count(&self) -> usize {
        self.subscriptions.count()
    }

    /// The number of the peer's subscriptions.
    pub(crate) fn subscriber_count(&self) -> usize {
        self.subscribers.lock().len()
    }

    /// Takes the subscription of this id out of the table; returns whether it was there.
    pub(crate) fn forget_subscription(&self, id: u32) -> bool {
        let subscription = self.subscriptions.lock().remove(id);
        subscription.is_some()
    }

    /// The peer's subscribers.
    pub(super) fn subscribers(&self) -> Vec<Arc<RemoteSubscriber>> {
        self.subscribers.lock().values().map(|(subscriber, _)| Arc::clone(subscriber)).collect()
    }

    /// Drops the peer's subscribers: the connection has ended.
    pub(crate) fn drop_subscribers(&self) {
        let subscribers = std::mem::take(&mut *self.subscribers.lock());
        drop(subscribers);
    }

    /// Notes that values of a subscriber wait for room in the sending queue. A task that makes room records that, and wakes the driver, which
    /// reads this flag. One of the two sees the other, as all accesses are sequentially consistent.
    pub(crate) fn hold_back(&self, subscription: u32) {
        self.waiting.lock().held_back.insert(subscription);
        self.has_held_back.store(true, Ordering::SeqCst);
    }

    /// Notes that somebody who raises a value waits for room for it.
    pub(crate) fn crowd_out(&self, subscription: u32) {
        self.waiting.lock().crowded_out.insert(subscription);
    }

    /// There is room again: those who raise values look for themselves.
    pub(crate) fn tell_crowded_out(&self) {
        let crowded_out = std::mem::take(&mut self.waiting.lock().crowded_out);
        for id in crowded_out {
            if let Some(subscriber) = self.subscriber(id) {
                subscriber.tell_of_room();
            }
        }
    }

    fn subscriber(&self, id: u32) -> Option<Arc<RemoteSubscriber>> {
        self.subscribers.lock().get(&id).map(|(subscriber, _)| Arc::clone(subscriber))
    }

    /// Whether any wait for room.
    pub(crate) fn has_held_back(&self) -> bool {
        self.has_held_back.load(Ordering::SeqCst)
    }

    /// Removes a subscriber that is gone from the lists.
    pub(super) fn let_go(&self, subscription: u32) {
        let mut waiting = self.waiting.lock();
        waiting.held_back.remove(&subscription);
        waiting.crowded_out.remove(&subscription);
    }

    /// Sends values that waited for room, now that there is some.
    pub(crate) fn resume(&self) {
        // A load first: the swap takes the cache line from other CPUs.
        if !self.has_held_back() || !self.has_held_back.swap(false, Ordering::SeqCst) {
            return;
        }
        let held_back = std::mem::take(&mut self.waiting.lock().held_back);
        for id in held_back {
            if let Some(subscriber) = self.subscriber(id) {
                subscriber.resume();
            }
        }
    }

    /// Sends waiting values to the peer's subscribers, up to their bounds. Returns whether all were sent.
    pub(crate) fn flush(&self) -> bool {
        let mut all = true;
        for subscriber in self.subscribers() {
            all &= subscriber.flush_all();
        }
        all
    }

    /// Stops sending to the peer's subscribers. Returns the last mark for each: the number of its next value.
    pub(crate) fn finish(&self) -> Vec<(u32, u64)> {
        self.subscribers().iter().map(|subscriber| (subscriber.id(), subscriber.finish())).collect()
    }

    #[cfg(all(feature = "json", any(test, fuzzing)))]
    fn waiting_count(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.held_back.len() + waiting.crowded_out.len()
    }

    /// What is held for the peer's subscribers.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> Subscribed {
        let subscribers = self.subscribers();
        let mut held = Subscribed {
            subscribers: Held::plain::<(RemoteSubscriber, [usize; 3])>(subscribers.len()),
            held_back: Held::plain::<(u32, [usize; 3])>(self.waiting_count()),
            ..Subscribed::default()
        };
        for (backlog, under_way) in subscribers.iter().map(|subscriber| subscriber.held()) {
            held.backlogs += backlog;
            held.under_way += under_way;
        }
        held
    }
}

impl Counted for ClientSubscriptions {
    fn count(&self) -> usize {
        self.len()
    }
}

pub(super) fn too_many() -> String {
    format!("at most {MAX_SUBSCRIPTIONS} subscriptions per connection; drop some")
}
