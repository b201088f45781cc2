//! The producing end of a stream on a connection: what is polled for items, how far it may run ahead, and the task
//! that does it.
//!
//! The user's stream is polled only while the peer has given credit for what it yields, and dropped as soon as nobody
//! takes it any more: that is why the task holds it, and no table.
//!
//! # What is held
//!
//! What an item takes up is known once it has been polled; then it waits for room in the connection's sending queue. Beside
//! the queue there are so at most as many batches as threads were polling streams when the first of them found no room, and
//! one more: while any waits, only who has the turn polls ([`Crowd`]). A batch is [`BATCH_BYTES`], and what its last item
//! has beyond.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::sync::Semaphore;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::window::{Allowance, Window};
use witrpc_core::values::attachments::OutgoingStream;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;

use crate::link::reply::Reply;
use crate::link::sync::lock;

/// Items that are handed over in one step, before other tasks get their turn.
pub(crate) const BATCH: usize = 32;
/// Bytes from which on a batch takes no further item, unless the whole queue has less.
pub(crate) const BATCH_BYTES: u64 = 64 << 10;
/// What a queued item costs beyond its bytes, for the bound on the queue.
pub(super) const QUEUED_ITEM: u64 = 256;

/// A user's stream whose items come out serialized.
pub(crate) trait Produce: Send {
    /// The next item; `Err` is an end with a reason, and `None` one without. Not polled again after either.
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        codec: &Codec,
    ) -> Poll<Option<Result<Content, Reply>>>;
}

/// A user's stream on its way to a connection, as a message carries it.
pub(crate) struct Source(pub(super) Box<dyn Produce>);

impl Source {
    pub(crate) fn outgoing(stream: impl Produce + 'static, window: u32) -> OutgoingStream {
        OutgoingStream::new(Self(Box::new(stream)), window)
    }
}

/// What a connection knows of a stream that it produces.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) id: u64,
    /// The largest window that it takes; 0 is any.
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Known from the first credit on.
    window: Option<Window>,
    left: Allowance,
    cancelled: bool,
    waker: Option<Waker>,
    /// Items that were polled, and are not queued.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    polled: Held,
}

/// The consumer gave credit that it cannot have had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overdrawn;

impl Outlet {
    pub(crate) fn new(id: u64, source: &OutgoingStream) -> Arc<Self> {
        Arc::new(Self { id, most: source.window(), state: Mutex::default() })
    }

    /// The consumer takes this much more. [wire.stream.credit]
    pub(crate) fn credit(&self, items: u32, bytes: u64) -> Result<(), Overdrawn> {
        let mut state = lock(&self.state);
        match state.window {
            None => {
                let too_wide = self.most != 0 && items > self.most;
                if items == 0 || bytes == 0 || too_wide {
                    return Err(Overdrawn);
                }
                let window = Window { values: items, bytes };
                state.left = Allowance::of(window);
                state.window = Some(window);
            }
            Some(window) => {
                state.left.add(items, bytes);
                let whole = Allowance::of(window);
                if state.left.items > whole.items || state.left.bytes > whole.bytes {
                    return Err(Overdrawn);
                }
            }
        }
        state.wake();
        Ok(())
    }

    /// Nobody takes it any more: the task drops the user's stream.
    pub(crate) fn cancel(&self) {
        let mut state = lock(&self.state);
        state.cancelled = true;
        state.wake();
    }

    /// What may be sent now. The task is woken when it becomes more, or the stream is cancelled.
    pub(super) fn poll_allowance(&self, cx: &Context<'_>) -> Result<Allowance, Cancelled> {
        let mut state = lock(&self.state);
        if state.cancelled {
            return Err(Cancelled);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Ok(state.left)
    }

    pub(super) fn spend(&self, items: &[Content]) {
        let mut state = lock(&self.state);
        for item in items {
            state.left.spend(item.size());
        }
        #[cfg(all(feature = "json", any(test, fuzzing)))]
        (state.polled = items.iter().map(Content::held).sum());
    }

    /// Items that were polled, and are not queued.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn polled(&self) -> Held {
        lock(&self.state).polled
    }

    /// They are queued now.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn have_queued(&self) {
        lock(&self.state).polled = Held::default();
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

pub(super) struct Cancelled;

/// The streams of a connection whose items wait for room in its sending queue.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// How many there are. Relaxed: it carries no other data, and a look that comes too late costs one batch more.
    waiting: AtomicUsize,
    /// The turn to poll while there are any.
    pub(super) turn: Arc<Semaphore>,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Crowd {
    pub(super) fn is_there(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Counts one more until what is returned is dropped.
    pub(super) fn join(&self) -> Joined<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Joined(self)
    }

    /// Nothing waits any more: the connection has ended.
    pub(crate) fn close(&self) {
        self.turn.close();
    }
}

pub(super) struct Joined<'a>(&'a Crowd);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Outlet;
    use super::Overdrawn;
    use super::Produce;
    use super::Source;
    use crate::link::reply::Reply;
    use std::sync::Arc;
    use std::task::{Context, Poll};
    use witrpc_core::session::window::Allowance;
    use witrpc_core::values::content::Content;
    use witrpc_core::values::serializer::Codec;

    struct Nothing;

    impl Produce for Nothing {
        fn poll_item(
            &mut self,
            _: &mut Context<'_>,
            _: &Codec,
        ) -> Poll<Option<Result<Content, Reply>>> {
            Poll::Ready(None)
        }
    }

    fn outlet(most: u32) -> Arc<Outlet> {
        Outlet::new(0, &Source::outgoing(Nothing, most))
    }

    #[test]
    fn no_more_credit_is_taken_than_was_spent() {
        let outlet = outlet(0);
        assert_eq!(outlet.credit(4, 100), Ok(()));
        assert_eq!(outlet.credit(1, 0), Err(Overdrawn));
        let items = [Content::plain(Vec::new(), &[0; 60]), Content::plain(Vec::new(), &[0; 70])];
        let outlet = self::outlet(0);
        assert_eq!(outlet.credit(4, 100), Ok(()));
        outlet.spend(&items);
        assert_eq!(outlet.credit(2, 130), Ok(()));
        assert_eq!(outlet.credit(0, 1), Err(Overdrawn));
    }

    #[test]
    fn the_window_is_something_and_within_the_producers() {
        assert_eq!(outlet(0).credit(0, 1), Err(Overdrawn));
        assert_eq!(outlet(0).credit(1, 0), Err(Overdrawn));
        assert_eq!(outlet(8).credit(9, 1), Err(Overdrawn));
        assert_eq!(outlet(8).credit(8, u64::MAX), Ok(()));
    }

    #[test]
    fn one_item_goes_beyond_the_bytes() {
        let mut left = Allowance { items: 3, bytes: 1 };
        assert!(left.is_left());
        left.spend(1000);
        assert!(!left.is_left());
        left.add(1, 1000);
        assert!(left.is_left());
    }
}
