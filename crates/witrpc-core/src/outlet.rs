//! The producing end of a stream on a connection: what is polled for items, how far it may run ahead, and the task
//! that does it.
//!
//! The user's stream is polled only while the peer has given credit for what it yields, and dropped as soon as nobody
//! takes it any more: that is why the task holds it, and no table.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::sync::{AcquireError, OwnedSemaphorePermit};

use crate::connection::{Connection, lock};
use crate::context::CallContext;
use crate::message::Content;
use crate::serializer::Codec;
use crate::served::catch;
use crate::service::{Reply, Status};
use crate::sink::Window;
use crate::wire::len_u64;

/// Items that are handed over in one step, before other tasks get their turn.
const BATCH: usize = 32;
/// What a queued item costs beyond its bytes, for the bound on the queue.
const QUEUED_ITEM: u64 = 256;

/// A user's stream whose items come out serialized.
pub(crate) trait Produce: Send {
    /// The next item; `Err` is an end with a reason, and `None` one without. Not polled again after either.
    fn poll_item(
        &mut self,
        cx: &mut Context<'_>,
        codec: &Codec,
    ) -> Poll<Option<Result<Content, Reply>>>;
}

/// A user's stream on its way to a connection.
pub(crate) struct Source {
    stream: Box<dyn Produce>,
    window: u32,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("window", &self.window).finish_non_exhaustive()
    }
}

impl Source {
    pub(crate) fn new(stream: impl Produce + 'static, window: u32) -> Self {
        Self { stream: Box::new(stream), window }
    }

    /// The most items that may be ahead of the consumer; 0 if the user does not say.
    pub(crate) const fn window(&self) -> u32 {
        self.window
    }
}

/// How much more of a stream may be sent, or may come. Bytes go below nothing by one item.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowance {
    pub(crate) items: u32,
    pub(crate) bytes: i64,
}

impl Allowance {
    pub(crate) fn of(window: Window) -> Self {
        Self { items: window.values, bytes: signed(window.bytes) }
    }

    /// Whether one more item may go, of any size. [wire.stream.credit]
    pub(crate) const fn is_left(self) -> bool {
        self.items > 0 && self.bytes > 0
    }

    pub(crate) fn spend(&mut self, size: u64) {
        self.items = self.items.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(signed(size));
    }

    pub(crate) fn add(&mut self, items: u32, bytes: u64) {
        self.items = self.items.saturating_add(items);
        self.bytes = self.bytes.saturating_add(signed(bytes));
    }
}

pub(crate) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
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
}

/// The consumer gave credit that it cannot have had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overdrawn;

impl Outlet {
    pub(crate) fn new(id: u64, source: &Source) -> Arc<Self> {
        Arc::new(Self { id, most: source.window, state: Mutex::default() })
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
    fn poll_allowance(&self, cx: &Context<'_>) -> Result<Allowance, Cancelled> {
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

    fn spend(&self, items: &[Content]) {
        let mut state = lock(&self.state);
        for item in items {
            state.left.spend(item.size());
        }
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct Cancelled;

/// Polls a stream to its end, and sends what it yields. `context` is that of the handler which returned it.
pub(crate) async fn produce(
    connection: Arc<Connection>,
    outlet: Arc<Outlet>,
    source: Source,
    context: Option<CallContext>,
) {
    let mut producer = Producer { stream: source.stream, connection, outlet, context, number: 0 };
    if let Ok(end) = producer.run().await {
        producer.connection.end_stream(&producer.outlet, end);
    }
    let Producer { stream, context, .. } = producer;
    if let Some(context) = &context {
        context.cancel();
    }
    if let Err(message) = catch(|| drop(stream)) {
        tracing::error!(message, "a stream panicked as it was dropped");
    }
}

struct Producer {
    stream: Box<dyn Produce>,
    connection: Arc<Connection>,
    outlet: Arc<Outlet>,
    context: Option<CallContext>,
    /// Of the last item.
    number: u64,
}

impl Producer {
    async fn run(&mut self) -> Result<Reply, Cancelled> {
        let mut items = Vec::new();
        loop {
            let end = poll_fn(|cx| self.poll_batch(cx, &mut items)).await?;
            if !items.is_empty() {
                let is_full = items.len() == BATCH;
                let bytes = items.iter().map(|item| item.size() + QUEUED_ITEM).sum();
                let permit = self.room(bytes).await?;
                let first = self.number + 1;
                self.number += len_u64(items.len());
                if !self.connection.send_items(&self.outlet, first, items.drain(..), permit) {
                    return Err(Cancelled);
                }
                if is_full && end.is_none() {
                    tokio::task::yield_now().await;
                }
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
    }

    /// Takes what the user's stream has ready and the consumer has given credit for; then its end, if it has come to it.
    fn poll_batch(
        &mut self,
        cx: &mut Context<'_>,
        items: &mut Vec<Content>,
    ) -> Poll<Result<Option<Reply>, Cancelled>> {
        let mut left = self.outlet.poll_allowance(cx)?;
        let mut end = None;
        while end.is_none() && items.len() < BATCH && left.is_left() {
            match self.poll_item(cx) {
                Poll::Ready(Ok(item)) => {
                    left.spend(item.size());
                    items.push(item);
                }
                Poll::Ready(Err(reply)) => end = Some(reply),
                Poll::Pending => break,
            }
        }
        self.outlet.spend(items);
        if items.is_empty() && end.is_none() { Poll::Pending } else { Poll::Ready(Ok(end)) }
    }

    /// The next item, or how the stream ends.
    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Result<Content, Reply>> {
        let codec = &self.connection.codec;
        let stream = &mut self.stream;
        let mut poll = || catch(|| stream.poll_item(cx, codec));
        let polled = match &self.context {
            Some(context) => context.enter(poll),
            None => poll(),
        };
        let limit = self.connection.peer_limits.max_message_size;
        Poll::Ready(match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Some(Ok(item)))) if item.size() > limit => {
                Err(Reply::too_large(item.size(), limit))
            }
            Ok(Poll::Ready(Some(item))) => item,
            Ok(Poll::Ready(None)) => Err(Reply::text(Status::Ok, "")),
            Err(message) => {
                tracing::error!(message, "a stream panicked");
                Err(Reply::text(Status::Panicked, &message))
            }
        })
    }

    /// Waits for a place in the sending queue, unless the stream is cancelled.
    async fn room(&mut self, bytes: u64) -> Result<OwnedSemaphorePermit, Cancelled> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // What alone is more than the whole queue waits for all of it.
        let bytes = bytes.min(self.connection.queue_len());
        let queue = self.connection.bytes();
        if let Ok(permit) = Arc::clone(queue).try_acquire_many_owned(bytes) {
            return Ok(permit);
        }
        let mut permit = pin!(Arc::clone(queue).acquire_many_owned(bytes));
        poll_fn(|cx| {
            self.outlet.poll_allowance(cx)?;
            permit.as_mut().poll(cx).map_err(|_: AcquireError| Cancelled)
        })
        .await
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("outlet", &self.outlet).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, Outlet, Overdrawn, Produce, Source};
    use crate::message::Content;
    use crate::serializer::Codec;
    use crate::service::Reply;
    use std::sync::Arc;
    use std::task::{Context, Poll};

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
        Outlet::new(0, &Source::new(Nothing, most))
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
