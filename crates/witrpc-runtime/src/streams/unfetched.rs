//! A bound on the [resources](crate::streams::resource) that this side keeps because the peer has not fetched them.
//!
//! A peer fetches those of a value as it takes the value. So a peer that takes nothing would have this side keep some for each value of its
//! window, and they are scarcer than bytes: a process may have a thousand descriptors. While [`MOST`] of a subscription or of a stream
//! wait to be fetched, its next value waits, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Context;

use crate::locks::{Mutex, Rank, WakerPlace, with_clone};

/// So many resources of a subscription, or of a stream, may wait to be fetched, and as many in a backlog. The value that reaches the limit
/// may have any number of them.
pub(crate) const MOST: usize = 64;

/// Whoever sends values with resources.
pub(crate) trait Sender: Send + Sync {
    /// The peer has fetched one of them, or will not.
    fn was_fetched(&self);
}

/// A resource that the peer has not fetched, until this is dropped.
pub(crate) struct Unfetched(Arc<dyn Sender>);

impl Unfetched {
    pub(crate) fn new(sender: &Arc<dyn Sender>) -> Self {
        Self(Arc::clone(sender))
    }
}

impl Drop for Unfetched {
    fn drop(&mut self) {
        self.0.was_fetched();
    }
}

/// The resources of a stream's items.
#[derive(Debug)]
pub(crate) struct OfStream {
    /// Relaxed: the lock orders it.
    count: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of the task that polls the stream.
    waker: WakerPlace,
}

impl OfStream {
    pub(crate) fn new() -> Arc<Self> {
        let state = Mutex::new(Rank::Stream, State::default());
        Arc::new(Self { count: AtomicUsize::new(0), state })
    }

    /// An item has so many.
    pub(crate) fn add(&self, count: usize) {
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    /// Whether there may be more. If not, the task is woken when there may.
    pub(crate) fn has_room(&self, cx: &Context<'_>) -> bool {
        let has_room = || self.count.load(Ordering::Relaxed) < MOST;
        has_room()
            || with_clone(cx.waker(), |clone| {
                let mut state = self.state.lock();
                state.waker.leave(cx.waker(), clone).then(has_room)
            })
    }
}

impl Sender for OfStream {
    fn was_fetched(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake, Waker};

    use super::{MOST, OfStream, Sender, Unfetched};

    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_stream_waits_while_the_most_are_not_fetched() {
        let woken = Arc::new(Counter(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let stream = OfStream::new();
        let sender: Arc<dyn Sender> = Arc::clone(&stream) as _;
        stream.add(MOST - 1);
        assert!(stream.has_room(&cx));
        stream.add(2);
        let [first, second] = [Unfetched::new(&sender), Unfetched::new(&sender)];
        assert!(!stream.has_room(&cx));
        drop(first);
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(!stream.has_room(&cx), "it has one more than it may");
        drop(second);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(stream.has_room(&cx));
    }
}
