//! [`Subscription`]: the stream of an event's values, for a subscriber in the service's own process or at a client.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::connection::lock;
use crate::error::{CloseReason, Error};
use crate::event::{Backlog, EventValue, Overflow, Pushed, Registration, Room, Sink};
use crate::feed::FeedHandle;
use crate::sink::Encoded;

/// What a subscription has in place of a value.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The server did not accept the subscription; nothing follows.
    #[error("the subscription was refused: {0}")]
    Refused(Error),
    /// So many values were dropped here, because this subscriber did not keep up.
    #[error("{0} values were lost here: this subscriber did not keep up")]
    Lagged(u64),
    /// A value came that cannot be deserialized: the two sides' types differ. The next may be fine.
    #[error("{0}")]
    Malformed(Error),
    /// The connection was lost and made anew: values that were raised in between are missing here.
    #[error("the connection was made anew; values may be missing here")]
    Reconnected,
    /// The connection has ended; nothing follows.
    #[error("the subscription has ended: {0}")]
    Closed(CloseReason),
}

impl PartialEq for EventError {
    /// Errors within compare by their text.
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Lagged(a), Self::Lagged(b)) => a == b,
            (Self::Reconnected, Self::Reconnected) => true,
            (Self::Closed(a), Self::Closed(b)) => a == b,
            (Self::Refused(a), Self::Refused(b)) | (Self::Malformed(a), Self::Malformed(b)) => {
                a.to_string() == b.to_string()
            }
            _ => false,
        }
    }
}

/// The values of an event, from the moment of subscribing on. Dropping it unsubscribes.
///
/// A [`Stream`]; [`next`](Self::next) spares the import of an extension trait. Values come in the order in which they were
/// raised; [`EventError`] says what may come in their place. It belongs to the client, so it goes on after a reconnect.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use witrpc_core::{Event, EventError};
///
/// let ticked = Event::new().with_capacity(2);
/// let mut ticks = ticked.subscribe();
/// for n in 0..5 {
///     ticked.raise(n)?;
/// }
/// // It did not keep up: three values are missing, and it is told so where they were.
/// assert_eq!(ticks.next().await, Some(Err(EventError::Lagged(3))));
/// assert_eq!(ticks.next().await, Some(Ok(3)));
/// assert_eq!(ticks.next().await, Some(Ok(4)));
/// # Ok::<(), witrpc_core::Error>(())
/// # }).unwrap();
/// ```
pub struct Subscription<T> {
    source: Source<T>,
}

enum Source<T> {
    Local { feed: Arc<LocalFeed<T>>, _registration: Registration },
    Remote(FeedHandle),
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Local { .. } => f.write_str("Subscription(local)"),
            Source::Remote(feed) => f.debug_tuple("Subscription").field(feed).finish(),
        }
    }
}

impl<T: EventValue> Subscription<T> {
    pub(crate) const fn local(feed: Arc<LocalFeed<T>>, registration: Registration) -> Self {
        Self { source: Source::Local { feed, _registration: registration } }
    }

    pub(crate) const fn remote(feed: FeedHandle) -> Self {
        Self { source: Source::Remote(feed) }
    }

    /// The next value, or what came in its place; `None` when nothing follows. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<T, EventError>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, EventError>>> {
        match &mut self.source {
            Source::Local { feed, .. } => feed.poll(cx).map(Some),
            Source::Remote(feed) => feed.poll(cx),
        }
    }
}

impl<T: EventValue> Stream for Subscription<T> {
    type Item = Result<T, EventError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(cx)
    }
}

impl<T> Unpin for Subscription<T> {}

/// A subscriber in the process of the service.
pub(crate) struct LocalFeed<T> {
    state: Mutex<LocalState<T>>,
    room: Arc<Room>,
}

struct LocalState<T> {
    backlog: Backlog<T>,
    /// The number that the next value should have.
    expected: u64,
    waker: Option<Waker>,
    disconnected: bool,
}

impl<T> LocalFeed<T> {
    pub(crate) fn new(overflow: Overflow, capacity: usize, room: Arc<Room>) -> Arc<Self> {
        let backlog = Backlog::new(overflow, capacity);
        let state = LocalState { backlog, expected: 0, waker: None, disconnected: false };
        Arc::new(Self { state: Mutex::new(state), room })
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Result<T, EventError>> {
        let mut state = lock(&self.state);
        if let Some(number) = state.backlog.front_number()
            && number > state.expected
        {
            let lost = number - state.expected;
            state.expected = number;
            return Poll::Ready(Err(EventError::Lagged(lost)));
        }
        let Some((number, value)) = state.backlog.pop() else {
            if state.disconnected {
                let reason = CloseReason::Failed("the subscriber did not keep up".to_owned());
                return Poll::Ready(Err(EventError::Closed(reason)));
            }
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        state.expected = number + 1;
        drop(state);
        self.room.made();
        Poll::Ready(Ok(value))
    }
}

impl<T: EventValue> Sink<T> for LocalFeed<T> {
    fn deliver(&self, value: &T, _encoded: &mut Encoded) -> Result<(), Error> {
        let mut state = lock(&self.state);
        if !state.disconnected && state.backlog.push(value.clone()) == Pushed::Disconnect {
            state.disconnected = true;
        }
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        lock(&self.state).backlog.is_full()
    }
}
