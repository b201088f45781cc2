//! The peer of one connection as a callee, which a handler calls back.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, Weak};

use witrpc_core::transport::BoxFuture;
use witrpc_core::values::serializer::Codec;
use witrpc_core::{CloseReason, Error};

use crate::calls::callee::Callee;
use crate::calls::host::CallHost;
use crate::calls::retry::RetryPolicy;
use crate::events::client_subscription::{ClientSubscription, Subscribable};
use crate::events::error::EventError;
use crate::events::host::EventHost;
use crate::events::remote_event::EventSource;
use crate::events::subscribing::Subscribes;

/// The peer of a connection; holds the connection weakly.
pub(crate) struct ConnectedPeer<C> {
    connection: Weak<C>,
    codec: Codec,
    /// This side's `max_buffered`.
    max_buffered: u64,
}

impl<C> ConnectedPeer<C> {
    pub(super) const fn new(connection: Weak<C>, codec: Codec, max_buffered: u64) -> Self {
        Self { connection, codec, max_buffered }
    }

    fn upgrade(&self) -> Result<Arc<C>, Error> {
        let gone = Error::Closed { reason: CloseReason::PeerGone, maybe_executed: false };
        self.connection.upgrade().ok_or(gone)
    }
}

impl<C: fmt::Debug> fmt::Debug for ConnectedPeer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.connection.upgrade()).finish()
    }
}

impl<C: CallHost + EventHost + fmt::Debug> Callee for ConnectedPeer<C> {
    fn codec(&self) -> &Codec {
        &self.codec
    }

    fn connection(&self) -> Result<Arc<dyn CallHost>, Error> {
        Ok(self.upgrade()?)
    }

    /// There is no other connection.
    fn connected(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }

    fn retry(&self) -> Option<&RetryPolicy> {
        None
    }

    fn events(self: Arc<Self>) -> Arc<dyn EventSource> {
        self
    }

    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

/// Its subscriptions end with the connection.
impl<C: EventHost + fmt::Debug> Subscribable for ConnectedPeer<C> {
    fn codec(&self) -> &Codec {
        &self.codec
    }

    fn max_buffered(&self) -> u64 {
        self.max_buffered
    }

    fn add_subscription(&self, subscription: &Arc<ClientSubscription>) {
        match self.upgrade() {
            Ok(connection) => connection.subscribe(subscription),
            Err(_) => subscription.end(EventError::Closed(CloseReason::PeerGone)),
        }
    }

    fn remove_subscription(&self, _subscription: &Arc<ClientSubscription>) {}

    fn kept_by_resources(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
