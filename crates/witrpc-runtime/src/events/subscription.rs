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
use crate::events::merged::Merged;
use crate::events::subscriber::{EventValue, Registration};

/// The values of an event that are raised after subscribing. Dropping it unsubscribes.
///
/// It is a [`Stream`] of `Result<T, EventError>`. It also has a method [`next`](Self::next), so no extension trait is needed. Values arrive
/// in the order in which they were raised. [`EventError`] lists the items that may arrive in their place. A subscription belongs to the
/// client, not to a connection, so it continues after a reconnection.
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
/// // The capacity is 2, so the three oldest values were dropped.
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
    Merged(Merged),
}

impl<T> fmt::Debug for Subscription<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Local { .. } => f.write_str("Subscription(local)"),
            Source::Remote(subscription) => {
                f.debug_tuple("Subscription").field(subscription).finish()
            }
            Source::Merged(merged) => f.debug_tuple("Subscription").field(merged).finish(),
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

    pub(crate) const fn merged(merged: Merged) -> Self {
        Self { source: Source::Merged(merged) }
    }

    /// Returns the next value, or an [`EventError`] in its place. `None` means that no item follows. It is cancel-safe.
    ///
    /// Within a tokio task it takes part in cooperative scheduling, as tokio's channels do: after about two thousand values, or fewer large
    /// ones, it is pending until the task has yielded, even if more values are there. To take all values without yielding, poll it within
    /// `tokio::task::coop::unconstrained`.
    pub async fn next(&mut self) -> Option<Result<T, EventError>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// What came over a connection and was not taken.
    #[cfg(all(feature = "json", any(test, fuzzing)))]
    pub(crate) fn held(&self) -> Held {
        match &self.source {
            Source::Local { .. } | Source::Merged(_) => Held::default(),
            Source::Remote(subscription) => subscription.held(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, EventError>>> {
        match &mut self.source {
            Source::Local { subscription, .. } => subscription.poll(cx).map(Some),
            Source::Remote(subscription) => subscription.poll(cx),
            Source::Merged(merged) => merged.poll(cx).map(|item| Some(item?.1)),
        }
    }

    /// As `poll`, with the index of the member of a pool that has raised the value.
    pub(crate) fn poll_indexed(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<(usize, Result<T, EventError>)>> {
        match &mut self.source {
            Source::Merged(merged) => merged.poll(cx),
            Source::Local { .. } | Source::Remote(_) => {
                self.poll(cx).map(|item| item.map(|item| (0, item)))
            }
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
