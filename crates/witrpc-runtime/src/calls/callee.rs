//! The kinds of callee: a client's server, over the current connection; the peer of one connection, which a handler calls back; or the
//! members of a pool, one of which is chosen for each call.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use tokio::runtime::Handle;
use witrpc_core::Error;
use witrpc_core::transport::BoxFuture;
use witrpc_core::values::serializer::Codec;

use crate::calls::host::CallHost;
use crate::calls::retry::RetryPolicy;
use crate::events::remote_event::EventSource;

/// What calls are made to.
pub(crate) trait Callee: Send + Sync + fmt::Debug + 'static {
    fn codec(&self) -> &Codec;

    /// The connection, which may have ended.
    fn connection(&self) -> Result<Arc<dyn CallHost>, Error>;

    /// The same, for a call. A callee that has several connections chooses one, and says so in `assigned`.
    fn connection_for_call(
        &self,
        assigned: &mut Option<Assigned>,
    ) -> Result<Arc<dyn CallHost>, Error> {
        let _one_connection = assigned;
        self.connection()
    }

    /// What a call waits for if there is no connection for it. `None`: it fails.
    fn awaited(self: Arc<Self>) -> Option<Awaited> {
        None
    }

    /// Completes when there is a connection (again).
    fn connected(&self) -> BoxFuture<'static, ()>;

    /// The policy for retries.
    fn retry(&self) -> Option<&RetryPolicy>;

    /// The same callee, for subscriptions.
    fn events(self: Arc<Self>) -> Arc<dyn EventSource>;

    /// The client, which must live as long as a stream of its calls is read.
    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>>;
}

/// A call's place at one of several connections. It is counted there until it is dropped.
pub(crate) struct Assigned(pub(crate) Arc<dyn Assignee>);

/// Who counts the calls that it was chosen for.
pub(crate) trait Assignee: Send + Sync {
    /// One of them has ended.
    fn release(&self);

    /// The client, which must live as long as a stream of its calls is read.
    fn kept_by_streams(self: Arc<Self>) -> Option<Arc<dyn Any + Send + Sync>>;
}

impl Drop for Assigned {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// Completes when a call may look for a connection again.
pub(crate) struct Awaited {
    pub(crate) until: BoxFuture<'static, ()>,
    /// The runtime whose timer the call's deadline uses meanwhile.
    pub(crate) runtime: Option<Handle>,
}

/// The callee that a [`Peer`](crate::Peer) holds.
pub(crate) struct PeerCallee(pub(crate) Arc<dyn Callee>);
