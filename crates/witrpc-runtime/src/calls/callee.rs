//! The two kinds of callee: a client's server, over the current connection; or the peer of one connection, which a handler calls
//! back.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use witrpc_core::Error;
use witrpc_core::transport::BoxFuture;
use witrpc_core::values::serializer::Codec;

use crate::calls::host::CallHost;
use crate::calls::retry::RetryPolicy;
use crate::events::client_subscription::Subscribable;

/// What calls are made to.
pub(crate) trait Callee: Send + Sync + fmt::Debug + 'static {
    fn codec(&self) -> &Codec;

    /// The connection, which may have ended.
    fn connection(&self) -> Result<Arc<dyn CallHost>, Error>;

    /// Completes when there is a connection (again).
    fn connected(&self) -> BoxFuture<'static, ()>;

    /// The policy for retries.
    fn retry(&self) -> Option<&RetryPolicy>;

    /// The same callee, for subscriptions.
    fn subscribable(self: Arc<Self>) -> Arc<dyn Subscribable>;

    /// The client, which must live as long as a stream of its calls is read.
    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>>;
}

/// The callee that a [`Peer`](crate::Peer) holds.
pub(crate) struct PeerCallee(pub(crate) Arc<dyn Callee>);
