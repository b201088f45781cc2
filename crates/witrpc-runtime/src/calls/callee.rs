//! Who answers a remote contract: a client's server, over whichever connection there is at the moment; or the peer of one
//! connection, which a handler calls back.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use witrpc_core::Error;
use witrpc_core::transport::BoxFuture;
use witrpc_core::values::serializer::Codec;

use crate::calls::host::CallHost;
use crate::calls::retry::RetryPolicy;
use crate::events::client_subscription::Subscribable;

/// See the module.
pub(crate) trait Callee: Send + Sync + fmt::Debug + 'static {
    fn codec(&self) -> &Codec;

    /// The connection, which may have ended.
    fn connection(&self) -> Result<Arc<dyn CallHost>, Error>;

    /// Completes when there is a connection (again).
    fn connected(&self) -> BoxFuture<'static, ()>;

    /// Which calls are made once more.
    fn retry(&self) -> Option<&RetryPolicy>;

    /// The same, for subscriptions.
    fn subscribable(self: Arc<Self>) -> Arc<dyn Subscribable>;

    /// What must live as long as somebody reads a stream of its: a client.
    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>>;
}

/// The peer of a connection, as [`Peer`](crate::Peer) has it.
pub(crate) struct PeerCallee(pub(crate) Arc<dyn Callee>);
