//! The interface by which serving uses its connection.

use tokio::time::Instant;
use witrpc_core::wire::frame::Nesting;

use crate::context::{CallContext, Peer};
use crate::serving::table::CallsTaken;
use crate::streams::host::StreamHost;

/// A connection as serving sees it.
pub(crate) trait ServeHost: StreamHost + Sized {
    fn serving(&self) -> &CallsTaken;

    /// The nanoseconds that are left until a deadline that the peer sent; `None` if it has passed. [wire.clock]
    fn time_left(&self, deadline: u64) -> Option<u64>;

    /// The peer, as handlers see it.
    fn caller(&self) -> &Peer;

    /// A context for a handler.
    fn context(&self, deadline: Option<Instant>, nesting: Nesting) -> CallContext;
}
