//! What a subscription yields in place of a value.

use witrpc_core::{CloseReason, Error};

/// What a subscription yields in place of a value.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventError {
    /// The server did not accept the subscription; nothing follows.
    #[error("the subscription was refused: {0}")]
    Refused(Error),
    /// This many values were dropped here, because this subscriber did not keep up.
    #[error("{0} values were dropped here, because this subscriber did not keep up")]
    Lagged(u64),
    /// A value arrived that cannot be deserialized: the two sides' types differ. More values follow.
    #[error("{0}")]
    Malformed(Error),
    /// The client has connected again: values that were raised in between are missing here. More values follow.
    #[error("the client has reconnected, and values may be missing here")]
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
