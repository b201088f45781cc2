//! Who answers a remote contract: a client's server, over whichever connection there is at the moment; or the peer of one
//! connection, which a handler calls back.

use std::fmt;
use std::sync::{Arc, Weak};

use crate::client::ClientCore;
use crate::connection::Connection;
use crate::error::{CloseReason, Error};
use crate::feed::Feed;
use crate::reconnect::ClientState;
use crate::retry::RetryPolicy;
use crate::serializer::Codec;
use crate::subscription::EventError;
use crate::transport::BoxFuture;

/// See the module.
#[derive(Clone)]
pub(crate) enum Callee {
    Server(Arc<ClientCore>),
    Peer(Arc<PeerCallee>),
}

/// The other side of one connection, which it does not keep alive.
pub(crate) struct PeerCallee {
    pub(crate) connection: Weak<Connection>,
    pub(crate) codec: Codec,
    /// What this side holds for it.
    pub(crate) max_buffered: u64,
}

#[cfg(all(test, feature = "json"))]
impl PeerCallee {
    /// One without a connection.
    pub(crate) fn nobody(codec: Codec) -> Self {
        Self { connection: Weak::new(), codec, max_buffered: 0 }
    }
}

impl fmt::Debug for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(client) => f.debug_tuple("Server").field(&client.endpoint()).finish(),
            Self::Peer(peer) => f.debug_tuple("Peer").field(&peer.connection.upgrade()).finish(),
        }
    }
}

impl Callee {
    pub(crate) fn codec(&self) -> &Codec {
        match self {
            Self::Server(client) => client.codec(),
            Self::Peer(peer) => &peer.codec,
        }
    }

    /// The connection, which may have ended.
    pub(crate) fn connection(&self) -> Result<Arc<Connection>, Error> {
        match self {
            Self::Server(client) => client.connection(),
            Self::Peer(peer) => peer
                .connection
                .upgrade()
                .ok_or(Error::Closed { reason: CloseReason::PeerGone, maybe_executed: false }),
        }
    }

    /// Completes when there is a connection (again).
    pub(crate) fn connected(&self) -> BoxFuture<'static, ()> {
        let Self::Server(client) = self else { return Box::pin(std::future::pending()) };
        // In this order: one that comes in between is seen twice, and not missed.
        let mut state = client.watch_state();
        if client.connection().is_ok_and(|connection| connection.closed().is_none()) {
            return Box::pin(std::future::ready(()));
        }
        Box::pin(async move {
            while state.changed().await.is_ok() {
                if *state.borrow_and_update() == ClientState::Connected {
                    return;
                }
            }
            std::future::pending().await
        })
    }

    /// Which calls are made once more. Another connection comes to clients only.
    pub(crate) fn retry(&self) -> Option<&RetryPolicy> {
        match self {
            Self::Server(client) => client.habits.retry.as_ref(),
            Self::Peer(_) => None,
        }
    }

    /// What this side holds for the other.
    pub(crate) fn max_buffered(&self) -> u64 {
        match self {
            Self::Server(client) => client.max_buffered(),
            Self::Peer(peer) => peer.max_buffered,
        }
    }

    /// Takes a new subscription in: a client keeps it over its connections, a peer's ends with its one.
    pub(crate) fn add_feed(&self, feed: &Arc<Feed>) {
        match self {
            Self::Server(client) => client.add_feed(feed),
            Self::Peer(_) => match self.connection() {
                Ok(connection) => connection.subscribe(feed),
                Err(_) => feed.end(EventError::Closed(CloseReason::PeerGone)),
            },
        }
    }

    /// Forgets a subscription.
    pub(crate) fn remove_feed(&self, feed: &Arc<Feed>) {
        if let Self::Server(client) = self {
            client.remove_feed(feed);
        }
    }
}
