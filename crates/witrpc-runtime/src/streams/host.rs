//! The interface by which streams use their connection.

use std::sync::{Arc, Weak};

use crate::context::{CallContext, SideChannel};
use crate::link::host::Host;
use crate::streams::table::Streams;

/// A connection as its streams see it.
pub(crate) trait StreamHost: Host {
    fn streams(&self) -> &Streams;

    /// A context like that of this connection's handlers, without a deadline.
    fn handler_context(&self) -> CallContext;

    /// What the transport gives besides its records; `None` once the connection has ended.
    fn side_channel(&self) -> Option<SideChannel>;

    /// Whether the transport gives anything besides its records.
    fn has_side_channel(&self) -> bool;

    /// A weak reference to the connection.
    fn stream_host(&self) -> Weak<dyn StreamHost>;

    /// A strong reference to the connection; `None` once it has been dropped.
    fn shared_stream_host(&self) -> Option<Arc<dyn StreamHost>> {
        self.stream_host().upgrade()
    }
}
