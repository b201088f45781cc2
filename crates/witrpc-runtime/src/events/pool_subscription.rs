//! [`PoolSubscription`]: the values of an event of all members of a pool, each with its member's index.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::events::error::EventError;
use crate::events::subscriber::EventValue;
use crate::events::subscription::Subscription;

/// The values of an event that the members of a pool raise after subscribing, each with the index of its member. Dropping it unsubscribes.
///
/// It is a [`Stream`] of `(usize, Result<T, EventError>)`. The values of one member arrive in the order in which they were raised. Those of
/// several have no order between them. Members that join later are subscribed at before they get a call. A member that has left yields
/// [`EventError::Closed`] last; the subscription goes on with the others, and ends with the pool.
#[derive(Debug)]
#[must_use = "dropping the subscription ends it"]
pub struct PoolSubscription<T> {
    subscription: Subscription<T>,
}

impl<T: EventValue> PoolSubscription<T> {
    pub(crate) const fn new(subscription: Subscription<T>) -> Self {
        Self { subscription }
    }

    /// Returns the next value of any member, or an [`EventError`] in its place, and the member's index. `None` means that no item follows. It
    /// is cancel-safe, and yields to other tasks as [`Subscription::next`] does.
    pub async fn next(&mut self) -> Option<(usize, Result<T, EventError>)> {
        std::future::poll_fn(|cx| self.subscription.poll_indexed(cx)).await
    }
}

impl<T: EventValue> Stream for PoolSubscription<T> {
    type Item = (usize, Result<T, EventError>);

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().subscription.poll_indexed(cx)
    }
}
