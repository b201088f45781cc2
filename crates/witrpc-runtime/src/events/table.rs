//! Which subscriptions a connection has: ours at the peer, and the peer's here.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use hashlink::LinkedHashSet;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::{Held, Subscribed};
use witrpc_core::session::window::Window;

use crate::context::RaisedTo as _;
use crate::events::backlog::Account;
use crate::events::feed::{Feed, Feeds};
use crate::events::sink::RemoteSink;
use crate::events::subscriber::Registration;
use crate::link::sync::lock;

/// Subscriptions that either side may have at the other at a time: each costs a backlog there. [wire.subscribe]
pub(crate) const MAX_SUBSCRIPTIONS: usize = 4096;
/// Values that a subscriber may let us run ahead: all of them wait here if its peer does not read. Some times what a
/// client of ours asks for.
pub(super) const MAX_WINDOW: u32 = 4096;

/// A connection's part for events.
#[derive(Debug)]
pub(crate) struct Events {
    /// Our subscriptions at the peer.
    pub(super) feeds: Mutex<Feeds>,
    /// Whether they wait for another connection when this one is lost.
    pub(super) keep_feeds: bool,
    /// How far the peer may run ahead of our subscribers.
    pub(super) window: Window,
    /// The peer's subscriptions here.
    pub(super) sinks: Mutex<HashMap<u32, (Arc<RemoteSink>, Registration)>>,
    /// What waits for those, together.
    pub(super) backlogs: Arc<Account>,
    /// Those of them whose values wait for room in the sending queue, by their ids. Taken with the lock of such a one held.
    held_back: Mutex<LinkedHashSet<u32>>,
    /// Whether there are such.
    has_held_back: AtomicBool,
}

impl Events {
    /// For a side that holds so many bytes for its peer.
    pub(crate) fn new(max_buffered: u64, keep_feeds: bool) -> Self {
        Self {
            feeds: Mutex::default(),
            keep_feeds,
            window: Feed::window(max_buffered),
            sinks: Mutex::default(),
            backlogs: Account::new(max_buffered),
            held_back: Mutex::default(),
            has_held_back: AtomicBool::new(false),
        }
    }

    /// Our subscriptions.
    pub(crate) fn feed_count(&self) -> usize {
        lock(&self.feeds).len()
    }

    /// The peer's.
    pub(crate) fn sink_count(&self) -> usize {
        lock(&self.sinks).len()
    }

    /// Takes the subscription of this id out of the table; returns whether it was there.
    pub(crate) fn forget_feed(&self, id: u32) -> bool {
        let feed = lock(&self.feeds).remove(id);
        feed.is_some()
    }

    /// The peer's subscribers.
    pub(super) fn sinks(&self) -> Vec<Arc<RemoteSink>> {
        lock(&self.sinks).values().map(|(sink, _)| Arc::clone(sink)).collect()
    }

    /// Lets the peer's subscribers go: the connection has ended.
    pub(crate) fn drop_sinks(&self) {
        let sinks = std::mem::take(&mut *lock(&self.sinks));
        drop(sinks);
    }

    /// Notes that values of a subscriber wait for room in the sending queue. Whoever makes room says so, and wakes the driver, which
    /// looks at the mark: one of the two sees the other, as all of it is sequentially consistent.
    pub(crate) fn hold_back(&self, subscription: u32) {
        lock(&self.held_back).insert(subscription);
        self.has_held_back.store(true, Ordering::SeqCst);
    }

    /// Whether any wait for room.
    pub(crate) fn has_held_back(&self) -> bool {
        self.has_held_back.load(Ordering::SeqCst)
    }

    /// A subscriber that has gone waits no more.
    pub(super) fn let_go(&self, subscription: u32) {
        lock(&self.held_back).remove(&subscription);
    }

    /// Sends values that waited for room, now that there is some.
    pub(crate) fn resume(&self) {
        // A look first: the swap takes the line from whoever else looks.
        if !self.has_held_back() || !self.has_held_back.swap(false, Ordering::SeqCst) {
            return;
        }
        let held_back = std::mem::take(&mut *lock(&self.held_back));
        for id in held_back {
            let sink = lock(&self.sinks).get(&id).map(|(sink, _)| Arc::clone(sink));
            if let Some(sink) = sink {
                sink.resume();
            }
        }
    }

    /// Sends what waits for the peer's subscribers, as far as they take it. Returns whether that was all.
    pub(crate) fn flush(&self) -> bool {
        let mut all = true;
        for sink in self.sinks() {
            all &= sink.flush_all();
        }
        all
    }

    /// What the peer's subscribers are told last, each the number of its next value. Nothing more is sent to them.
    pub(crate) fn finish(&self) -> Vec<(u32, u64)> {
        self.sinks().iter().map(|sink| (sink.id(), sink.finish())).collect()
    }

    /// What is held for the peer's subscribers.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> Subscribed {
        let sinks = self.sinks();
        let mut held = Subscribed {
            sinks: Held::plain::<(RemoteSink, [usize; 3])>(sinks.len()),
            held_back: Held::plain::<(u32, [usize; 3])>(lock(&self.held_back).len()),
            most_under_way: sinks.iter().map(|sink| sink.most_under_way()).sum(),
            ..Subscribed::default()
        };
        for (backlog, under_way) in sinks.iter().map(|sink| sink.held()) {
            held.backlogs += backlog;
            held.under_way += under_way;
        }
        held
    }
}

pub(super) fn too_many() -> String {
    format!("a connection takes {MAX_SUBSCRIPTIONS} subscriptions at a time")
}
