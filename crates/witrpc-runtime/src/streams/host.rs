//! What streams need of their connection.

use std::sync::{Arc, Weak};

use crate::context::CallContext;
use crate::link::host::Host;
use crate::streams::table::Streams;

/// See the module.
pub(crate) trait StreamHost: Host {
    fn streams(&self) -> &Streams;

    /// A context as handlers of this connection have it, without a deadline.
    fn handler_context(&self) -> CallContext;

    /// The connection, for what outlives a borrow.
    fn stream_host(&self) -> Weak<dyn StreamHost>;

    /// The same, kept alive; `None` once it is gone.
    fn shared_stream_host(&self) -> Option<Arc<dyn StreamHost>> {
        self.stream_host().upgrade()
    }
}
