//! The sending end of a stream on a connection: the user's stream, the peer's credit, and the streams that wait for the sending
//! queue. The task that polls the user's stream is in [`producer`](crate::streams::producer).
//!
//! The user's stream is polled only while the peer has given credit, and dropped as soon as the peer cancels it. So the task owns
//! it; no table does.
//!
//! # Bound on memory
//!
//! The size of an item is known only after it has been polled. The item then waits for room in the connection's sending queue.
//! While any item waits, only the task that holds the turn polls its stream ([`QueueWaiters`]). So outside of the queue there is at
//! most one batch for each thread that was polling a stream when the first one found no room, and one more. A batch is
//! [`BATCH_BYTES`], and the excess of its last item.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Semaphore;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;
use witrpc_core::session::window::{Allowance, Window};
use witrpc_core::values::attachments::OutgoingStream;
use witrpc_core::values::content::Content;
use witrpc_core::values::serializer::Codec;

use crate::link::reply::Reply;
use crate::locks::{self, Mutex, Rank, WakerPlace};

/// Items that are queued in one step, before the task yields to others.
pub(crate) const BATCH: usize = 32;
/// A batch of this many bytes takes no further item; the limit is less if the whole queue is smaller.
pub(crate) const BATCH_BYTES: u64 = 64 << 10;
/// What a queued item costs in addition to its bytes, for the bound on the queue.
pub(super) const QUEUED_ITEM: u64 = 256;

/// A user's stream that yields serialized items.
pub(crate) trait Produce: Send {
    /// Polls for the next item. `Err` ends the stream with a reason, `None` without one. Not polled again after either.
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        codec: &Codec,
    ) -> Poll<Option<Result<Content, Reply>>>;

    /// Whether it is known that nothing follows the last item. Then the stream ends without credit for another one.
    fn is_over(&self) -> bool {
        false
    }
}

/// A user's stream within a message that has not been queued yet.
pub(crate) struct Source(pub(super) Box<dyn Produce>);

impl Source {
    pub(crate) fn outgoing(stream: impl Produce + 'static, window: u32) -> OutgoingStream {
        OutgoingStream::new(Self(Box::new(stream)), window)
    }
}

/// A connection's state of a stream that it sends.
#[derive(Debug)]
pub(crate) struct StreamSender {
    pub(crate) id: u64,
    /// The largest window, in items, that the peer may choose; 0 is no limit.
    most: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// `None` until the first credit.
    window: Option<Window>,
    left: Allowance,
    cancelled: bool,
    waker: WakerPlace,
    /// Items that were polled and are not queued yet.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    polled: Held,
}

/// The receiver gave more credit than its window has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMuchCredit;

impl StreamSender {
    pub(crate) fn new(id: u64, source: &OutgoingStream) -> Arc<Self> {
        Arc::new(Self {
            id,
            most: source.window(),
            state: Mutex::new(Rank::Stream, State::default()),
        })
    }

    /// Adds credit from the receiver. [wire.stream.credit]
    pub(crate) fn credit(&self, items: u32, bytes: u64) -> Result<(), TooMuchCredit> {
        let mut state = self.state.lock();
        match state.window {
            None => {
                let too_wide = self.most != 0 && items > self.most;
                if items == 0 || bytes == 0 || too_wide {
                    return Err(TooMuchCredit);
                }
                let window = Window { values: items, bytes };
                state.left = Allowance::of(window);
                state.window = Some(window);
            }
            Some(window) => {
                state.left.add(items, bytes);
                let whole = Allowance::of(window);
                if state.left.items > whole.items || state.left.bytes > whole.bytes {
                    return Err(TooMuchCredit);
                }
            }
        }
        state.waker.wake();
        Ok(())
    }

    /// Cancels the stream: its task drops the user's stream.
    pub(crate) fn cancel(&self) {
        let mut state = self.state.lock();
        state.cancelled = true;
        state.waker.wake();
    }

    /// The credit that is left. The task is woken when there is more, or when the stream is cancelled.
    pub(super) fn poll_allowance(&self, cx: &Context<'_>) -> Result<Allowance, Cancelled> {
        locks::with_clone(cx.waker(), |clone| {
            let mut state = self.state.lock();
            if state.cancelled {
                return Some(Err(Cancelled));
            }
            state.waker.leave(cx.waker(), clone).then_some(Ok(state.left))
        })
    }

    pub(super) fn spend(&self, items: &[Content]) {
        let mut state = self.state.lock();
        for item in items {
            state.left.spend(item.size());
        }
        #[cfg(all(feature = "json", any(test, fuzzing)))]
        (state.polled = items.iter().map(Content::held).sum());
    }

    /// Items that were polled and are not queued yet.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn polled(&self) -> Held {
        self.state.lock().polled
    }

    /// Notes that the polled items have been queued.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn have_queued(&self) {
        self.state.lock().polled = Held::default();
    }
}

pub(super) struct Cancelled;

/// The streams of a connection that wait for room in its sending queue.
#[derive(Debug)]
pub(crate) struct QueueWaiters {
    /// The number of waiting streams. Relaxed: it orders no other data, and a stale value costs one more batch at most.
    waiting: AtomicUsize,
    /// The permit to poll a stream while any stream waits.
    pub(super) turn: Arc<Semaphore>,
}

impl Default for QueueWaiters {
    fn default() -> Self {
        Self { waiting: AtomicUsize::new(0), turn: Arc::new(Semaphore::new(1)) }
    }
}

impl QueueWaiters {
    pub(super) fn any(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Counts one waiting stream until the guard is dropped.
    pub(super) fn enter(&self) -> WaitGuard<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        WaitGuard(self)
    }

    /// Fails all waiting streams: the connection has ended.
    pub(crate) fn close(&self) {
        self.turn.close();
    }
}

pub(super) struct WaitGuard<'a>(&'a QueueWaiters);

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::Produce;
    use super::Source;
    use super::StreamSender;
    use super::TooMuchCredit;
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

    fn sender(most: u32) -> Arc<StreamSender> {
        StreamSender::new(0, &Source::outgoing(Nothing, most))
    }

    #[test]
    fn no_more_credit_is_taken_than_was_spent() {
        let sender = sender(0);
        assert_eq!(sender.credit(4, 100), Ok(()));
        assert_eq!(sender.credit(1, 0), Err(TooMuchCredit));
        let items = [Content::plain(Vec::new(), &[0; 60]), Content::plain(Vec::new(), &[0; 70])];
        let sender = self::sender(0);
        assert_eq!(sender.credit(4, 100), Ok(()));
        sender.spend(&items);
        assert_eq!(sender.credit(2, 130), Ok(()));
        assert_eq!(sender.credit(0, 1), Err(TooMuchCredit));
    }

    #[test]
    fn the_window_is_something_and_within_the_producers() {
        assert_eq!(sender(0).credit(0, 1), Err(TooMuchCredit));
        assert_eq!(sender(0).credit(1, 0), Err(TooMuchCredit));
        assert_eq!(sender(8).credit(9, 1), Err(TooMuchCredit));
        assert_eq!(sender(8).credit(8, u64::MAX), Ok(()));
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
