//! What a subscription yields in place of a value.

use witrpc_core::{CloseReason, Error};

/// An item that a [`Subscription`](crate::Subscription) yields in place of a value. Not every error ends the subscription.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The server refused the subscription. No item follows.
    #[error("the subscription was refused: {0}")]
    Refused(Error),
    /// This many values were dropped here, because this subscriber did not keep up. More items follow.
    #[error("{0} values were dropped here, because this subscriber did not keep up")]
    Lagged(u64),
    /// A value could not be deserialized, because the two sides' types differ. More items follow.
    #[error("{0}")]
    Malformed(Error),
    /// The client has reconnected. Values that were raised in between are missing here. More items follow.
    #[error("the client has reconnected, and values may be missing here")]
    Reconnected,
    /// The connection has ended, and the client does not reconnect automatically. No item follows.
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
