//! What serving needs of its connection.

use tokio::time::Instant;

use crate::context::CallContext;
use crate::serving::table::CallsTaken;
use crate::streams::host::StreamHost;

/// See the module.
pub(crate) trait ServeHost: StreamHost + Sized {
    fn serving(&self) -> &CallsTaken;

    /// How much is left, in nanoseconds, until a deadline that the peer has told; `None` if it has passed. [wire.clock]
    fn time_left(&self, deadline: u64) -> Option<u64>;

    /// A context for a handler.
    fn context(&self, deadline: Option<Instant>) -> CallContext;
}
