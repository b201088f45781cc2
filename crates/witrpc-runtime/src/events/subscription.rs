//! [`Subscription`]: the stream of an event's values, for a subscriber in the service's process or at a client.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
#[cfg(all(feature = "json", any(test, fuzzing)))]
use witrpc_core::held::Held;

use crate::events::client_subscription::SubscriptionHandle;
use crate::events::error::EventError;
use crate::events::local_subscriber::LocalSubscriber;
use crate::events::subscriber::{EventValue, Registration};

/// The values of an event, from the moment of subscribing on. Dropping it unsubscribes.
///
/// A [`Stream`] of `Result<T, EventError>`, with a method [`next`](Self::next) so that no extension trait is needed. Values arrive in the
/// order in which they were raised; [`EventError`] lists what may arrive in their place. A subscription belongs to the client, so it
/// continues after a reconnection.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use witrpc::{Event, EventError};
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
/// # Ok::<(), witrpc::Error>(())
/// # }).unwrap();
/// ```
pub struct Subscription<T> {
    source: Source<T>,
}

enum Source<T> {
    Local { subscription: Arc<LocalSubscriber<T>>, _registration: Registration },
    Remote(SubscriptionHandle),
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Local { .. } => f.write_str("Subscription(local)"),
            Source::Remote(subscription) => {
                f.debug_tuple("Subscription").field(subscription).finish()
            }
        }
    }
}

impl<T: EventValue> Subscription<T> {
    pub(super) const fn local(
        subscription: Arc<LocalSubscriber<T>>,
        registration: Registration,
    ) -> Self {
        Self { source: Source::Local { subscription, _registration: registration } }
    }

    pub(crate) const fn remote(subscription: SubscriptionHandle) -> Self {
        Self { source: Source::Remote(subscription) }
    }

    /// The next value, or what came in its place; `None` when nothing follows. Cancel-safe. Within a task of tokio's it takes part in
    /// cooperative scheduling, as tokio's channels do: after some two thousand values, and fewer large ones, it is pending until the task has
    /// yielded, although more are there. To take what is there without a yield, poll it within `tokio::task::coop::unconstrained`.
    pub async fn next(&mut self) -> Option<Result<T, EventError>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// What came over a connection and was not taken.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> Held {
        match &self.source {
            Source::Local { .. } => Held::default(),
            Source::Remote(subscription) => subscription.held(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, EventError>>> {
        match &mut self.source {
            Source::Local { subscription, .. } => subscription.poll(cx).map(Some),
            Source::Remote(subscription) => subscription.poll(cx),
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
